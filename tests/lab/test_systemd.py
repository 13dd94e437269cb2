"""citadel_llm.services.systemd against the systemd of a lab host."""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import PROJECT, OwnLab

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts are root's")]

HOST = {"name": "citadel-test-5", "address": "10.89.14.15"}
_NOTIFY = (
    "import socket,os,time; s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); n=os.environ['NOTIFY_SOCKET']"
)
UNITS = {
    "quick": """[Unit]
StartLimitIntervalSec=0
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
""",
    "slow": f"""[Service]
Type=notify
ExecStart=/usr/bin/python3 -c "{_NOTIFY}; s.sendto(b'STATUS=loading',n); time.sleep(1); \\
 s.sendto(b'READY=1\\\\nSTATUS=ready',n); time.sleep(1e6)"
ExecReload=/bin/sh -c 'sleep 0.5'
""",
    "broken": "[Service]\nType=oneshot\nExecStart=/bin/false",
    "hangs": "[Service]\nType=notify\nTimeoutStartSec=1\nExecStart=/bin/sleep 1000",
    "needs": "[Unit]\nRequires=broken.service\nAfter=broken.service\n[Service]\nExecStart=/bin/true",
}


class Host:
    def __init__(self, lab: OwnLab) -> None:
        self.lab = lab
        self.root = lab.root_of(HOST)

    def install(self) -> None:
        """The package and the library that it needs for this, and units to try it with."""
        for name, text in UNITS.items():
            (self.root / f"etc/systemd/system/{name}.service").write_text(text)
        site = self.root / "opt/citadel/site"
        lines = (PROJECT / "requirements/app.txt").read_text().splitlines()
        pinned = next(line.split()[0] for line in lines if line.startswith("dbus-fast=="))
        python = self.do("python3 --version").split()[1].rpartition(".")[0]
        words = ["pip", "install", "--quiet", f"--python-version={python}", "--only-binary=:all:"]
        words += ["--python-platform=x86_64-unknown-linux-gnu", f"--target={site}", pinned]
        subprocess.run([Path(sys.executable).with_name("uv"), *words], check=True)
        shutil.copytree(PROJECT / "src", self.root / "opt/citadel/src")
        shutil.copy(PROJECT / "tests/lab/systemd_probe.py", self.root / "opt/citadel")
        self.do("chmod -R go+rX /opt/citadel; systemctl daemon-reload")

    def do(self, command: str) -> str:
        done = self.lab.ssh(HOST, f"sudo sh -c {json.dumps(command)}")
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def probe(self, *words: str) -> Any:
        return json.loads(self.do(f"python3 /opt/citadel/systemd_probe.py {' '.join(words)}"))

    def property(self, unit: str, name: str) -> str:
        return self.do(f"systemctl show --value --property={name} {unit}")


@pytest.fixture(scope="module")
def host(lab: OwnLab) -> Iterator[Host]:
    lab("up", HOST)
    try:
        host = Host(lab)
        host.install()
        yield host
    finally:
        lab("down", HOST)


@pytest.fixture
def stopped(host: Host) -> Host:
    host.do("systemctl stop slow quick hangs; systemctl reset-failed")
    return host


class Watch:
    """`changes`, as they come."""

    def __init__(self, host: Host, *units: str) -> None:
        config = host.lab.state_dir / "ssh/config"
        command = f"sudo python3 /opt/citadel/systemd_probe.py watch {' '.join(units)}"
        self._words = ["ssh", "-F", str(config), "-o", "BatchMode=yes", HOST["name"], command]
        self._lines: queue.Queue[str] = queue.Queue()

    def __enter__(self) -> "Watch":
        self._process = subprocess.Popen(
            self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._reader.join()
        assert self._process.stdout
        self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The changes up to the first of which this holds."""
        seen = []
        while True:
            seen.append(json.loads(self._lines.get(timeout=20)))
            if holds(seen[-1]):
                return seen


def test_a_start_lasts_until_the_service_is_ready(stopped: Host) -> None:
    assert stopped.probe("start", "slow.service") == "done"
    state = stopped.probe("state", "slow.service")
    assert (state["active_state"], state["sub_state"], state["status_text"]) == ("active", "running", "ready")
    assert str(state["main_pid"]) == stopped.property("slow", "MainPID")
    assert round(state["active_enter"] * 1e6) == int(
        stopped.property("slow", "ActiveEnterTimestampMonotonic")
    )
    assert stopped.probe("reload", "slow.service") == "done"
    assert stopped.probe("stop", "slow.service") == "done"
    assert stopped.property("slow", "ActiveState") == "inactive"


def test_no_end_of_a_quick_job_is_missed(stopped: Host) -> None:
    assert stopped.probe("many", "quick.service") == "done"


def test_two_who_ask_for_the_same_get_the_same_answer(stopped: Host) -> None:
    assert stopped.probe("both", "slow.service") == "done"


@pytest.mark.parametrize(
    ("unit", "result"),
    [("broken.service", "failed"), ("hangs.service", "failed"), ("needs.service", "dependency")],
)
def test_a_job_that_fails_says_how(stopped: Host, unit: str, result: str) -> None:
    said = stopped.probe("start", unit)
    assert (said["error"], said["result"]) == ("JobFailedError", result)


def test_a_failure_is_forgotten(stopped: Host) -> None:
    stopped.probe("start", "broken.service")
    assert stopped.probe("state", "broken.service")["active_state"] == "failed"
    assert stopped.probe("reset_failed", "broken.service") == "done"
    assert stopped.probe("state", "broken.service")["active_state"] == "inactive"
    assert stopped.probe("reset_failed", "nobody.service") == "done"


def test_a_unit_that_is_not_there(host: Host) -> None:
    assert host.probe("state", "nobody.service")["load_state"] == "not-found"
    said = host.probe("start", "nobody.service")
    assert said["error"] == "NoSuchUnitError"
    assert said["says"] == "start nobody.service: Unit nobody.service not found."


def test_who_may_not(host: Host) -> None:
    done = host.lab.ssh(HOST, "python3 /opt/citadel/systemd_probe.py restart quick.service")
    assert json.loads(done.stdout)["error"] == "NotPermittedError"


def test_changes_come_as_they_happen(stopped: Host) -> None:
    with Watch(stopped, "slow.service", "quick.service") as watch:
        first = watch.until(lambda state: state["unit"] == "quick.service")
        assert [state["active_state"] for state in first] == ["inactive", "inactive"]
        stopped.do("systemctl start slow")
        moves = watch.until(lambda state: state["status_text"] == "ready" and not state["job"])
        assert {"activating"} <= {state["active_state"] for state in moves}
        assert "loading" in [state["status_text"] for state in moves]
        # systemd starts itself anew, as after an update of it, and forgets nobody.
        stopped.do("systemctl daemon-reexec")
        stopped.do("kill -KILL $(systemctl show --value --property=MainPID slow)")
        assert watch.until(lambda state: state["active_state"] == "failed")[-1]["result"] == "signal"
        # The bus itself is lost and comes again.
        stopped.do("systemctl restart dbus.service")
        stopped.do("systemctl start slow")
        watch.until(lambda state: state["active_state"] == "active")


def test_a_job_outlives_a_new_start_of_systemd(stopped: Host) -> None:
    stopped.do(
        "(until [ $(systemctl is-active slow) = activating ]; do sleep 0.1; done; systemctl daemon-reexec) "
        ">/dev/null 2>&1 &"
    )
    assert stopped.probe("start", "slow.service") == "done"


def test_a_host_on_its_way_down_knows_it(host: Host) -> None:
    assert host.probe("down") is False
