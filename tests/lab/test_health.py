"""The health checks under systemd, on a lab host: a gateway that hangs is restarted, and no more than it may.

The unit of the health checks is the deployed one, and its code this tree's; the gateway is a stand-in that
can be stopped in its tracks. Not looked at here: the deployment, which molecule does, and the rights that
it gives, which test_rights.py does.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .conftest import OwnLab
from .deployed import place_application, render_unit

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts are root's")]

HOST = {"name": "citadel-test-24", "address": "10.89.14.24"}
PORT = 8000
TOLD = "/run/citadel/health/told"

# Answers, and does nothing else; it has no watchdog, so systemd cannot see it hang.
GATEWAY = f"""[Service]
Type=exec
WorkingDirectory=/srv/health
ExecStart=/usr/bin/python3 -m http.server {PORT}
TimeoutStopSec=1
"""
RULES = """polkit.addRule(function(action, subject) {
    if (action.id == "org.freedesktop.systemd1.manage-units" && subject.user == "citadel-health"
            && action.lookup("unit") == "citadel-gateway.service" && action.lookup("verb") == "restart") {
        return polkit.Result.YES;
    }
});
"""
SETTINGS: dict[str, Any] = {
    "environment": "development",
    "gateway": {"port": PORT},
    "engine": {"build": "cpu"},
    "health": {
        "built_in": {
            "unit": {"interval_seconds": 0.3},
            "gateway": {
                "interval_seconds": 0.3,
                "timeout_seconds": 0.5,
                "failures": 3,
                "recovery": {
                    "action": "restart",
                    "service": "gateway",
                    "attempts": 1,
                    "within_seconds": 3600,
                    "pause_seconds": 1,
                },
            },
        },
        "notify_command": ["/usr/bin/tee", "--append", TOLD],
        "checks": [
            {"name": "shadow", "kind": "command", "command": ["/usr/bin/head", "-c1", "/etc/shadow"]},
            {"name": "keys", "kind": "command", "command": ["/usr/bin/ls", "/etc/citadel/credentials"]},
            {"name": "who", "kind": "command", "command": ["/usr/bin/id", "-un"]},
        ],
    },
}


class Host:
    """A lab host with the health checks' unit; each command is root's."""

    def __init__(self, lab: OwnLab) -> None:
        self.lab = lab
        self.root = lab.root_of(HOST)

    def do(self, command: str, *, fails: bool = False) -> str:
        done = self.lab.ssh(HOST, f"sudo sh -c {json.dumps(command)}")
        assert (done.returncode != 0) == fails, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def install(self) -> None:
        """What the roles would: accounts, code, settings, folders, units, rights."""
        place_application(self.root, self.do("python3 --version").split()[1].rpartition(".")[0])
        self.write("/opt/citadel/config/global/citadel.yml", json.dumps(SETTINGS))
        self.write("/etc/systemd/system/citadel-gateway.service", GATEWAY)
        self.write("/etc/systemd/system/citadel-health.service", render_unit("citadel-health.service.j2"))
        self.write("/etc/polkit-1/rules.d/50-citadel.rules", RULES)
        self.do(
            "useradd --system citadel-gateway; useradd --system citadel-health; "
            "mkdir -p /run/citadel /srv/health; touch /srv/health/health; "
            "install -d -m 750 -g citadel-gateway /etc/citadel/credentials; "
            "chmod -R go+rX /opt/citadel; systemctl daemon-reload; "
            "apt-get install -qq --no-install-recommends polkitd >/dev/null 2>&1; "
            "python3 -m compileall -q /opt/citadel/site /opt/citadel/current/src || true"
        )

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def check(self, name: str) -> dict[str, Any]:
        """What the service says of a check; nothing before it has said anything."""
        try:
            state = json.loads((self.root / "run/citadel/health/state.json").read_text())
        except FileNotFoundError:
            # The host's /run is a mount of its own.
            state = json.loads(self.do("cat /run/citadel/health/state.json"))
        return next(each for each in state["checks"] if each["check"] == name)

    def pid(self, unit: str = "citadel-gateway") -> int:
        return int(self.do(f"systemctl show --value --property=MainPID {unit}"))

    def told(self) -> list[tuple[str, int]]:
        """What the site's command was told of the gateway: event and attempts left."""
        events = [json.loads(line) for line in self.do(f"cat {TOLD} || true").splitlines()]
        return [(each["event"], each["attempts_left"]) for each in events if each["check"] == "gateway"]

    def until(self, holds: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.do(
                "cat /run/citadel/health/state.json; journalctl -u citadel-health --no-pager -o cat -n 40"
            )
            time.sleep(0.2)


@pytest.fixture(scope="module")
def host(lab: OwnLab) -> Iterator[Host]:
    lab("up", HOST)
    try:
        host = Host(lab)
        host.install()
        host.do("systemctl start citadel-gateway")
        journal = "journalctl -u citadel-health --no-pager -o cat"
        host.do(f"systemctl start citadel-health || {{ {journal}; exit 1; }}")
        yield host
    finally:
        lab("down", HOST)


def test_a_gateway_that_hangs_is_restarted_within_its_budget(host: Host) -> None:
    host.until(lambda: host.check("gateway")["status"] == "ok")
    first = host.pid()
    host.do(f"kill -STOP {first}")
    host.until(lambda: host.told() == [("failed", 0), ("recover", 0), ("well", 0)])
    second = host.pid()
    assert second not in {0, first}

    host.do(f"kill -STOP {second}")
    host.until(lambda: host.told()[3:] == [("failed", 0), ("gave_up", 0)])
    assert host.pid() == second, "the budget is used up"
    # Also by one that starts anew and remembers.
    host.do("systemctl restart citadel-health")
    host.until(lambda: host.check("gateway")["status"] == "failed")
    assert host.told()[3:] == [("failed", 0), ("gave_up", 0)]
    assert host.pid() == second

    host.do(f"kill -CONT {second}")
    host.until(lambda: host.told()[-1] == ("well", 0))
    host.do(f"kill -STOP {second}")
    host.until(lambda: host.told()[6:] == [("failed", 0), ("gave_up", 0)])
    assert host.pid() == second
    host.do(f"kill -CONT {second}")
    host.until(lambda: host.check("gateway")["status"] == "ok")


def test_what_somebody_stops_is_not_started_by_a_check(host: Host) -> None:
    host.do("systemctl stop citadel-gateway")
    host.until(lambda: host.check("unit:gateway")["status"] == "failed")
    host.until(lambda: host.check("gateway")["status"] == "skipped")
    assert host.pid() == 0
    host.do("systemctl start citadel-gateway")
    host.until(lambda: host.check("gateway")["status"] == "ok")


def test_all_may_read_how_things_are(host: Host) -> None:
    metrics = host.do("runuser -u nobody -- cat /run/citadel/health/metrics.prom")
    assert 'citadel_health_check_failed{check="gateway",kind="http"} 0.0' in metrics
    assert 'citadel_health_recoveries_total{action="restart",check="gateway",kind="http"}' in metrics
    assert json.loads(host.do("runuser -u nobody -- cat /run/citadel/health/state.json"))["running"]
    says = host.do("systemctl show --value --property=StatusText citadel-health")
    assert "checks ok" in says


def test_its_commands_may_do_no_more_than_it(host: Host) -> None:
    seen = {name: host.check(name) for name in ("shadow", "keys", "who")}
    assert seen["who"]["detail"] == "citadel-health"
    assert seen["shadow"]["status"] != "ok"
    assert "denied" in seen["shadow"]["detail"]
    assert seen["keys"]["status"] != "ok", "the group that opens engines' sockets opens no secret"
