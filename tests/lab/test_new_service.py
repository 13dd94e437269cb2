"""The new service that docs/services.md shows, on a lab host: program and unit as they stand there."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .conftest import PROJECT, OwnLab
from .deployed import place_application

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts are root's")]

HOST = {"name": "citadel-test-23", "address": "10.89.14.23"}
UNIT = "clock.service"
_PYTHON = """#!/bin/sh
PYTHONPATH=/opt/citadel/current/src:/opt/citadel/site exec /usr/bin/python3 "$@"
"""


class Clock:
    """A lab host with the service of the docs."""

    def __init__(self, lab: OwnLab) -> None:
        self.lab = lab

    def do(self, command: str) -> str:
        done = self.lab.ssh(HOST, f"sudo sh -c {json.dumps(command)}")
        assert done.returncode == 0, done.stdout + done.stderr + self.do(f"journalctl -u {UNIT} -o cat")
        return done.stdout.strip()

    def property(self, name: str) -> str:
        return self.do(f"systemctl show --value --property={name} {UNIT}")

    def events(self) -> list[str]:
        """What the service logged, in order."""
        lines = self.do(f"journalctl --unit={UNIT} --output=cat --no-pager").splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith("{")]

    def install(self) -> None:
        root = self.lab.root_of(HOST) / "opt/citadel"
        text = (PROJECT / "docs/services.md").read_text()
        [program] = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        [unit] = re.findall(r"^```ini\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        python = root / "current/venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(_PYTHON)
        python.chmod(0o755)
        (root / "clock.py").write_text(program)
        (root.parents[1] / "etc/systemd/system" / UNIT).write_text(unit)
        self.configure(level="info")
        place_application(self.lab.root_of(HOST), self.do("python3 --version").split()[1].rpartition(".")[0])
        self.do("chmod -R go+rX /opt/citadel; systemctl daemon-reload")

    def configure(self, **logging: Any) -> None:
        file = self.lab.root_of(HOST) / "opt/citadel/config/global/citadel.yml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"environment": "development", "logging": {"format": "json", **logging}}))


@pytest.fixture(scope="module")
def clock(lab: OwnLab) -> Iterator[Clock]:
    lab("up", HOST)
    try:
        clock = Clock(lab)
        clock.install()
        yield clock
    finally:
        lab("down", HOST)


def until(true: Callable[[], object], within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.25)


def test_it_lives_as_the_page_says(clock: Clock) -> None:
    # Ready: only then does systemctl come back.
    clock.do(f"systemctl start {UNIT}")
    assert clock.property("ActiveState") == "active"
    assert clock.events() == ["ready"]
    until(lambda: "ticks" in clock.property("StatusText"))

    # Reload: the same process, with the new settings; wrong ones change nothing.
    first = clock.property("MainPID")
    clock.configure(level="warning")
    clock.do(f"systemctl reload {UNIT}")
    until(lambda: clock.property("ActiveState") == "active")
    clock.configure(level="loud")
    clock.do(f"systemctl reload {UNIT}")
    until(lambda: "the configuration is wrong" in clock.events())
    assert clock.property("MainPID") == first
    clock.configure(level="info")

    # The watchdog: one that hangs is ended and started again.
    clock.do(f"kill -STOP {first}")
    until(lambda: clock.property("NRestarts") == "1" and clock.property("ActiveState") == "active")
    assert clock.property("MainPID") != first
    assert "watchdog" in clock.do(f"journalctl --unit={UNIT} --output=cat --no-pager").lower()

    # Drain and stop, in good order.
    began = time.monotonic()
    clock.do(f"systemctl stop {UNIT}")
    assert time.monotonic() - began >= 1
    assert (clock.property("ActiveState"), clock.property("Result")) == ("inactive", "success")
    assert clock.events()[-2:] == ["ready", "stopped"]


def test_settings_that_cannot_work_are_no_reason_to_try_again(clock: Clock) -> None:
    clock.configure(level="loud")
    clock.do(f"systemctl start {UNIT} || true")
    assert (clock.property("ActiveState"), clock.property("ExecMainStatus")) == ("failed", "2")
    assert clock.property("NRestarts") == "0"
