"""The gateway's hand-over under systemd, on a lab host: clients ask all the time, and nothing of it is lost.

The gateway's unit is the deployed one, and its code this tree's, on the host's own Python; the engine is the
tests' fake. What is not looked at here is the deployment itself: molecule/full does that.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest

from .conftest import PROJECT, OwnLab
from .deployed import place_application, render_unit

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts are root's")]

MODEL = "chat-model"
# Of its own, for several gateways at once want more memory than the other tests' hosts have.
HOST = {"name": "citadel-test-4", "address": "10.89.14.14"}
UNIT = "citadel-gateway.service"
_ENGINE = (
    "systemd-run --quiet --unit=fake-engine --setenv=PYTHONPATH=/opt/citadel/site:/opt/citadel/test "
    "python3 /opt/citadel/test/hand_over_engine.py"
)


class Gateway:
    """A lab host with the gateway's unit, its code and an engine; each command is root's."""

    def __init__(self, lab: OwnLab) -> None:
        self.lab = lab
        self.root = lab.root_of(HOST)
        self.key = ""

    def do(self, command: str, *, fails: bool = False) -> str:
        done = self.lab.ssh(HOST, f"sudo sh -c {json.dumps(command)}")
        assert (done.returncode != 0) == fails, f"{command}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout.strip()

    def journal(self) -> str:
        return self.lab.ssh(
            HOST, f"sudo journalctl --unit={UNIT} --priority=warning --output=cat --no-pager -n 40"
        ).stdout

    def property(self, name: str) -> str:
        return self.do(f"systemctl show --value --property={name} {UNIT}")

    def install(self) -> None:
        """What the roles would: accounts, code, settings, folders, the unit."""
        test = self.root / "opt/citadel/test"
        place_application(self.root, self.do("python3 --version").split()[1].rpartition(".")[0])
        fakes = test / "tests/gateway"
        fakes.mkdir(parents=True, exist_ok=True)
        for name in ("hand_over_load.py", "hand_over_engine.py"):
            shutil.copy(PROJECT / "tests/lab" / name, test)
        for name in ("__init__.py", "fake_engine.py", "vllm_answers.py"):
            shutil.copy(PROJECT / "tests/gateway" / name, fakes)
        self.configure()
        self.write_unit()
        self.do(
            "useradd --system citadel-gateway; mkdir -p /run/citadel/engines /opt/citadel/config; "
            "install -d -m 700 -o citadel-gateway -g citadel-gateway /var/lib/citadel/gateway; "
            "chmod -R go+rX /opt/citadel; systemctl daemon-reload; "
            # As a deployment does, for the services may not write there.
            "python3 -m compileall -q /opt/citadel/site /opt/citadel/current/src || true"
        )
        made = self.do(
            "CITADEL_CONFIG=/opt/citadel/config runuser -u citadel-gateway -- "
            "/opt/citadel/current/venv/bin/citadel keys create --name lab"
        )
        self.key = next(word for word in made.split() if word.startswith("ck-"))
        self.do(f"{_ENGINE} {MODEL} /run/citadel/engines/{MODEL}.sock 2.5")

    def start(self) -> None:
        """Start it, and wait until it can reach its engine."""
        self.do(f"systemctl start {UNIT}")

        def ready() -> bool:
            with contextlib.suppress(OSError):
                return bool(urlopen(f"http://{HOST['address']}:8000/ready", timeout=5).status == 200)
            return False

        _until(ready)

    def configure(self, **gateway: Any) -> None:
        settings = {
            "environment": "development",
            "gateway": gateway,
            "models": [{"name": MODEL, "source": {"kind": "folder", "path": "/nowhere"}}],
            "engine": {"build": "cpu"},
        }
        file = self.root / "opt/citadel/config/global/citadel.yml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))

    def write_unit(self, revision: str = "first") -> None:
        """The deployed unit, from its template."""
        units = self.root / "etc/systemd/system"
        (units / UNIT).write_text(render_unit(f"{UNIT}.j2"))
        (units / f"{UNIT}.d").mkdir(exist_ok=True)
        (units / f"{UNIT}.d/citadel.conf").write_text(f"[Service]\nEnvironment=CITADEL_REVISION={revision}\n")


@pytest.fixture(scope="module")
def gateway(lab: OwnLab) -> Iterator[Gateway]:
    lab("up", HOST, lab_host_memory=4096)
    try:
        gateway = Gateway(lab)
        gateway.install()
        gateway.start()
        yield gateway
    finally:
        lab("down", HOST)


class Load:
    """The clients, asking as long as the context lasts."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.said: dict[str, Any] = {}

    def __enter__(self) -> "Load":
        script = f"python3 /opt/citadel/test/hand_over_load.py {self.gateway.key} {MODEL}"
        config = self.gateway.lab.state_dir / "ssh/config"
        words = ["ssh", "-F", str(config), "-o", "BatchMode=yes", HOST["name"], script]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        out = self._process.communicate(timeout=60)[0]
        self.said = json.loads(out)


