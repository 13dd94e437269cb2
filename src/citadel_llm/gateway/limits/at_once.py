"""Limits of requests at once."""

from collections.abc import Callable

from citadel_llm.gateway.limits.windows import Bucket, Kind, Step, Window

# In the store, what is under way is registered anew for each such span of Unix time, one ahead of its begin.
# What a gateway that was killed had registered is thereby forgotten after two of them.
_EPOCH_SECONDS = 15
_FIRST_GUESS_SECONDS = 1.0


_NO_BUCKET = Bucket(0.0, 0)


class AtOnceWindow(Window):
    """Requests under way. When one will end, and its place come back, is guessed from those before."""

    __slots__ = ("_asked", "_mean_seconds", "_told")

    def __init__(self, kind: Kind, key_id: str, limit: int, wake: Callable[[], None]) -> None:
        super().__init__(kind, key_id, limit, wake)
        self._mean_seconds = _FIRST_GUESS_SECONDS
        self._told: dict[int, int] = {}
        self._asked: tuple[tuple[int, ...], int] = ((), 0)

    def advance(self, _now: float) -> None:
        """Nothing ends by itself."""

    def take(self, _now: float, n: int) -> Bucket:
        """Count a request that begins."""
        self.own += n
        self.pending += n
        if self.pending > self.alarm:
            self.wake()
        return _NO_BUCKET

    def give_back(self, _bucket: Bucket, n: int) -> None:
        """Count a request less."""
        self.add(-n)

    def end(self, seconds: float) -> None:
        """A request has ended that took so long."""
        self.own -= 1
        self.pending -= 1
        self._mean_seconds += (seconds - self._mean_seconds) / 8

    def wait(self, now: float, n: int) -> float:
        """Seconds after which one of those under way may be expected to end."""
        return self._mean_seconds / max(self.own + self.others, 1) if self.over(now, n) else 0.0

    def count_alone(self, gateways: int) -> None:
        """Go on without the store, and without what others have under way."""
        super().count_alone(gateways)
        self.others = 0

    def ask(self, wall: float) -> list[Step]:
        """Register what is under way, for this span of time and the next."""
        epoch = int(wall // _EPOCH_SECONDS)
        self._told = {e: n for e, n in self._told.items() if e >= epoch}
        self._asked = ((epoch, epoch + 1), self.own)
        return [
            Step(self._counter(e), self.own - self._told.get(e, 0), 3 * _EPOCH_SECONDS)
            for e in self._asked[0]
        ]

    def hear(self, _now: float, _wall: float, values: list[int]) -> None:
        """Note what others have under way."""
        epochs, own = self._asked
        self._told.update(dict.fromkeys(epochs, own))
        self.pending = self.own - own
        self.others = max(values[0] - own, 0)
