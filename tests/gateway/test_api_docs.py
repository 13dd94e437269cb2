"""What the gateway exports must stand in its documentation, and the documentation must name nothing else."""

import re
from pathlib import Path

import pytest
from starlette.routing import compile_path

from citadel_llm.gateway.access_log import AccessLine
from citadel_llm.gateway.app import create_app
from citadel_llm.gateway.errors import _SHAPES, CLIENT_GONE_STATUS
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.gateway.metrics_page import WORKER_UP
from citadel_llm.gateway.paths import INFERENCE_PATHS

from .gateway_site import Site

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def api() -> str:
    return (DOCS / "api.md").read_text()


def _section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def _first_cells(table: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))


def _paths(table: str) -> set[str]:
    return {cell for cell in _first_cells(table) if re.match("[A-Z]+ /", cell)}


def test_every_metric_is_documented(api: str) -> None:
    exported = {WORKER_UP}
    for family in GatewayMetrics().collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        if family.name.startswith("citadel_gateway_"):
            exported.add(family.name + suffix)
    assert _first_cells(_section(api, "Metrics")) == exported


def test_every_metrics_labels_are_documented(api: str, site: Site) -> None:
    for line in _section(api, "Metrics").splitlines():
        if not line.startswith("| `citadel"):
            continue
        name, _, labels, _ = (cell.strip() for cell in line.strip("|").split("|"))
        name, documented = name.strip("`"), set(re.findall(r"`(\w+)`", labels))
        for collector in GatewayMetrics().registry._collector_to_names:
            if getattr(collector, "_name", None) == re.sub("_(total|info)$", "", name):
                known = set(getattr(collector, "_labelnames", ())) or (
                    {"version"} if "build" in name else set()
                )
                assert documented == known, name


def test_every_path_is_documented(api: str, site: Site) -> None:
    served = set()
    for path, item in create_app(site.settings).openapi()["paths"].items():
        served |= {f"{method.upper()} {path}" for method in item}
    documented = _paths(_section(api, "Paths"))
    # Those of other chapters stand there.
    for chapter in ("Admin", "Usage"):
        if f"\n## {chapter}\n" in api:
            documented |= _paths(_section(api, chapter))
    assert documented == served | {"GET /docs", "GET /openapi.json"}
    for each in documented:
        method, path = each.split()
        regex, _, _ = compile_path(path)
        assert regex.match(path)
        answer = site.http.request(method, re.sub(r"\{\w+\}", "x", path), headers=site.auth)
        assert answer.status_code != 405
        assert "unknown_url" not in answer.text
    for inference in INFERENCE_PATHS:
        for name in inference.also:
            assert f"`{name}`" in _section(api, "Paths")
            assert site.http.post(name, headers=site.auth).status_code == 400


def test_every_error_is_documented(api: str) -> None:
    row = r"^\| (\d+) \| `?(\w+)`? \| `(\w+)` \| `(\w+)` \|"
    rows = re.findall(row, _section(api, "Errors"), re.MULTILINE)
    documented = {(int(s), None if code == "none" else code, kind, theirs) for s, code, kind, theirs in rows}
    assert documented == {
        (shape.status, shape.code, shape.type, shape.anthropic_type)
        for shape in _SHAPES.values()
        if shape.status != CLIENT_GONE_STATUS
    }


def test_the_log_lines_fields_are_documented() -> None:
    page = (DOCS / "tasks" / "007-api-gateway.md").read_text()
    for field in AccessLine.__struct_fields__:
        assert f"`{field}`" in page
