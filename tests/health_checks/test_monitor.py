"""Looking at everything, telling, recovering. The systemd here is a stand-in; tests/lab has the real one."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from citadel_llm.config import Settings
from citadel_llm.config.health import CheckOptions, Recovery
from citadel_llm.health_checks import report
from citadel_llm.health_checks.catalogue import HealthCheck
from citadel_llm.health_checks.monitor import Monitor
from citadel_llm.health_checks.recovery import Recoverer
from citadel_llm.health_checks.state_file import STATE_FILE, read
from citadel_llm.health_checks.states import Event, Reading, State, Verdict
from citadel_llm.services.systemd import JobFailedError, Systemd, UnitState

RESTART = Recovery(action="restart", service="phi", attempts=1, within_seconds=1000, pause_seconds=10)


class Thing:
    """Something to look at, as the test has it."""

    def __init__(self, verdict: Verdict = "ok") -> None:
        self.verdict = verdict
        self.looks = 0

    async def __call__(self) -> Reading:
        self.looks += 1
        return Reading(self.verdict, f"is {self.verdict}")


class Heard:
    """What a monitor's events come to."""

    def __init__(self) -> None:
        self.events: list[tuple[Event, str]] = []

    async def handle(self, event: Event, check: HealthCheck, state: State) -> None:
        self.events.append((event, check.name))


def check(name: str, thing: Thing, recovery: Recovery | None = None, *depends_on: str) -> HealthCheck:
    options = CheckOptions(failures=2, successes=1, depends_on=depends_on, recovery=recovery or Recovery())
    return HealthCheck(name, "function", thing, options, "do something")


async def test_what_rests_on_something_bad_is_silent_from_its_first_bad_look_on() -> None:
    base, top, heard = Thing(), Thing(), Heard()
    checks = [check("base", base), check("top", top, RESTART, "base")]
    monitor = Monitor(checks, heard)

    async def rounds(count: int) -> None:
        for _ in range(count):
            for each in checks:
                await monitor.once(each)

    await rounds(1)
    assert (monitor.states["top"].status, top.looks) == ("ok", 1)
    base.verdict = top.verdict = "failed"
    await rounds(5)
    assert top.looks == 1, "it is not even looked at"
    assert monitor.states["top"].detail == "rests on base, which is failed"
    assert heard.events == [("failed", "base")]
    base.verdict = "ok"
    await rounds(2)
    assert heard.events == [("failed", "base"), ("well", "base"), ("failed", "top"), ("recover", "top")]


async def test_until_the_first_look_nothing_rests_on_it() -> None:
    top = Thing("failed")
    monitor = Monitor([check("base", Thing()), check("top", top, None, "base")], Heard())
    await monitor.once(monitor.checks[1])
    assert top.looks == 0


async def test_each_at_its_own_pace() -> None:
    fast, slow = Thing(), Thing()
    checks = [
        HealthCheck(name, "function", thing, CheckOptions(interval_seconds=interval))
        for name, thing, interval in (("fast", fast, 0.01), ("slow", slow, 0.2))
    ]
    monitor = Monitor(checks, Heard())
    running = asyncio.create_task(monitor.run())
    async with asyncio.timeout(20):
        while slow.looks < 2:  # noqa: ASYNC110 - what is waited for is what it does
            await asyncio.sleep(0.01)
    running.cancel()
    assert fast.looks > slow.looks


class FakeSystemd(Systemd):
    """systemd's outer edge: units with states, and what was asked of it."""

    def __init__(self, state: UnitState, *, stopping: bool = False, fails: bool = False) -> None:
        super().__init__()
        self.state, self.stopping, self.fails = state, stopping, fails
        self.asked: list[str] = []

    async def states(self, units: Sequence[str]) -> list[UnitState]:
        return [self.state for _ in units]

    async def shutting_down(self) -> bool:
        return self.stopping

    async def restart(self, unit: str) -> None:
        self.asked.append(f"restart {unit}")
        if self.fails:
            raise JobFailedError(f"restart {unit}", "timeout")

    async def stop(self, unit: str) -> None:
        self.asked.append(f"stop {unit}")


def settings(**health: Any) -> Settings:
    model = {"name": "phi", "source": {"kind": "folder", "path": "/x"}}
    return Settings.model_validate({"environment": "staging", "models": [model], "health": health})


UP = UnitState("citadel-engine@phi.service", active_state="active")


