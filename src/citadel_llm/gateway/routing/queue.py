"""Those who wait for a model: bounded, by priority and then arrival, each until its deadline.

A request of a lower class waits as if it had come later: `normal` by a third of `queue_seconds`, `low` by
two. So a class goes before a lower one, yet whoever waits is overtaken only by those who come within that
time after it: in the last third of its time, a request of any class is overtaken by nobody new.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from citadel_llm.config.gateway import Admission
from citadel_llm.gateway.errors import GatewayError, QueueFullError, QueueTimeoutError
from citadel_llm.gateway.routing.metrics import QueueMetrics
from citadel_llm.gateway.routing.residence import Residence

Priority = Literal["high", "normal", "low"]

_CLASSES: tuple[Priority, ...] = ("high", "normal", "low")
_RANKS = {name: rank for rank, name in enumerate(_CLASSES)}

# Over about how long the rate at which requests are finished is measured.
_RATE_SECONDS = 30.0


class Ticket:
    """One request's place in the queue."""

    __slots__ = ("_queue", "arrived", "on_refused", "on_turn", "rank")

    def __init__(
        self,
        queue: "AdmissionQueue",
        rank: int,
        arrived: float,
        on_turn: Callable[[], None],
        on_refused: Callable[[GatewayError], None],
    ) -> None:
        self._queue = queue
        self.rank = rank
        self.arrived = arrived
        self.on_turn = on_turn
        self.on_refused = on_refused

    def leave(self) -> None:
        """The client hung up; afterwards neither callback is called. Leaving twice does nothing."""
        self._queue.remove(self)


class Rate:
    """How many requests a second are finished while others wait; the recent past counts most."""

    def __init__(self) -> None:
        self._finished = 0.0
        self._seconds = 0.0
        self._looked_at: float | None = None

    def begin(self, now: float) -> None:
        """Requests wait from now on: the engines have all that they can take."""
        self._looked_at = now

    def stop(self) -> None:
        """Nobody waits: what is finished from here on says nothing of what could be."""
        self._looked_at = None

    def finished(self, now: float) -> None:
        """A request was finished."""
        if self._looked_at is None:
            return
        passed = now - self._looked_at
        fading = math.exp(-passed / _RATE_SECONDS)
        self._finished = self._finished * fading + 1
        self._seconds = self._seconds * fading + passed
        self._looked_at = now

    def seconds_for(self, count: int, now: float) -> float:
        """How long so many requests take; infinite when nothing is known."""
        passed = now - self._looked_at if self._looked_at is not None else 0.0
        fading = math.exp(-passed / _RATE_SECONDS)
        finished, seconds = self._finished * fading, self._seconds * fading + passed
        return count * seconds / finished if finished > 0 else math.inf


