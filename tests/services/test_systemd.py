"""What needs no systemd: names and properties. The rest is seen on a lab host (tests/lab/test_systemd.py)."""

import socket
from pathlib import Path
from typing import Any

import pytest

from citadel_llm.services.systemd import Systemd, SystemdError, UnitState, read_state
from citadel_llm.services.systemd_bus import unit_path

# What systemd 252 said on a lab host.
RUNNING: dict[str, Any] = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "StatusText": "ready after 0.3 s",
    "MainPID": 2853,
    "ActiveEnterTimestampMonotonic": 3498097220,
    "MemoryCurrent": 69783552,
    "CPUUsageNSec": 1_500_000_000,
    "NRestarts": 2,
    "Job": [0, "/"],
}
NOT_SET = 18446744073709551615


@pytest.mark.parametrize(
    ("unit", "escaped"),
    [
        # As `systemctl` and `busctl tree org.freedesktop.systemd1` write them.
        ("citadel-gateway.service", "citadel_2dgateway_2eservice"),
        ("citadel-engine@phi-3.2.service", "citadel_2dengine_40phi_2d3_2e2_2eservice"),
        ("-.mount", "_2d_2emount"),
        ("3proxy.service", "_33proxy_2eservice"),
        ("ä_.service", "_c3_a4_5f_2eservice"),
    ],
)
def test_a_unit_has_an_object(unit: str, escaped: str) -> None:
    assert unit_path(unit) == f"/org/freedesktop/systemd1/unit/{escaped}"


def test_a_running_service() -> None:
    assert read_state("a.service", RUNNING) == UnitState(
        unit="a.service",
        load_state="loaded",
        active_state="active",
        sub_state="running",
        result="success",
        status_text="ready after 0.3 s",
        main_pid=2853,
        active_enter=3498.09722,
        memory_bytes=69783552,
        restarts=2,
        job=False,
        cpu_seconds=1.5,
    )


def test_what_is_not_known_is_none() -> None:
    unknown = {"MemoryCurrent": NOT_SET, "CPUUsageNSec": NOT_SET, "MainPID": 0}
    never = {"ActiveEnterTimestampMonotonic": 0, "Job": [7, "/org/freedesktop/systemd1/job/7"]}
    state = read_state("a.service", {**RUNNING, **unknown, **never})
    assert (state.memory_bytes, state.cpu_seconds, state.main_pid, state.active_enter) == (None,) * 4
    assert state.job


def test_what_is_no_service_has_nothing_of_a_services() -> None:
    of_any = ("LoadState", "ActiveState", "SubState", "ActiveEnterTimestampMonotonic", "Job")
    state = read_state("citadel.target", {key: RUNNING[key] for key in of_any})
    assert (state.result, state.status_text, state.main_pid, state.memory_bytes) == (
        "success",
        "",
        None,
        None,
    )


async def test_a_host_without_a_bus_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/socket")
    with pytest.raises(SystemdError, match=r"no system bus to be reached here \(No such file or directory\)"):
        await Systemd().states(["a.service"])


async def test_a_bus_that_hangs_up_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        listener.setblocking(False)
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/socket")
        monkeypatch.setattr("citadel_llm.services.systemd_bus._ANSWER_SECONDS", 0.1)
        with pytest.raises(SystemdError, match=r"no system bus to be reached here \(it does not answer\)"):
            await Systemd().states(["a.service"])
