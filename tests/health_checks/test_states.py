"""Hysteresis, recoveries and their budget, as a state machine without a clock."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citadel_llm.config.health import CheckOptions, Recovery
from citadel_llm.health_checks.states import Event, Reading, State, Verdict, advance, attempts_left

RESTART = Recovery(action="restart", service="gateway", attempts=2, within_seconds=1000, pause_seconds=50)
OPTIONS = CheckOptions(interval_seconds=10, failures=3, successes=2, recovery=RESTART)

VERDICTS: dict[str, Verdict] = {"o": "ok", "w": "warning", "f": "failed", "u": "unknown", "s": "skipped"}


def follow(
    readings: str, options: CheckOptions = OPTIONS, state: State | None = None, step: float = 10.0
) -> tuple[State, list[tuple[float, Event]]]:
    """What comes of readings, one in ten seconds, each a letter: ok, warning, failed, unknown, skipped."""
    state, told = state or State(), []
    for number, letter in enumerate(readings, 1):
        now = number * step
        state, events = advance(options, state, Reading(VERDICTS[letter], f"look {number}"), now)
        told += [(now, event) for event in events]
    return state, told


@pytest.mark.parametrize(
    ("readings", "status"),
    [
        ("o", "ok"),
        ("w", "warning"),
        ("ff", "waiting"),
        ("off", "ok"),
        ("fff", "failed"),
        ("ffofffo", "failed"),
        ("fffow", "warning"),
        ("fffu", "failed"),
        ("u", "unknown"),
        ("fffs", "skipped"),
        ("fffso", "skipped"),
        ("fffsoo", "ok"),
        ("so", "ok"),
    ],
)
def test_it_takes_some_readings_in_a_row(readings: str, status: str) -> None:
    assert follow(readings)[0].status == status


def test_since_is_when_the_status_began() -> None:
    state, _ = follow("offfff")
    assert (state.status, state.since, state.looked, state.detail) == ("failed", 40, 60, "look 6")


def test_a_failure_is_told_once_and_so_is_its_end() -> None:
    options = CheckOptions(failures=2, successes=2)
    _, told = follow("fffofffoooo", options)
    assert told == [(20, "failed"), (90, "well")]
    assert follow("ffs" + "ffs" + "oo", options)[1] == [(20, "failed"), (80, "well")]
    assert follow("ffff", CheckOptions(recovery=Recovery(action="none")))[1] == []


def test_recovering_waits_longer_each_time_and_is_given_up() -> None:
    _, told = follow("f" * 60)
    # The third look; 50 s later; 100 s after that there is no attempt left.
    assert told == [(30, "failed"), (30, "recover"), (80, "recover"), (180, "gave_up")]


def test_the_budget_comes_back_with_time() -> None:
    _, told = follow("f" * 105)
    assert [event for _, event in told].count("recover") == 3
    assert told[-1] == (1030, "recover"), "a thousand seconds after the first"


def test_one_that_was_well_in_between_has_its_budget_no_less() -> None:
    _, told = follow("fffoo" * 20)
    assert [event for _, event in told].count("recover") == 2


def test_attempts_left() -> None:
    state, _ = follow("fff")
    assert attempts_left(RESTART, state, 30) == 1
    assert attempts_left(RESTART, state, 2000) == 2
    assert attempts_left(Recovery(), state, 30) == 0


def test_what_others_rest_on_must_not_be_in_doubt() -> None:
    stands = {
        readings: follow(readings)[0].stands for readings in ("", "o", "of", "ofo", "fff", "fffo", "u", "s")
    }
    assert [readings for readings, it_does in stands.items() if it_does] == ["o", "ofo", "u"]


policies = st.builds(
    lambda attempts, within, pause, failures, successes: CheckOptions(
        failures=failures,
        successes=successes,
        recovery=RESTART.model_copy(
            update={"attempts": attempts, "within_seconds": within, "pause_seconds": pause}
        ),
    ),
    attempts=st.integers(1, 5),
    within=st.floats(1, 5000),
    pause=st.floats(0.1, 1000),
    failures=st.integers(1, 5),
    successes=st.integers(1, 5),
)


@given(policies, st.lists(st.tuples(st.sampled_from("owfus"), st.floats(0.01, 500)), max_size=150))
def test_never_more_recoveries_than_the_budget(options: CheckOptions, looks: list[tuple[str, float]]) -> None:
    state, now, done = State(), 0.0, []
    for letter, pause in looks:
        now += pause
        state, events = advance(options, state, Reading(VERDICTS[letter]), now)
        done += [now for event in events if event == "recover"]
    recovery = options.recovery
    for end in done:
        within = [when for when in done if end - recovery.within_seconds < when <= end]
        assert len(within) <= recovery.attempts
    for earlier, later in itertools.pairwise(done):
        assert later - earlier >= min(recovery.pause_seconds, recovery.within_seconds) - 1e-6


@given(policies, st.text("owfu", max_size=150))
def test_one_that_flaps_is_never_recovered(options: CheckOptions, readings: str) -> None:
    """Not as many bad looks in a row as it takes: nothing is told, nothing done."""
    while "f" * options.failures in readings.replace("u", ""):
        cut = readings.replace("u", "")
        readings = cut.replace("f" * options.failures, "f" * (options.failures - 1) + "o")
    assert follow(readings, options)[1] == []


@given(policies, st.text("owfu", max_size=60))
def test_what_is_skipped_is_silent_and_begins_anew(options: CheckOptions, readings: str) -> None:
    before, _ = follow(readings, options)
    after, events = advance(options, before, Reading("skipped"), 1e6)
    assert (events, after.status, after.bad) == ((), "skipped", 0)
    assert after.recoveries == before.recoveries, "and what was done still counts"


@given(policies, st.text("owfus", max_size=150))
def test_told_are_a_failure_and_its_end_in_turn(options: CheckOptions, readings: str) -> None:
    told = [event for _, event in follow(readings, options)[1] if event in {"failed", "well"}]
    assert told == [("failed", "well")[number % 2] for number in range(len(told))]