@pytest.mark.parametrize(
    ("action", "systemd", "asked"),
    [
        ("restart", FakeSystemd(UP), ["restart citadel-engine@phi.service"]),
        ("drain", FakeSystemd(UP), ["stop citadel-engine@phi.service"]),
        (
            "restart",
            FakeSystemd(UnitState("x", active_state="failed")),
            ["restart citadel-engine@phi.service"],
        ),
        ("restart", FakeSystemd(UnitState("x", active_state="inactive")), []),
        ("restart", FakeSystemd(UnitState("x", active_state="activating")), []),
        ("restart", FakeSystemd(UnitState("x", active_state="active", job=True)), []),
        ("restart", FakeSystemd(UP, stopping=True), []),
        ("restart", FakeSystemd(UP, fails=True), ["restart citadel-engine@phi.service"]),
    ],
)
async def test_units_are_left_alone_where_somebody_else_is_at_it(
    action: str, systemd: FakeSystemd, asked: list[str]
) -> None:
    recovery = RESTART.model_copy(update={"action": action})
    one = check("gpu:0", Thing("failed"), recovery)
    monitor = Monitor([one], Recoverer(settings(), systemd))
    for _ in range(3):
        await monitor.once(one)
    assert systemd.asked == asked
    assert monitor.done == {"gpu:0": 1}


async def test_commands_get_the_event_and_no_longer_than_they_may(tmp_path: Path) -> None:
    told = tmp_path / "told"
    recovery = Recovery(action="command", command=("/bin/sleep", "100"), attempts=1)
    one = check("store", Thing("failed"), recovery)
    given = settings(notify_command=["/usr/bin/tee", "--append", str(told)], notify_timeout_seconds=0.5)
    monitor = Monitor([one], Recoverer(given, FakeSystemd(UP)))
    async with asyncio.timeout(20):
        for _ in range(2):
            await monitor.once(one)
    first, second = (json.loads(line) for line in told.read_text().splitlines())
    assert (first["event"], second["event"]) == ("failed", "recover")
    assert first["check"] == "store"
    assert first["detail"] == "is failed"
    assert second["attempts_left"] == 0


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "health").mkdir()
    return tmp_path


async def test_what_is_told_to_programs(run_dir: Path) -> None:
    bad, good = check("phi's", Thing("failed"), RESTART), check("disk:/", Thing("warning"))
    monitor = Monitor([bad, good], Heard(), clock=lambda: 1_800_000_000.0)
    for _ in range(2):
        await monitor.once(bad)
        await monitor.once(good)
    report.write(monitor, run_dir, 1_800_000_001.0)
    state = read(run_dir)
    assert state
    assert (state["running"], state["well"], state["written"]) == (True, False, "2027-01-15T08:00:01+00:00")
    first, second = state["checks"]
    assert (first["check"], first["status"], first["recovery"]["attempts_left"]) == ("phi's", "failed", 0)
    assert first["remedy"] == "do something"
    assert (second["status"], second["remedy"]) == ("warning", "")
    metrics = (run_dir / report.METRICS_FILE).read_text()
    assert 'citadel_health_check_failed{check="phi\'s",kind="function"} 1.0' in metrics
    assert 'citadel_health_check_failed{check="disk:/",kind="function"} 0.0' in metrics
    assert 'citadel_health_recoveries_total{action="restart",check="phi\'s",kind="function"} 1.0' in metrics
    assert report.summary(monitor) == "failed: phi's (is failed); 0 checks ok; 1 warning"
    for name in (STATE_FILE, report.METRICS_FILE):
        assert (run_dir / name).stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in (run_dir / "health").iterdir()) == ["metrics.prom", "state.json"]


async def test_the_budget_outlives_the_service(run_dir: Path) -> None:
    now = 1_800_000_000.0
    one, heard = check("phi's", Thing("failed"), RESTART), Heard()
    before = Monitor([one], heard, clock=lambda: now)
    for _ in range(2):
        await before.once(one)
    assert heard.events == [("failed", "phi's"), ("recover", "phi's")]
    report.write(before, run_dir, now, running=False)
    assert (run_dir / report.METRICS_FILE).read_text() == "", "nothing is known any more"
    now += 60
    after = Monitor([one], heard, report.remembered(run_dir), clock=lambda: now)
    for _ in range(3):
        await after.once(one)
    assert heard.events[2:] == [("gave_up", "phi's")]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"checks": [{}]}', '{"checks": [{"recovery": []}]}'])
def test_a_state_file_that_is_damaged_is_no_state(run_dir: Path, text: str) -> None:
    (run_dir / STATE_FILE).write_text(text)
    assert report.remembered(run_dir) == {}
