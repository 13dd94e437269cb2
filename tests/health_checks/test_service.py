"""The health checks as systemd runs them: `citadel run health`, a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.services.notify_socket import NotifySocket

QUICK = {"interval_seconds": 0.1, "failures": 1, "successes": 1}


class Service:
    """The service, with its configuration and what it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notify = NotifySocket(folder / "notify")
        self.thing = folder / "thing"

    def configure(self, **health: Any) -> None:
        """Write its settings. None of the built-in checks is made: what they look at is not here."""
        families = ("unit", "gateway", "ready", "engine", "disk", "memory", "cpu")
        off = {family: {"enabled": False} for family in families}
        tree = {
            "environment": "staging",
            "run_dir": str(self.folder / "run"),
            "health": {"built_in": off, **health},
        }
        (self.folder / "global").mkdir(exist_ok=True)
        (self.folder / "global/a.yml").write_text(yaml.safe_dump(tree))

    def start(self) -> subprocess.Popen[str]:
        environment = os.environ | {
            "NOTIFY_SOCKET": str(self.notify.path),
            "CITADEL_CONFIG": str(self.folder),
        }
        command = [sys.executable, "-m", "citadel_llm.cli", "run", "health"]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def check(self, **options: Any) -> dict[str, Any]:
        """A check that is well as long as a file is there."""
        return {
            "name": "thing",
            "kind": "command",
            "command": ["/usr/bin/ls", str(self.thing)],
            **QUICK,
            **options,
        }

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "run/health/state.json").read_text()))

    def statuses(self) -> dict[str, str]:
        return {each["check"]: each["status"] for each in self.state()["checks"]}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.notify.close()


@pytest.fixture
def run(service: Service) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    processes = []

    def start() -> subprocess.Popen[str]:
        processes.append(service.start())
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_tells_how_things_are_takes_new_checks_and_ends(
    service: Service, run: Callable[[], subprocess.Popen[str]]
) -> None:
    service.configure(checks=[service.check()])
    service.thing.touch()
    process = run()
    service.notify.wait_for("READY", "1", 30)
    until(lambda: service.statuses() == {"thing": "ok"})
    service.notify.wait_for("STATUS", "1 checks ok")

    service.thing.unlink()
    until(lambda: service.statuses() == {"thing": "failed"})
    assert "failed: thing" in service.notify.wait_for("STATUS")["STATUS"]
    since = service.state()["checks"][0]["since"]

    service.configure(checks=[service.check(), {"name": "more", "kind": "disk", "path": "/", **QUICK}])
    process.send_signal(signal.SIGHUP)
    until(lambda: service.statuses().keys() == {"thing", "more"})
    until(lambda: service.statuses()["more"] in {"ok", "warning", "failed"})
    assert service.state()["checks"][0]["since"] == since, "what is known stays known"

    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert not service.state()["running"]
    assert (service.folder / "run/health/metrics.prom").read_text() == ""


def test_checks_that_cannot_be_end_it_for_good(
    service: Service, run: Callable[[], subprocess.Popen[str]]
) -> None:
    ring = {"memory": {"depends_on": ["cpu"]}, "cpu": {"depends_on": ["memory"]}}
    service.configure(built_in=ring)
    output, _ = (process := run()).communicate(timeout=30)
    assert process.returncode == 2
    assert "memory -> cpu -> memory" in output
