"""What a key has used of one limit. The kinds of limits stand in `minute.py`, `budget.py` and `at_once.py`.

One arithmetic serves one gateway and several. `own` is what this gateway let through, exactly; `others` what
the other gateways did, as far as the store told (nothing, where there is no store). A request fits while
`own + others + n <= bar`, and while no more than `lead` is `pending`: let through, but not told to the store
yet. With N gateways the limit is therefore exceeded by at most (N - 1) times the larger of `lead` and one
request: who heard from the store last counts right, each of the others is ahead of it by no more than that.

Time is in seconds: `now` is the monotonic clock's, `wall` Unix time. All of it is synchronous and cheap; the
store is asked by `exchange.py`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf
from typing import NamedTuple

# A module's names of its own, so that a test can give it another clock.
wall_clock = time.time

MINUTE = 60.0

# Of the limit: how far a gateway may be ahead of the store. A larger part would let more through in excess
# when several gateways are asked at once, a smaller one would refuse bursts before the store could answer.
_LEAD_SHARE = 8
# But so many requests at least, for the first ones of a small limit come at once, too.
_LEAST_REQUESTS = 4
_NO_LEAD = 1 << 62


@dataclass(frozen=True)
class Kind:
    """A kind of limit.

    Attributes:
        name: As in KeyRecord and in the settings.
        words: What a number of it is called, for the client.
        unit: `requests` or `tokens`.
        budget: Whether it is spent, rather than refilled all the time.
    """

    name: str
    words: str
    unit: str
    budget: bool = False


REQUESTS_PER_MINUTE = Kind("requests_per_minute", "requests a minute", "requests")
TOKENS_PER_MINUTE = Kind("tokens_per_minute", "tokens a minute", "tokens")
CONCURRENT_REQUESTS = Kind("concurrent_requests", "requests at once", "requests")
TOKENS_PER_DAY = Kind("tokens_per_day", "tokens a day (UTC)", "tokens", budget=True)
TOKENS_PER_MONTH = Kind("tokens_per_month", "tokens a month (UTC)", "tokens", budget=True)
KINDS = (REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE, CONCURRENT_REQUESTS, TOKENS_PER_DAY, TOKENS_PER_MONTH)


class Step(NamedTuple):
    """One step of an exchange with the store: add to a counter, or only read it when `add` is 0."""

    counter: str
    add: int
    keep_seconds: int


class Bucket:
    """What was used within a moment; whoever took part of it can give that back while it counts."""

    __slots__ = ("first", "last", "units")

    def __init__(self, at: float, units: int) -> None:
        self.first = at
        self.last = at
        self.units = units


class Window(ABC):
    """What a key has used of one limit.

    Args:
        kind: The limit's kind.
        key_id: The key's id: part of the counters' names in the store.
        limit: The limit.
        wake: Called when the store should be asked soon.
    """

    __slots__ = (
        "alarm",
        "bar",
        "gateways",
        "key_id",
        "kind",
        "lead",
        "limit",
        "others",
        "own",
        "pending",
        "stale_at",
        "wake",
    )

    def __init__(self, kind: Kind, key_id: str, limit: int, wake: Callable[[], None]) -> None:
        self.kind = kind
        self.key_id = key_id
        self.limit = limit
        self.wake = wake
        self.own = 0
        self.others = 0
        self.pending = 0
        self.bar = limit
        self.lead = self.alarm = _NO_LEAD
        self.gateways = 1
        # When something may have to be forgotten next: until then, `advance` has nothing to do.
        self.stale_at = inf

    def fits(self, now: float, n: int, /) -> bool:
        """Whether `n` more may be let through now."""
        if now >= self.stale_at:
            self.advance(now)
        if self.own + self.others + n <= self.bar and (self.pending + n <= self.lead or self.pending <= 0):
            return True
        # A share of a limit may be smaller than one request, which could then never pass.
        return self.bar < self.limit and not self.own and self.others + n <= self.limit

    def over(self, now: float, n: int) -> bool:
        """Whether the limit itself forbids `n` more; not only the store's answer that is waited for."""
        self.advance(now)
        return self.own + self.others + n > self.bar

    def add(self, n: int) -> None:
        """Count `n`, less where it is negative, and have the store told soon when much is untold."""
        self.own += n
        self.pending += n
        if self.pending > self.alarm:
            self.wake()

    @abstractmethod
    def advance(self, now: float, /) -> None:
        """Forget what counts no longer."""

    @abstractmethod
    def take(self, now: float, n: int, /) -> Bucket:
        """Count `n`; the bucket is for `give_back`."""

    @abstractmethod
    def give_back(self, bucket: Bucket, n: int, /) -> None:
        """Count `n` less, of what `take` counted; nothing where that has been forgotten meanwhile."""

    @abstractmethod
    def wait(self, now: float, n: int) -> float:
        """Seconds until `n` more would fit, as things are now."""

    def count_alone(self, gateways: int) -> None:
        """Go on without the store: with this gateway's share of the limit."""
        self.gateways, self.bar = gateways, ceil(self.limit / gateways)
        self.lead = self.alarm = _NO_LEAD

    def count_together(self) -> None:
        """Count together with other gateways, beginning with the store's next answer."""
        self.gateways, self.bar = 1, self.limit
        least = min(self.limit, _LEAST_REQUESTS) if self.kind.unit == "requests" else 1
        self.lead = max(ceil(self.limit / _LEAD_SHARE), least)
        self.alarm = self.lead // 2

    @abstractmethod
    def ask(self, wall: float) -> list[Step]:
        """What to do in the store: tell what is pending, read what others told."""

    @abstractmethod
    def hear(self, now: float, wall: float, values: list[int], /) -> None:
        """Take over the store's answer to what `ask` gave last: the counters' values after it."""

    def _counter(self, part: object) -> str:
        return f"{self.kind.name}:{self.key_id}:{part}"
