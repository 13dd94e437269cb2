"""What the gateway exports must stand in its documentation, and the documentation must name nothing else."""

import re
from pathlib import Path

import pytest
from starlette.routing import compile_path

from citadel_llm.config import Gateway
from citadel_llm.gateway.app import create_app
from citadel_llm.gateway.errors import _SHAPES, CLIENT_GONE_STATUS
from citadel_llm.gateway.metrics import GatewayMetrics

from .gateway_site import Site

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def api() -> str:
    return (DOCS / "api.md").read_text()


def _section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def _first_cells(table: str) -> set[str]:
    return set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))


def test_every_metric_is_documented(api: str) -> None:
    exported = set()
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
    documented = _first_cells(_section(api, "Paths"))
    assert documented == served | {"GET /docs", "GET /openapi.json"}
    for each in documented:
        method, path = each.split()
        regex, _, _ = compile_path(path)
        assert regex.match(path)
        answer = site.http.request(method, path.replace("{model}", "x"), headers=site.auth)
        assert answer.status_code != 405
        assert "unknown_url" not in answer.text


def test_every_error_is_documented(api: str) -> None:
    rows = re.findall(r"^\| (\d+) \| `?(\w+)`? \| `(\w+)` \|", _section(api, "Errors"), re.MULTILINE)
    documented = {(int(status), None if code == "none" else code, kind) for status, code, kind in rows}
    shapes = {(s.status, s.code, s.type) for s in _SHAPES.values() if s.status != CLIENT_GONE_STATUS}
    assert documented == shapes


def test_every_setting_is_documented_with_its_default() -> None:
    table = _section((DOCS / "tasks" / "007-api-gateway.md").read_text(), "Settings")
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^`|]+?)`? \|", table, re.MULTILINE))
    assert set(rows) == set(Gateway.model_fields)
    defaults = Gateway().model_dump(mode="json")
    for name, shown in rows.items():
        if name == "metrics_allow":
            assert shown == "loopback"
        elif defaults[name] is None:
            assert shown == "none"
        elif isinstance(defaults[name], bool):
            assert shown == str(defaults[name]).lower()
        elif isinstance(defaults[name], int | float):
            assert float(shown) == defaults[name]
        else:
            assert shown == defaults[name]


def test_the_log_lines_fields_are_documented() -> None:
    page = (DOCS / "tasks" / "007-api-gateway.md").read_text()
    source = (DOCS.parent / "src/citadel_llm/gateway/middleware.py").read_text()
    fields = re.findall(
        r"^            (\w+)=", source.split('"request",')[1].split("\n        )")[0], re.MULTILINE
    )
    assert len(fields) == 11
    for field in fields:
        assert f"`{field}`" in page
