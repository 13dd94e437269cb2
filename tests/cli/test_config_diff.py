"""`citadel config diff`: what services run with beside what is on disk.

What services run with is written down here by the code that they do it with, for this very process; that they
do it is seen in tests/services, and under systemd in tests/lab.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from citadel_llm.config import load
from citadel_llm.services.running import Running, file_of

from .machine import Run

TREE: dict[str, Any] = {
    "environment": "staging",
    "engine": {"build": "cpu"},
    "gateway": {"workers": 2, "limits": {"tokens_per_minute": 100, "store": "redis://10.0.0.1/0"}},
    "models": [{"name": name, "source": {"kind": "folder", "path": "/w"}} for name in ("one", "two.5")],
}


class Host:
    """Its configuration, and what its services wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config"
        self.run_dir = folder / "run"
        (self.config / "global").mkdir(parents=True)
        self.configure(**TREE)

    def configure(self, **tree: Any) -> None:
        text = yaml.safe_dump({**TREE, "run_dir": str(self.run_dir), **tree})
        (self.config / "global" / "a.yml").write_text(text)

    def runs(self, service: str, **more: Any) -> None:
        """A service that runs with what is on disk now, in this process."""
        file_of(self.run_dir, service).parent.mkdir(parents=True, exist_ok=True)
        settings = load(self.config).model_dump(mode="json")
        Running(service, **{"settings": settings, "start_seconds": 1.0, **more}).write(self.run_dir)

    def line_of(self, text: str) -> str:
        path = self.config / "global" / "a.yml"
        lines = path.read_text().splitlines()
        [number] = [number for number, line in enumerate(lines, 1) if line.strip() == text]
        return f"{path}:{number}"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    for service in ("gateway", "gateway.2", "engine@one", "engine@two.5"):
        made.runs(service)
    return made


def found(run: Run, *names: str) -> list[dict[str, str]]:
    result = run("config", "diff", *names, "--json")
    differences: list[dict[str, str]] = json.loads(result.output)
    assert result.exit_code == (1 if differences else 0)
    return differences


def test_none(run: Run, host: Host) -> None:
    assert found(run) == []
    said = run("config", "diff").output
    assert said == "no difference: one, two.5, gateway, gateway.2 run with what is on disk\n"


def test_only_those_that_read_a_setting_differ(run: Run, host: Host) -> None:
    models = [{**TREE["models"][0], "weight_bytes": 5}, {**TREE["models"][1], "engine": {"dtype": "float16"}}]
    host.configure(models=models)
    [difference] = found(run)
    assert difference == {
        "service": "two.5",
        "setting": "models[two.5].engine.dtype",
        "running": "'auto'",
        "on_disk": "'float16'",
        "where": host.line_of("dtype: float16"),
        "variable": "",
        "ended_by": "citadel restart two.5",
    }
    assert found(run, "gateway") == []
    result = run("config", "diff")
    assert "two.5" in result.output
    assert "  citadel restart two.5: models[two.5].engine.dtype\n" in result.output
    assert "--tags config" in result.output


@pytest.mark.parametrize(
    ("tree", "ended_by"),
    [
        ({"gateway": {**TREE["gateway"], "port": 9000}}, {"gateway": "citadel reload gateway"}),
        ({"logging": {"level": "debug"}}, {"gateway": "citadel reload gateway", "one": "citadel reload one"}),
        ({"engine": {"build": "cpu", "cache_dir": "/c"}}, {"one": "citadel restart one"}),
        ({"models": TREE["models"][1:]}, {"one": "ansible-playbook site.yml --tags config"}),
        ({"models": TREE["models"][::-1]}, {}),
        (
            {"gateway": {**TREE["gateway"], "drain_timeout_seconds": 1}},
            {"gateway.2": "ansible-playbook site.yml --tags config"},
        ),
    ],
)
def test_what_ends_it(run: Run, host: Host, tree: dict[str, Any], ended_by: dict[str, str]) -> None:
    host.configure(**tree)
    by = {one["service"]: one["ended_by"] for one in found(run)}
    assert {name: by.get(name) for name in ended_by} == ended_by
    assert bool(by) == bool(ended_by)


def test_a_model_that_only_one_side_has_is_one_difference(run: Run, host: Host) -> None:
    host.configure(models=[*TREE["models"], {**TREE["models"][0], "name": "three"}])
    assert [(one["setting"], one["running"], one["on_disk"]) for one in found(run, "gateway")] == [
        ("models[three]", "not there", "there"),
        ("models[three]", "not there", "there"),
    ]


def test_a_variable_over_a_setting_is_told_and_those_of_whoever_asks_do_not_count(
    run: Run, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITADEL__GATEWAY__PORT", "9000")
    host.runs("gateway")
    monkeypatch.delenv("CITADEL__GATEWAY__PORT")
    monkeypatch.setenv("CITADEL__GATEWAY__DOCS", "false")
    [difference] = found(run)
    assert (difference["running"], difference["on_disk"], difference["where"]) == ("9000", "8000", "default")
    assert difference["variable"] == "CITADEL__GATEWAY__PORT"
    assert difference["ended_by"] == "take CITADEL__GATEWAY__PORT out of its unit"


def test_what_a_killed_service_left_behind_does_not_count(run: Run, host: Host) -> None:
    host.configure(gateway={"port": 1})
    for path in host.run_dir.glob("settings/*/*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "began": 1}))
    assert found(run) == []
    assert "no service runs" in run("config", "diff").output


def test_a_reload_that_failed_is_told(run: Run, host: Host) -> None:
    host.runs("gateway", reload_failed="no listener")
    said = run("config", "diff").output.splitlines()
    assert said[-1] == "gateway goes on as it was, for its last reload failed: no listener"
    assert not any("one goes on" in line for line in said)


def test_passwords_are_hidden_and_numbers_of_tokens_are_not(run: Run, host: Host) -> None:
    limits = {"tokens_per_minute": 200, "store": "redis://user@10.0.0.1/0"}
    host.configure(gateway={"limits": limits})
    by = {one["setting"]: one for one in found(run, "gateway")}
    assert by["gateway.limits.tokens_per_minute"]["on_disk"] == "200"
    settings = load(host.config).model_dump(mode="json")
    settings["gateway"]["database"] = "postgresql://u:hunter2@db/c"
    host.runs("gateway", settings=settings)
    result = run("config", "diff", "gateway")
    assert "<hidden>" in result.output
    assert "hunter2" not in result.output


def test_a_configuration_that_is_wrong_is_told_as_such(run: Run, host: Host) -> None:
    host.configure(gateway={"prot": 1})
    result = run("config", "diff")
    assert result.exit_code == 2
    assert "did you mean 'port'?" in result.output


def test_who_may_not_read_it_is_told_who_may(run: Run, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be read is played: these tests may be root's."""

    def refuse(path: Path) -> None:
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(Running, "read", refuse)
    result = run("config", "diff")
    assert result.exit_code == 4
    assert "for root and the operator's group" in result.output