class AdmissionQueue:
    """The queue of one model.

    Args:
        model: The model's name, for messages.
        options: How many may wait, and for how long.
        clock: Tells the time in seconds.
        metrics: Told how long each waited, and who was refused.
        all_full: Tells whether all engines are full that could take a request.
        residence: Where the model is, if it runs on demand: then it is waited for, too.

    Attributes:
        waiting: How many wait.
    """

    def __init__(
        self,
        model: str,
        options: Admission,
        clock: Callable[[], float],
        metrics: QueueMetrics,
        all_full: Callable[[float], bool],
        *,
        residence: Residence | None = None,
    ) -> None:
        self.waiting = 0
        self._model = model
        self._options = options
        self._clock = clock
        self._metrics = metrics
        self._all_full = all_full
        self._residence = residence
        # By arrival. One who leaves is gone at once, from the middle too: a ticket holds a request's body.
        self._classes: tuple[OrderedDict[Ticket, None], ...] = tuple(OrderedDict() for _ in _CLASSES)
        self._handicap = options.queue_seconds / len(_CLASSES)
        self._rate = Rate()
        self._pumping = False

    def must_wait(self) -> bool:
        """Whether a request has to wait: all usable engines are full, or others wait already."""
        return self.waiting > 0 or self._all_full(self._clock())

    def enter(
        self, priority: str, on_turn: Callable[[], None], on_refused: Callable[[GatewayError], None]
    ) -> Ticket:
        """Wait for a turn.

        Args:
            priority: `high`, `normal` or `low`. Where the queue is full, whoever came last of the lowest
                class gives way to a higher one.
            on_turn: Called when it is this request's turn: it is to choose its engine at once.
            on_refused: Called instead when it has waited in vain.

        Raises:
            QueueFullError: Too many wait already.
        """
        now, rank = self._clock(), _RANKS[priority]  # type: ignore[index]  # KeyRecord.priority
        if self.waiting >= self._options.queue_requests:
            self._make_room(rank, now)
        if not self.waiting:
            self._rate.begin(now)
        ticket = Ticket(self, rank, now, on_turn, on_refused)
        self._classes[rank][ticket] = None
        self.waiting += 1
        return ticket

    def remove(self, ticket: Ticket) -> None:
        """Forget one that waits; see `Ticket.leave`."""
        line = self._classes[ticket.rank]
        if ticket not in line:
            return
        del line[ticket]
        self.waiting -= 1
        if not self.waiting:
            self._rate.stop()

    def place_freed(self) -> None:
        """An engine has finished a request: the next one's turn."""
        self._rate.finished(self._clock())
        self.pump()

    def pump(self) -> None:
        """Give those their turn for whom there is room; all of them when no engine is left to wait for."""
        if self._pumping:
            return
        self._pumping = True
        # Who waits again at its turn, as nobody should, must not keep this going for ever.
        turns = self.waiting
        try:
            while turns and self.waiting and not self._all_full(now := self._clock()):
                turns -= 1
                ticket = self._next()
                self.remove(ticket)
                self._metrics.waited(now - ticket.arrived)
                ticket.on_turn()
        finally:
            self._pumping = False

    def sweep(self, now: float) -> None:
        """Refuse those whose time is over, and look for room; every quarter of a second or so."""
        if not self.waiting:
            return
        longest = self._longest(now)
        latest = now - longest
        for line in self._classes:
            while line and (ticket := next(iter(line))).arrived <= latest:
                self.remove(ticket)
                self._refuse(ticket, now, longest)
        self.pump()

    def retry_after(self, now: float) -> float:
        """Seconds until those who wait now are served, or refused: whichever comes first."""
        longest = self._longest(now)
        return max(1.0, min(self._rate.seconds_for(self.waiting + 1, now), longest))

    def _longest(self, now: float) -> float:
        """How long one may wait, in seconds."""
        turn = self._options.queue_seconds
        return turn if self._residence is None else self._residence.longest_wait(now, turn)

    def _next(self) -> Ticket:
        """Whose turn it is. Only with somebody there."""
        best: Ticket | None = None
        turn = math.inf
        for rank, line in enumerate(self._classes):
            first = next(iter(line), None)
            if first is not None and first.arrived + rank * self._handicap < turn:
                best = first
                turn = best.arrived + rank * self._handicap
        assert best is not None  # noqa: S101 - `waiting` counts those that are in the lines
        return best

    def _make_room(self, rank: int, now: float) -> None:
        """Have the last one of a lower class give way.

        Raises:
            QueueFullError: There is none.
        """
        for line in reversed(self._classes[rank + 1 :]):
            if line:
                ticket = next(reversed(line))
                self.remove(ticket)
                self._metrics.refused("full")
                ticket.on_refused(self._full(now))
                return
        self._metrics.refused("full")
        raise self._full(now)

    def _full(self, now: float) -> QueueFullError:
        message = f"Too many requests wait for the model '{self._model}'; try again later."
        return QueueFullError(message, retry_after=self.retry_after(now))

    def _refuse(self, ticket: Ticket, now: float, seconds: float) -> None:
        self._metrics.refused("deadline")
        message = f"The request waited {seconds:g} s for the model '{self._model}'; try again later."
        ticket.on_refused(QueueTimeoutError(message, retry_after=self.retry_after(now)))
