"""The validation's verdicts and reports, and that its checks stand on the tasks' checklists."""

import json
from pathlib import Path

import pytest
from checks.items import TASKS
from checks.recorder import Recorder
from checks.report import FAILED, NOT_PROVEN, PASSED, Finding, Report, judge, markdown, table
from checks.site import Site

from .modules import ROOT

CHECKS = ROOT / "roles/validation/files/checks"
ACCOUNTS, RIGHTS = "citadel user and group created", "User permissions established"


@pytest.fixture
def site() -> Site:
    """A site with nothing behind it."""
    return Site(
        host="server",
        connection={"kind": "local"},
        api_url="http://127.0.0.1:1",
        api_scheme="http",
        answer_timeout=1,
        root="/opt/citadel",
        user="citadel",
        group="citadel",
        models_root="/models",
        logs_root="/logs",
        environment="production",
        engine_build="cpu",
        gateways=["citadel-gateway.service"],
        models=[
            {"name": "a", "task": "embed", "plan": {"residency": "resident"}},
            {"name": "rests", "plan": {"residency": "warm"}},
            {"name": "not-served", "runtime": "transformers"},
            {"name": "b", "plan": {"residency": "resident"}},
        ],
        api_port=8000,
        monitoring_sources=[],
        prometheus_port=9090,
        node_exporter_port=9100,
        key_file="/key",
        hardware_report="/hardware.json",
        external_services=[],
    )


def run_checks(site: Site, folder: Path, code: str, pytester_options: tuple[str, ...] = ()) -> Report:
    """Run checks as the role does."""
    (folder / "check_it.py").write_text(f"import pytest\n{code}")
    recorder = Recorder(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        pytest.main(
            [
                "-c",
                str(CHECKS / "pytest.ini"),
                "-p",
                "no:cacheprovider",
                "-q",
                *pytester_options,
                str(folder),
            ],
            plugins=[recorder],
        )
    return recorder.report(everything=False)


def test_a_check_that_passes_fails_or_cannot_be_made(site: Site, tmp_path: Path) -> None:
    report = run_checks(
        site,
        tmp_path,
        f"""
@pytest.mark.item("002", "{ACCOUNTS}")
def check_one(evidence):
    evidence("seen")

@pytest.mark.item("002", "{RIGHTS}")
def check_two(evidence):
    evidence("what was seen before")
    assert 1 == 2, "one is not two"

@pytest.mark.item("002", "Access control configured")
def check_three(not_proven):
    not_proven("there is no way to know")

@pytest.fixture
def broken():
    raise RuntimeError("no connection")

@pytest.mark.item("002", "SSH access configured")
def check_four(broken):
    pass
""",
    )
    found = {verdict.item: (verdict.outcome, verdict.evidence) for verdict in report.verdicts}
    assert found == {
        ACCOUNTS: (PASSED, ["seen"]),
        RIGHTS: (FAILED, ["one is not two; what was seen before"]),
        "Access control configured": (NOT_PROVEN, ["there is no way to know"]),
        "SSH access configured": (FAILED, ["no connection"]),
    }
    assert report.failed
    assert report.summary() == "server: 1 passed, 2 failed, 1 not proven here, of 4"


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([PASSED], PASSED),
        ([PASSED, NOT_PROVEN], NOT_PROVEN),
        ([NOT_PROVEN, FAILED, PASSED], FAILED),
    ],
)
def test_an_item_is_what_its_worst_check_is(outcomes: list[str], verdict: str) -> None:
    [judged] = judge([Finding("002", RIGHTS, outcome, "") for outcome in outcomes], everything=False)
    assert judged.outcome == verdict


def test_what_nobody_looked_at_is_not_proven() -> None:
    verdicts = judge([Finding("002", RIGHTS, PASSED, "")], everything=True)
    assert len(verdicts) == sum(len(items) for _, items in TASKS.values()) == 94
    assert sum(verdict.outcome == PASSED for verdict in verdicts) == 1


def test_refuses_an_item_that_is_on_no_checklist() -> None:
    with pytest.raises(ValueError, match="not on any checklist"):
        judge([Finding("002", "made up", PASSED, "")], everything=False)


def test_the_report_says_the_same_in_each_form() -> None:
    findings = [Finding("002", ACCOUNTS, PASSED, "a | b\nc"), Finding("002", RIGHTS, FAILED, "not | so")]
    report = Report("server", "2026-01-01T00:00:00+00:00", judge(findings, everything=False))
    lines = table(report).splitlines()
    assert lines[0].startswith(f"ok   002 {ACCOUNTS}")
    assert lines[1].startswith(f"FAIL 002 {RIGHTS}")
    assert lines[-1].startswith("server: 1 passed, 1 failed, 0 not proven here, of 2")
    page = markdown(report)
    assert f"| {ACCOUNTS} | passed | a \\| b c |" in page
    assert "## Task-002: Environment Setup" in page
    assert json.loads(report.as_json())["counts"] == {FAILED: 1, NOT_PROVEN: 0, PASSED: 1}


def test_every_item_has_a_check_and_every_check_an_item() -> None:
    marked: set[tuple[str, str]] = set()

    class Collector:
        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            for item in items:
                marks = [mark.args for mark in item.iter_markers("item")]
                assert marks, f"{item.nodeid} proves no item"
                marked.update(marks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        options = ["-c", str(CHECKS / "pytest.ini"), "-p", "no:cacheprovider", "-q", "--collect-only"]
        assert pytest.main([*options, str(CHECKS)], plugins=[Collector()]) == 0
    assert marked == {(task, item) for task, (_, items) in TASKS.items() for item in items}


def test_knows_what_belongs_to_a_site(site: Site) -> None:
    assert [model["name"] for model in site.served_models] == ["a", "rests", "b"]
    assert site.engines == ["citadel-engine@a.service", "citadel-engine@b.service"]
    assert site.engines_on_demand == ["citadel-engine@rests.service"]
    assert site.writing_model == "b"
