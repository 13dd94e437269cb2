import json
from dataclasses import replace

import pytest

from citadel_llm.cli import top
from citadel_llm.services.service_manager import ServiceStatus

from .machine import RUNNING, Machine, Run

PAGE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="small",exported_engine="0"} 2.0
vllm:num_requests_running{engine="small",exported_engine="1"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="small",exported_engine="0"} 4.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="small",exported_engine="0"} 1000.0
"""


def sample(at: float, *, cpu: float | None, page: str, pid: int = 1) -> top.Sample:
    service = ServiceStatus("small", "any.service", "running", pid=pid, cpu_seconds=cpu, memory_bytes=5)
    return top.Sample(at, [service], top.read_engines(page))


def test_what_was_done_between_two_moments() -> None:
    later = PAGE.replace("1000.0", "1300.0")
    [row] = top.compare(sample(10, cpu=1.0, page=PAGE), sample(12, cpu=2.5, page=later))
    assert row == {
        "name": "small",
        "state": "running",
        "cpu_percent": 75.0,
        "memory_bytes": 5,
        "running": 3,
        "waiting": 4,
        "tokens_per_second": 150.0,
    }


def test_what_began_anew_is_not_compared() -> None:
    fresh = PAGE.replace("1000.0", "3.0")
    [row] = top.compare(sample(10, cpu=9.0, page=PAGE), sample(11, cpu=0.1, page=fresh, pid=2))
    assert (row["cpu_percent"], row["tokens_per_second"]) == (None, None)


def test_what_nobody_counts_is_not_known() -> None:
    [row] = top.compare(sample(10, cpu=None, page=""), sample(11, cpu=None, page=""))
    assert (row["cpu_percent"], row["running"], row["tokens_per_second"]) == (None, None, None)


def test_gpus_are_read() -> None:
    # As nvidia-smi's own help describes its CSV; a real card's is not looked at here.
    assert top.read_gpus("0, 37, 14000, 16376\n1, [N/A], 3, 16376\n") == [
        {"index": 0, "utilization_percent": 37, "memory_used_mib": 14000, "memory_total_mib": 16376},
        {"index": 1, "utilization_percent": None, "memory_used_mib": 3, "memory_total_mib": 16376},
    ]


@pytest.fixture
def busy(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(top, "_SECONDS", 0.01)
    monkeypatch.setattr("citadel_llm.services.systemd.Systemd", lambda: machine)
    machine.is_seen_as([replace(RUNNING, cpu_seconds=1.0)] * 2, [replace(RUNNING, cpu_seconds=1.0)] * 2)
    return machine


def test_it_is_shown_once(run: Run, busy: Machine) -> None:
    result = run("top", "--once")
    assert result.exit_code == 0
    assert result.output.splitlines()[1].split() == [
        "gateway",
        "running",
        "0",
        "%",
        "3.0",
        "GiB",
        "-",
        "-",
        "-",
    ]


def test_scripts_read_it(run: Run, busy: Machine) -> None:
    found = json.loads(run("top", "--json").stdout)
    assert [row["name"] for row in found["services"]] == ["gateway", "small", "health"]
    assert found["services"][0]["cpu_percent"] == 0.0