def test_five_hand_overs_lose_no_request(gateway: Gateway) -> None:
    restarts = gateway.property("NRestarts")
    processes = [gateway.property("MainPID")]
    with Load(gateway) as load:
        for number in range(5):
            # A new release with new settings, as a deploy leaves them before it reloads.
            gateway.configure(max_body_bytes=1_000_000 + number)
            gateway.write_unit(f"revision-{number}")
            gateway.do("systemctl daemon-reload")
            gateway.do(f"systemctl reload {UNIT}")
            processes.append(gateway.property("MainPID"))
            environment = gateway.do(f"cat /proc/{processes[-1]}/environ")
            assert f"CITADEL_REVISION=revision-{number}" in environment
    assert load.said["failures"] == []
    assert len(set(processes)) == 6
    assert gateway.property("ActiveState") == "active"
    assert gateway.property("NRestarts") == restarts
    done = load.said["done"]
    # So much that it could have gone wrong, and each kind of it.
    assert done["new connection"] > 50
    assert done["kept connection"] > 50
    assert done["stream"] >= 16
    assert load.said["told_to_close"] >= 5
    # The old ones have ended by themselves, when their idle connections had.
    _until(lambda: gateway.do("pgrep -u citadel-gateway | wc -l") == "1", within=120)


def test_a_signal_hands_over_too(gateway: Gateway) -> None:
    before = gateway.property("MainPID")
    with Load(gateway) as load:
        gateway.do(f"kill -HUP {before}")
        _until(lambda: gateway.property("MainPID") != before)
    assert load.said["failures"] == []
    _until(lambda: gateway.property("SubState") == "running")


def test_a_configuration_that_does_not_come_up_leaves_the_old_one(gateway: Gateway) -> None:
    before = gateway.property("MainPID")
    with Load(gateway) as load:
        gateway.configure(port="none")
        gateway.do(f"systemctl reload {UNIT}", fails=True)
        gateway.configure(database="postgresql://u@h/d", database_password={"file": "/nonexistent"})
        gateway.do(f"systemctl reload {UNIT}", fails=True)
    gateway.configure()
    assert load.said["failures"] == []
    assert gateway.property("MainPID") == before
    assert gateway.property("ActiveState") == "active"
    assert "the configuration is wrong" in gateway.journal()


def test_a_restart_by_hand_makes_clients_wait_and_loses_none(gateway: Gateway) -> None:
    with Load(gateway) as load:
        gateway.do(f"systemctl restart {UNIT}")
    assert load.said["failures"] == []


def test_a_killed_gateway_comes_back_on_the_socket_that_systemd_keeps(gateway: Gateway) -> None:
    before = gateway.property("MainPID")
    port = gateway.do("ss --listening --tcp --numeric --no-header --extended sport = :8000")
    gateway.do(f"kill -KILL {before}")
    _until(lambda: gateway.property("MainPID") not in {"0", before})
    _until(lambda: gateway.property("SubState") == "running")
    inode = next(word for word in port.split() if word.startswith("ino:"))
    assert inode in gateway.do("ss --listening --tcp --numeric --no-header --extended sport = :8000")


def test_a_kill_during_the_hand_over_ends_in_one_gateway(gateway: Gateway) -> None:
    before = gateway.property("MainPID")
    gateway.do(f"systemctl reload {UNIT} & sleep 0.2; kill -KILL {before}; wait; true")
    _until(lambda: gateway.property("SubState") == "running", within=60)
    assert gateway.property("MainPID") not in {"0", before}
    _until(lambda: gateway.do("pgrep -u citadel-gateway | wc -l") == "1", within=30)


def _until(holds: Any, within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)
