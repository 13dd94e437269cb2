"""What becomes of a check's readings: hysteresis, and recoveries within a budget. No clock, nothing done.

state, events = advance(options, state, Reading("failed", "connection refused"), now)
"""

from dataclasses import dataclass, replace
from typing import Literal

from citadel_llm.config.health import CheckOptions, Recovery

Verdict = Literal["ok", "warning", "failed", "unknown", "skipped"]
Status = Literal["waiting", "ok", "warning", "failed", "unknown", "skipped"]
Event = Literal["failed", "well", "recover", "gave_up"]


@dataclass(frozen=True)
class Reading:
    """What one look saw.

    Attributes:
        verdict: ok; warning, which is good enough; failed; unknown, when it could not be looked at, which
            proves nothing; skipped, when there is nothing to look at: what it is about is starting, or is not
            wanted, or rests on something that is not well.
        detail: What was seen, for people, on one line.
    """

    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True)
class State:
    """What is known of a check.

    Attributes:
        status: What it counts as.
        detail: What the last look saw.
        since: Since when it counts as that (seconds of the epoch).
        looked: When it was looked at last; 0 before the first time.
        bad: Bad looks in a row.
        good: Good looks in a row.
        told: Whether people were told that it failed, and not yet that it is well.
        recoveries: When something was done about it, of late; the oldest first.
        gave_up: Whether nothing more is done about it, for that was in vain.
    """

    status: Status = "waiting"
    detail: str = ""
    since: float = 0.0
    looked: float = 0.0
    bad: int = 0
    good: int = 0
    told: bool = False
    recoveries: tuple[float, ...] = ()
    gave_up: bool = False

    @property
    def failed(self) -> bool:
        """Whether it counts as failed."""
        return self.status == "failed"

    @property
    def stands(self) -> bool:
        """Whether checks that rest on it mean anything: it is well, and the last look does not doubt it."""
        return self.status in {"ok", "warning", "unknown"} and self.bad == 0


def advance(
    options: CheckOptions, state: State, reading: Reading, now: float
) -> tuple[State, tuple[Event, ...]]:
    """What a check is after one more reading, and what is to be done.

    Args:
        options: How many readings count, and what may be done.
        state: What it was.
        reading: What was seen.
        now: Seconds of the epoch.

    Returns:
        The new state, and in order: `failed` and `well`, which are to be told, each once; `recover`, which is
        to be done now and counts as done; `gave_up`, when the budget for that is used up.
    """
    state = replace(state, detail=reading.detail, looked=now)
    match reading.verdict:
        case "skipped":
            # What was begun before says nothing about what comes after.
            return _turn(state, "skipped", now, bad=0, good=0, gave_up=False), ()
        case "unknown":
            return (state if state.failed else _turn(state, "unknown", now)), ()
        case "failed":
            return _bad(options, replace(state, bad=state.bad + 1, good=0), now)
        case verdict:
            return _good(options, replace(state, good=state.good + 1, bad=0), verdict, now)


def attempts_left(recovery: Recovery, state: State, now: float) -> int:
    """How often something may still be done about it within its time."""
    return max(0, recovery.attempts - len(_recent(recovery, state, now))) if recovery.acts else 0


def _good(
    options: CheckOptions, state: State, verdict: Status, now: float
) -> tuple[State, tuple[Event, ...]]:
    if state.good < options.successes and (state.failed or state.told):
        return state, ()
    told = state.told
    return _turn(state, verdict, now, told=False, gave_up=False), (("well",) if told else ())


def _bad(options: CheckOptions, state: State, now: float) -> tuple[State, tuple[Event, ...]]:
    if not state.failed and state.bad < options.failures:
        # It keeps the status that it had; one that was never seen well has none yet.
        return state, ()
    events: list[Event] = []
    if not state.told and options.recovery.action != "none":
        events.append("failed")
        state = replace(state, told=True)
    state, more = _recover(options.recovery, _turn(state, "failed", now), now)
    return state, (*events, *more)


def _recover(recovery: Recovery, state: State, now: float) -> tuple[State, tuple[Event, ...]]:
    if not recovery.acts:
        return state, ()
    recent = _recent(recovery, state, now)
    state = replace(state, recoveries=recent)
    if recent and now < recent[-1] + recovery.pause_seconds * 2 ** (len(recent) - 1):
        return state, ()
    if len(recent) < recovery.attempts:
        return replace(state, recoveries=(*recent, now), gave_up=False), ("recover",)
    if state.gave_up:
        return state, ()
    return replace(state, gave_up=True), ("gave_up",)


def _recent(recovery: Recovery, state: State, now: float) -> tuple[float, ...]:
    """The recoveries that count. One in the future does, too: then the clock was set back."""
    return tuple(when for when in state.recoveries if when > now - recovery.within_seconds)


def _turn(state: State, status: Status, now: float, **changes: object) -> State:
    since = now if status != state.status else state.since
    return replace(state, status=status, since=since, **changes)  # type: ignore[arg-type]
