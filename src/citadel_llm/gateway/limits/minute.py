"""Limits of a minute: the last 60 seconds, sliding."""

from collections import deque
from collections.abc import Callable
from heapq import merge
from math import inf

from citadel_llm.gateway.limits.windows import MINUTE, Bucket, Kind, Step, Window

# Uses that lie closer together share a bucket, so that a minute has at most so many.
_GRAIN = MINUTE / 1024
# The store has a counter for each of these spans of Unix time.
_SLOT_SECONDS = 10
_SLOTS = int(MINUTE) // _SLOT_SECONDS
# Others may still tell of a slot for so long after its end.
_LATE_SECONDS = 2.0
# What was heard is too old to build upon after this: everything is read anew.
COLD_SECONDS = 5.0


class MinuteWindow(Window):
    """The last 60 seconds, sliding: at no moment was more used in the minute before it than the limit."""

    __slots__ = ("_asked", "_heard_at", "_latest", "_log", "_others_log", "_seen", "_told")

    def __init__(self, kind: Kind, key_id: str, limit: int, wake: Callable[[], None]) -> None:
        super().__init__(kind, key_id, limit, wake)
        self._log: deque[Bucket] = deque()
        self._latest = Bucket(-inf, 0)
        self._others_log: deque[Bucket] = deque()
        # By slot: what this gateway told the store, and what it has seen there of others.
        self._told: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._heard_at = -inf
        self._asked: tuple[list[int], int, bool] = ([], 0, False)

    def advance(self, now: float) -> None:
        """Forget what was used more than a minute ago."""
        edge = now - MINUTE
        log = self._log
        while log and log[0].last <= edge:
            gone = log.popleft()
            self.own -= gone.units
            gone.units = 0
        log = self._others_log
        while log and log[0].last <= edge:
            self.others -= log.popleft().units
        self.stale_at = (
            min(
                self._log[0].last if self._log else inf, self._others_log[0].last if self._others_log else inf
            )
            + MINUTE
        )

    def take(self, now: float, n: int) -> Bucket:
        """Count `n` now: with what was used last, where that is but a moment ago."""
        bucket = self._latest
        if now - bucket.first < _GRAIN:
            bucket.last = now
            bucket.units += n
        else:
            self._latest = bucket = Bucket(now, n)
            if not self._log:
                self.stale_at = min(self.stale_at, now + MINUTE)
            self._log.append(bucket)
        self.own += n
        self.pending += n
        if self.pending > self.alarm:
            self.wake()
        return bucket

    def give_back(self, bucket: Bucket, n: int) -> None:
        """Count `n` less, unless it was a minute ago."""
        n = min(n, bucket.units)
        bucket.units -= n
        self.add(-n)

    def wait(self, now: float, n: int) -> float:
        """Seconds until enough of the last minute's uses are older than a minute."""
        excess = self.own + self.others + n - self.bar
        if excess <= 0:
            return 0.0
        for bucket in merge(self._log, self._others_log, key=lambda bucket: bucket.last):
            excess -= bucket.units
            if excess <= 0:
                return max(bucket.last + MINUTE - now, 0.0)
        return MINUTE

    def reset(self, now: float) -> float:
        """Seconds until nothing that was used so far counts any more."""
        newest = self._log[-1].last if self._log else -inf
        if self._others_log:
            newest = max(newest, self._others_log[-1].last)
        return newest + MINUTE - now if newest > now - MINUTE else 0.0

    def count_alone(self, gateways: int) -> None:
        """Go on without the store, and without what others used."""
        super().count_alone(gateways)
        self._others_log.clear()
        self.others = 0

    def count_together(self) -> None:
        """Count together; of what was not told, only what is younger than a minute still matters."""
        super().count_together()
        self.pending = min(self.pending, self.own)
        self._heard_at = -inf

    def ask(self, wall: float) -> list[Step]:
        """Add to the present slot; read those before it as far as something new can be in them."""
        slot = int(wall // _SLOT_SECONDS)
        cold = wall - self._heard_at > COLD_SECONDS
        late = wall - slot * _SLOT_SECONDS < _LATE_SECONDS
        before = _SLOTS if cold else int(late)
        slots = list(range(slot - before, slot + 1))
        self._asked = (slots, self.pending, cold)
        keep = int(MINUTE) + 3 * _SLOT_SECONDS
        return [Step(self._counter(s), self.pending if s == slot else 0, keep) for s in slots]

    def hear(self, now: float, wall: float, values: list[int]) -> None:
        """Note what others used since the last answer, as of now; read anew, as of the end of its slot."""
        slots, sent, cold = self._asked
        self.pending -= sent
        self._told[slots[-1]] = self._told.get(slots[-1], 0) + sent
        if cold:
            self._seen.clear()
            self._others_log.clear()
            self.others = 0
        for slot, value in zip(slots, values, strict=True):
            seen = max(value - self._told.get(slot, 0), 0)
            news = seen - self._seen.get(slot, 0)
            self._seen[slot] = seen
            if news > 0:
                at = now - max(wall - (slot + 1) * _SLOT_SECONDS, 0.0) if cold else now
                self._others_log.append(Bucket(at, news))
                self.others += news
                self.stale_at = min(self.stale_at, at + MINUTE)
            elif news < 0:
                self._forget_newest(-news)
        self._heard_at = wall
        oldest = slots[-1] - _SLOTS - 1
        for slots_of in (self._told, self._seen):
            for slot in [slot for slot in slots_of if slot < oldest]:
                del slots_of[slot]

    def _forget_newest(self, n: int) -> None:
        """Others gave back what they had told."""
        log = self._others_log
        while n and log:
            part = min(n, log[-1].units)
            log[-1].units -= part
            self.others -= part
            n -= part
            if not log[-1].units:
                log.pop()
