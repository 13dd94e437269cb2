"""What is known of each model: where it is, what it holds there, who wants it, and what it costs to move."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# A device is a GPU by its index, or the memory that all engines of the CPU build share.
Device = int


class State(StrEnum):
    """Where a model is."""

    COLD = "cold"
    """Stopped: it holds nothing."""
    ASLEEP = "asleep"
    """Its weights are in the host's memory."""
    WAKING = "waking"
    """On its way up, from cold or from sleep."""
    AWAKE = "awake"
    """It answers."""
    LEAVING = "leaving"
    """On its way down: being stopped or put to sleep."""


@dataclass(frozen=True)
class Footprint:
    """What a model holds.

    Attributes:
        awake: Bytes on each of its devices while it is awake, or on its way up or down.
        asleep: Bytes that stay on each device while it sleeps.
        host_bytes: Bytes of the host's memory while it sleeps; None where it cannot sleep.
    """

    awake: Mapping[Device, int]
    asleep: Mapping[Device, int] = field(default_factory=dict)
    host_bytes: int | None = None


@dataclass
class Costs:
    """How long a model's moves take, in seconds: what was measured, and until then what was guessed."""

    start: float
    wake: float
    leave: float = 5.0

    def measured(self, move: str, seconds: float) -> None:
        """Learn from a move (`start`, `wake` or `leave`): half of the estimate is the last one."""
        setattr(self, move, (getattr(self, move) + seconds) / 2)


class Demand:
    """How often a model is asked for, the last minutes counting most.

    Args:
        half_life: Seconds after which a request counts half.
    """

    def __init__(self, half_life: float) -> None:
        self._decay = math.log(2) / half_life
        self._weight = 0.0
        self._at = 0.0

    def note(self, now: float, count: int = 1) -> None:
        """Requests came."""
        self._weight = self._weight_at(now) + count
        self._at = now

    def rate(self, now: float) -> float:
        """Requests a second."""
        return self._weight_at(now) * self._decay

    def unused(self, now: float) -> float:
        """Seconds since the last request."""
        return now - self._at

    def _weight_at(self, now: float) -> float:
        return self._weight * math.exp(-self._decay * max(0.0, now - self._at))


@dataclass
class Holding:
    """One model of a host, as the policy sees it.

    Attributes:
        name: The model's.
        footprint: What it holds where.
        costs: What its moves take.
        demand: How often it is asked for.
        state: Where it is.
        was: Where it was before; while it moves, where it comes from.
        since: When it came there, in seconds of the caller's clock.
        leases: Requests that it is answering.
        waiting: When those came that wait for it, the oldest first.
        pinned: Whether it must stay awake.
        closed: Whether it takes no more requests, for another model is to have its place.
        promised: Whether others were sent away for it: then nobody else gets their room.
        retry_at: When it may be tried again, after it did not come up.
    """

    name: str
    footprint: Footprint
    costs: Costs
    demand: Demand
    state: State = State.COLD
    was: State = State.COLD
    since: float = 0.0
    leases: int = 0
    waiting: list[float] = field(default_factory=list)
    pinned: bool = False
    closed: bool = False
    promised: bool = False
    retry_at: float = 0.0

    def held(self) -> Mapping[Device, int]:
        """Bytes that it holds on each device now."""
        if self.state is State.COLD:
            return {}
        sleeps = State.ASLEEP in {self.state, self.was if self.state is State.LEAVING else self.state}
        return self.footprint.asleep if sleeps else self.footprint.awake

    @property
    def held_of_host(self) -> int:
        """Bytes of the host's memory that it holds now, or is about to."""
        sleeps = self.state in {State.ASLEEP, State.LEAVING} or (self.moving and self.was is State.ASLEEP)
        return (self.footprint.host_bytes or 0) if sleeps else 0

    def goes(self, state: State, now: float) -> None:
        """It is there now, or on its way."""
        self.was, self.state, self.since = self.state, state, now
        if state is State.WAKING:
            self.promised = False

    @property
    def moving(self) -> bool:
        """Whether it is on its way up or down."""
        return self.state in {State.WAKING, State.LEAVING}
