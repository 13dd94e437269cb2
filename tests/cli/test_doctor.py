import datetime
import json
import os
import socket
import sqlite3
import ssl
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from tests.certificates import make_certificate

from citadel_llm.health_checks import checks
from citadel_llm.health_checks.health_checker import Finding, run_checks
from citadel_llm.health_checks.state_file import STATE_FILE
from citadel_llm.services.systemd import Systemd, UnitState

from .machine import Machine, Run


class _Systemd(Systemd):
    """systemd's outer edge: all units are active, but for those of which a test says otherwise."""

    units: ClassVar[dict[str, UnitState]] = {}

    async def states(self, units: Sequence[str]) -> list[UnitState]:
        return [self.units.get(unit, UnitState(unit, active_state="active")) for unit in units]


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"status": "ready", "models": [{"model": "small", "state": "up"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


class _UnixServer(HTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(str(self.server_address))

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = self.socket.accept()
        return connection, ("unix", 0)


@pytest.fixture
def healthy(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A host on which all is well."""
    folder = machine.folder
    release = folder / "root" / "releases" / "1"
    (release / "venv").mkdir(parents=True)
    (release / "venv" / ".citadel-complete").touch()
    (folder / "root" / "current").symlink_to(release)
    (folder / "models" / "small").mkdir(parents=True)
    (folder / "models" / "small" / "config.json").touch()
    (folder / "run" / "engines").mkdir(parents=True)
    sqlite3.connect(folder / "citadel.db").close()
    gateway = HTTPServer(("127.0.0.1", 0), _Ready)
    engine = _UnixServer(str(folder / "run" / "engines" / "small.sock"), _Ready)  # type: ignore[arg-type]
    for server in (gateway, engine):
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    database = f"sqlite:///{folder / 'citadel.db'}"
    machine.gateway_settings = (gateway.server_port, database)
    machine.configure(gateway={"port": gateway.server_port, "database": database})
    monkeypatch.setattr(checks, "Systemd", _Systemd)
    monkeypatch.setattr(_Systemd, "units", {})
    yield machine
    for server in (gateway, engine):
        server.shutdown()
        server.server_close()


def verdicts(run: Run) -> tuple[int, dict[str, tuple[str, str]]]:
    result = run("doctor", "--json")
    return result.exit_code, {
        each["check"]: (each["verdict"], each["remedy"]) for each in json.loads(result.output)
    }


def test_no_model_is_nothing_to_complain_of(run: Run, healthy: Machine) -> None:
    port, database = healthy.gateway_settings
    healthy.configure(models=[], gateway={"port": port, "database": database})
    _, found = verdicts(run)
    assert found["gateway"] == ("ok", "")
    assert "ready" not in found


def test_a_model_on_demand_need_not_answer(run: Run, healthy: Machine) -> None:
    port, database = healthy.gateway_settings
    plan = {"residency": "cold", "max_model_len": 2048, "kv_cache_bytes": 1 << 30}
    model = {"name": "other", "source": {"kind": "folder", "path": "/x"}, "plan": plan}
    healthy.configure(models=[model], gateway={"port": port, "database": database})
    unit = "citadel-engine@other.service"
    _Systemd.units[unit] = UnitState(unit, active_state="inactive")
    _, found = verdicts(run)
    assert [found[check][0] for check in ("unit:other", "gateway")] == ["ok"] * 2
    assert "engine:other" not in found


def test_all_is_well(run: Run, healthy: Machine) -> None:
    code, found = verdicts(run)
    assert {verdict for verdict, _ in found.values()} == {"ok"}
    assert {
        "configuration",
        "release",
        "unit:small",
        "engine:small",
        "gateway",
        "ready",
        "keys",
        "unit:health",
    } <= set(found)
    assert code == 0


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ("root/current", "release"),
        ("root/releases/1/venv/.citadel-complete", "release"),
        ("models/small/config.json", "weights of small"),
        ("run/engines/small.sock", "engine:small"),
        ("citadel.db", "keys"),
    ],
)
def test_what_is_missing_is_found_with_a_remedy(run: Run, healthy: Machine, broken: str, check: str) -> None:
    (healthy.folder / broken).unlink()
    code, found = verdicts(run)
    verdict, remedy = found[check]
    assert (code, verdict) == (1, "failed")
    assert remedy


def test_a_damaged_database_is_found(run: Run, healthy: Machine) -> None:
    (healthy.folder / "citadel.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    assert verdicts(run)[1]["keys"][0] == "failed"


def test_a_failed_service_is_found(run: Run, healthy: Machine) -> None:
    unit = "citadel-engine@small.service"
    _Systemd.units[unit] = UnitState(unit, active_state="failed", status_text="failed: out of memory")
    _, found = verdicts(run)
    assert found["unit:small"] == ("failed", "citadel logs small, then citadel start small")
    assert "engine:small" not in found, "it is told once"


def test_a_gateway_with_tls_is_asked_by_https(run: Run, healthy: Machine, tmp_path: Path) -> None:
    port, database = healthy.gateway_settings
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": {"file": str(tmp_path / "key.pem")}}
    healthy.configure(gateway={"port": port, "database": database, "tls": tls})
    assert verdicts(run)[1]["gateway"][0] == "failed", "it speaks plain HTTP"
    make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = HTTPServer(("127.0.0.1", 0), _Ready)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    healthy.configure(gateway={"port": server.server_port, "database": database, "tls": tls})
    _, found = verdicts(run)
    assert [found[check] for check in ("gateway", "ready")] == [("ok", "")] * 2
    assert "certificate" in found
    server.shutdown()
    server.server_close()


def test_a_flag_that_is_about_to_end_is_told(run: Run, healthy: Machine) -> None:
    port, database = healthy.gateway_settings
    today = datetime.datetime.now(datetime.UTC).date()
    flags = {
        name: {"enabled": True, "owner": "ada", "expires": (today + datetime.timedelta(days)).isoformat()}
        for name, days in (("late", -1), ("soon", 5), ("far", 90))
    }
    healthy.configure(features=flags, gateway={"port": port, "database": database})
    code, found = verdicts(run)
    assert code == 0
    assert [found[f"feature {name}"][0] for name in ("late", "soon", "far")] == ["warning", "warning", "ok"]
    assert found["feature soon"][1].startswith("ask ada")


def test_a_gateway_that_does_not_answer_is_found(run: Run, healthy: Machine) -> None:
    healthy.configure(gateway={"port": 1})
    assert verdicts(run)[1]["gateway"][0] == "failed"


def test_people_get_a_table_and_what_to_do(run: Run, healthy: Machine) -> None:
    (healthy.folder / "root" / "current").unlink()
    output = run("doctor").output
    assert "FAILED" in output
    assert "  release: deploy the site again: --tags services" in output


def test_the_sites_own_checks_and_limits_are_looked_at(run: Run, healthy: Machine) -> None:
    port, database = healthy.gateway_settings
    own = {"name": "own", "kind": "tcp", "address": "127.0.0.1:1"}
    health = {"disk": {"warn_free_gib": 1e9, "fail_free_gib": 0}, "checks": [own]}
    healthy.configure(health=health, gateway={"port": port, "database": database})
    code, found = verdicts(run)
    assert code == 1
    assert found["own"][0] == "failed"
    assert {verdict for check, (verdict, _) in found.items() if check.startswith("disk")} == {"warning"}
    healthy.configure(health={"checks": [own | {"depends_on": ["gateway"]}]}, gateway={"port": 1})
    _, found = verdicts(run)
    assert (found["gateway"][0], "own" in found) == ("failed", False)


def test_what_was_recovered_in_vain_is_told(run: Run, healthy: Machine) -> None:
    folder = healthy.folder / "run" / "health"
    folder.mkdir()
    recovery = {"action": "restart", "gave_up": True, "attempts_at": [1.0, 2.0]}
    state = {"checks": [{"check": "gateway", "remedy": "citadel logs gateway", "recovery": recovery}]}
    (healthy.folder / "run" / STATE_FILE).write_text(json.dumps(state))
    assert verdicts(run)[1]["recovery of gateway"] == ("failed", "citadel logs gateway")


def test_what_may_not_be_seen_is_unknown_and_what_breaks_stops_nothing() -> None:
    def forbidden() -> Iterator[Finding]:
        raise PermissionError(13, "Permission denied", "/secret")

    def broken() -> Iterator[Finding]:
        raise RuntimeError("oops")

    def fine() -> Iterator[Finding]:
        yield Finding("c", "ok", "there")

    found = run_checks([("a", forbidden), ("b", broken), ("c", fine)])
    assert [(each.check, each.verdict) for each in found] == [("a", "unknown"), ("b", "failed"), ("c", "ok")]
    assert "/secret" in found[0].detail


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look at everything")
def test_a_socket_of_others_is_unknown(run: Run, healthy: Machine) -> None:
    (healthy.folder / "run" / "engines").chmod(0)
    assert verdicts(run)[1]["engine:small"][0] == "unknown"
