"""Limits of a day and of a month, both of UTC."""

import time
from collections.abc import Callable
from math import ceil, inf

from citadel_llm.gateway.limits.windows import TOKENS_PER_DAY, Bucket, Kind, Step, Window, wall_clock

_LOOK_SECONDS = 10.0


class BudgetWindow(Window):
    """A day or a month of UTC. What was spent comes back when the next one begins."""

    __slots__ = ("_asked", "_base", "_bucket", "_ends", "_heard", "_told", "period")

    def __init__(self, kind: Kind, key_id: str, limit: int, wake: Callable[[], None]) -> None:
        super().__init__(kind, key_id, limit, wake)
        self._begin(wall_clock())
        self.stale_at = -inf

    def _begin(self, wall: float) -> None:
        self.period, self._ends = period_of(self.kind, wall)
        self.own = self.others = self.pending = 0
        self._told = self._heard = self._base = 0
        self._asked = (0, self.period)
        self._bucket = Bucket(wall, 0)
        self.bar = ceil(self.limit / self.gateways)

    def advance(self, now: float, /) -> None:
        """Begin a new day or month when its time has come."""
        wall = wall_clock()
        if wall >= self._ends:
            self._begin(wall)
        # The two clocks may drift apart, or Unix time be set: it is looked at again before long.
        self.stale_at = now + min(self._ends - wall, _LOOK_SECONDS)

    def take(self, _now: float, n: int) -> Bucket:
        """Count `n` for this day or month, which has one bucket."""
        self.own += n
        self.pending += n
        if self.pending > self.alarm:
            self.wake()
        return self._bucket

    def give_back(self, bucket: Bucket, n: int) -> None:
        """Count `n` less, unless another day or month has begun."""
        if bucket is self._bucket:
            self.add(-n)

    def wait(self, now: float, n: int) -> float:
        """Seconds until the next day or month."""
        return max(self._ends - wall_clock(), 0.0) if self.over(now, n) else 0.0

    def count_alone(self, gateways: int) -> None:
        """Go on without the store: with this gateway's share of what was left when it was last heard."""
        super().count_alone(gateways)
        used = self.own + self.others
        self.bar = min(used + ceil(max(self.limit - used, 0) / gateways), self.limit)

    def known(self, period: int, spent: int, own: int) -> None:
        """Take over what the database knows to be spent: by all gateways, and from before this one started.

        Args:
            period: The day or month that it is about (`period_of`).
            spent: Tokens, by the database.
            own: `own` when the database was asked: the part that may be in `spent` already.
        """
        if period == self.period:
            self._base = max(self._base, spent - own)
            self.others = max(self._heard, self._base)

    def ask(self, wall: float) -> list[Step]:
        """Add what was spent."""
        self._asked = (self.pending, self.period)
        begun, ends = period_of(self.kind, wall)
        return [Step(self._counter(begun), self.pending, int(ends - wall) + 86400)]

    def hear(self, _now: float, _wall: float, values: list[int]) -> None:
        """Note what others spent."""
        sent, period = self._asked
        if period == self.period:
            self.pending -= sent
            self._told += sent
            self._heard = max(values[0] - self._told, 0)
            self.others = max(self._heard, self._base)


def period_of(kind: Kind, wall: float) -> tuple[int, float]:
    """The day or month of UTC that a moment lies in: its number (20261123, 202611), and when it ends."""
    moment = time.gmtime(wall)
    if kind is TOKENS_PER_DAY:
        return moment.tm_year * 10000 + moment.tm_mon * 100 + moment.tm_mday, wall - wall % 86400 + 86400
    days = (wall // 86400) - (moment.tm_mday - 1)
    length = _days_in_month(moment.tm_year, moment.tm_mon)
    return moment.tm_year * 100 + moment.tm_mon, (days + length) * 86400


def _days_in_month(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
