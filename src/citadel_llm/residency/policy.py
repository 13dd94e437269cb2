"""What moves next: which model is woken, and which make room for it.

The rules, in the order of their weight:

1. Memory is never promised twice, and one model at a time moves on a device.
2. Nothing is taken from a model that answers a request, that is pinned, or that has not had its minimum stay.
3. Of the models that are waited for, the one with most requests for what bringing it up takes goes first;
   after `longest_wait`, whoever waits longest. After `patience` what is in its way takes no more requests,
   finishes those it has, and goes. So nobody starves.
4. Before that, models change places only where it pays: when those that wait have together waited as long as
   those that would be sent away would cost their own clients. (To rent until the rent has reached the price
   never costs more than twice the best that could have been done: the ski-rental argument of Karlin et al.,
   "Competitive snoopy caching", 1988.) So clients that alternate between two models do not make them thrash,
   and a model that nobody wants any more goes at once.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from citadel_llm.residency.holding import Device, Holding, State

# Up to so many ways to make room, all sets of them are looked at; beyond, the cheapest for its room first.
_MOST_EXACTLY = 12


class Action(StrEnum):
    """What is done to a model."""

    WAKE = "wake"
    SLEEP = "sleep"
    STOP = "stop"
    CLOSE = "close"
    """It takes no more requests: it is to go when it has answered those it has."""
    OPEN = "open"
    """It takes requests again: nobody wants its place any more."""


@dataclass(frozen=True)
class Step:
    """One thing to do now."""

    action: Action
    model: str
    # For whom room is made; empty when it is for itself.
    wanted_by: str = ""


@dataclass(frozen=True)
class _Way:
    """One way to get room from a model: `moves` name what is done to whom, the model itself first."""

    model: Holding
    moves: tuple[tuple[Holding, Action], ...]
    freed: Mapping[Device, int]
    price: float
    # Bytes that it takes of the host's memory.
    sleeps: int = 0


@dataclass(frozen=True)
class Policy:
    """Decides for one host.

    Attributes:
        devices: Bytes on each device that models on demand may hold together.
        host_bytes: Bytes of the host's memory that sleeping models may hold together.
        minimum_stay: Seconds for which a model that was woken stays awake.
        patience: Seconds after which what is in a model's way is made to go.
        longest_wait: Seconds after which who waits longest goes first.
    """

    devices: Mapping[Device, int]
    host_bytes: int = 0
    minimum_stay: float = 30.0
    patience: float = 60.0
    longest_wait: float = 150.0

    def decide(self, models: Iterable[Holding], now: float) -> list[Step]:
        """What to do next, given where all models are; nothing where all is as it should be.

        It is to be asked again when that is begun, whenever something has changed, and once a second.
        """
        everyone = list(models)
        free = self.free(everyone)
        # Where a model moves, or one is to come that has waited long enough: nobody else gets anything there.
        taken = {device for model in everyone if model.moving for device in model.footprint.awake}
        kept_closed: set[str] = set()
        for model in self._queue(everyone, now):
            mine = set(model.footprint.awake)
            if not mine & taken:
                short = self._short(model, free)
                if not short:
                    return [Step(Action.WAKE, model.name)]
                ways = self._room(model, short, everyone, now)
                steps = list(_steps(ways, model.name))
                if steps:
                    return steps
                # Those that are in its way and answer requests yet.
                kept_closed |= {way.model.name for way in ways}
            if self._is_forced(model, now):
                taken |= mine
        closed = (model for model in everyone if model.closed and model.state is State.AWAKE)
        return [Step(Action.OPEN, model.name) for model in closed if model.name not in kept_closed]

    def ready_in(self, model: Holding, models: Iterable[Holding], now: float) -> float:
        """Seconds until a model can be awake, for who asks now, as far as can be told."""
        everyone = list(models)
        asleep = State.ASLEEP in {model.state, model.was if model.state is State.WAKING else model.state}
        takes = model.costs.wake if asleep else model.costs.start
        if model.state is State.WAKING:
            passed = now - model.since
            # One that takes longer than it used to may take a while yet.
            return max(takes - passed, passed / 4)
        wait = max(0.0, model.retry_at - now)
        if not self._short(model, self.free(everyone)):
            return wait + takes
        queue = self._queue(everyone, now)
        ahead = queue[: queue.index(model)] if model in queue else queue
        mine = set(model.footprint.awake)
        others = sum(
            each.costs.start + self.minimum_stay for each in ahead if mine & set(each.footprint.awake)
        )
        waited = now - model.waiting[0] if model.waiting else 0.0
        leave = max(
            (each.costs.leave for each in everyone if each is not model and mine & set(each.held())),
            default=0.0,
        )
        return max(wait, max(0.0, self.patience - waited) + others) + leave + takes

    def free(self, models: Iterable[Holding]) -> dict[Device, int]:
        """Bytes that nobody holds on each device."""
        free = dict(self.devices)
        for model in models:
            for device, size in model.held().items():
                free[device] -= size
        return free

    def price(self, model: Holding, action: Action, now: float, horizon: float) -> float:
        """What its own clients would wait, all together, if a model went: seconds, as far as can be told.

        Args:
            model: The one that would go.
            action: SLEEP or STOP.
            now: The time.
            horizon: For how long it would be gone at least, in seconds.
        """
        rate = model.demand.rate(now)
        back = model.costs.wake if action is Action.SLEEP else model.costs.start
        if model.state is State.ASLEEP:
            back -= model.costs.wake  # that it would wait for anyway
        wanted = 1 - math.exp(-rate * (horizon + back))
        # The first waits for all of it, those that come meanwhile for half on average.
        return wanted * max(back, 0.0) * (1 + rate * max(back, 0.0) / 2)

    def _queue(self, models: Iterable[Holding], now: float) -> list[Holding]:
        """The models that somebody waits for and that can be woken, in the order of their turns."""
        wanted = (
            model
            for model in models
            if model.state in {State.COLD, State.ASLEEP} and now >= model.retry_at
            if model.waiting or model.pinned
        )

        def turn(model: Holding) -> tuple[int, float, str]:
            oldest = model.waiting[0] if model.waiting else now
            if model.promised or model.pinned:
                return 0, oldest, model.name
            if now - oldest >= self.longest_wait:
                return 1, oldest, model.name
            takes = model.costs.wake if model.state is State.ASLEEP else model.costs.start
            return 2, -len(model.waiting) / takes, model.name

        return sorted(wanted, key=turn)

    def _is_forced(self, model: Holding, now: float) -> bool:
        return model.pinned or (bool(model.waiting) and now - model.waiting[0] >= self.patience)

    def _short(self, model: Holding, free: Mapping[Device, int]) -> dict[Device, int]:
        """Bytes that are missing on each device for a model to be awake."""
        holds = model.held()
        missing = {
            device: size - holds.get(device, 0) - free[device]
            for device, size in model.footprint.awake.items()
        }
        return {device: size for device, size in missing.items() if size > 0}

    def _room(
        self, model: Holding, short: Mapping[Device, int], everyone: Sequence[Holding], now: float
    ) -> tuple[_Way, ...]:
        """The ways to get that much room for a model; none where it cannot be, or does not pay yet."""
        forced = self._is_forced(model, now)
        horizon = model.costs.start + self.minimum_stay
        ways = [
            way
            for each in everyone
            if each is not model and self._may_go(each, now, forced=forced)
            for way in self._ways(each, everyone, short, now, horizon)
        ]
        spare = self.host_bytes - sum(each.held_of_host for each in everyone)
        chosen = _cheapest(ways, short, spare)
        waited = sum(now - at for at in model.waiting)
        return chosen if forced or waited >= sum(way.price for way in chosen) else ()

    def _may_go(self, model: Holding, now: float, *, forced: bool) -> bool:
        if model.pinned or model.state not in {State.AWAKE, State.ASLEEP}:
            return False
        if model.state is State.ASLEEP:
            return not model.waiting or forced
        # One that is busy finishes first: it is only closed, and only for who has waited long enough.
        return now - model.since >= self._stay(model) and (not model.leases or forced)

    def _stay(self, model: Holding) -> float:
        """For how long it keeps its place: no longer than coming back takes."""
        sleeps = model.footprint.host_bytes is not None
        return min(self.minimum_stay, model.costs.wake if sleeps else model.costs.start)

    def _ways(
        self,
        model: Holding,
        everyone: Sequence[Holding],
        short: Mapping[Device, int],
        now: float,
        horizon: float,
    ) -> Iterator[_Way]:
        """To put it to sleep, or to stop it, where that gives room on the devices that are short of it."""
        if model.state is State.AWAKE and model.footprint.host_bytes is not None:
            yield from self._to_sleep(model, everyone, short, now, horizon)
        held = model.held()
        if any(device in held for device in short):
            yield _Way(model, ((model, Action.STOP),), held, self.price(model, Action.STOP, now, horizon))

    def _to_sleep(
        self,
        model: Holding,
        everyone: Sequence[Holding],
        short: Mapping[Device, int],
        now: float,
        horizon: float,
    ) -> Iterator[_Way]:
        room = self._room_in_host(model, everyone, now, horizon)
        if room is None:
            return
        asleep = model.footprint.asleep
        freed = {device: size - asleep.get(device, 0) for device, size in model.held().items()}
        price = self.price(model, Action.SLEEP, now, horizon)
        for sleeper in room:
            price += self.price(sleeper, Action.STOP, now, horizon)
            for device, size in sleeper.held().items():
                freed[device] = freed.get(device, 0) + size
        if any(freed.get(device, 0) > 0 for device in short):
            moves = ((model, Action.SLEEP), *((sleeper, Action.STOP) for sleeper in room))
            sleeps = (model.footprint.host_bytes or 0) - sum(sleeper.held_of_host for sleeper in room)
            yield _Way(model, moves, freed, price, sleeps)

    def _room_in_host(
        self, model: Holding, everyone: Sequence[Holding], now: float, horizon: float
    ) -> list[Holding] | None:
        """The sleepers to stop so that a model can sleep, the least wanted first; None if all are too few."""
        missing = (
            sum(each.held_of_host for each in everyone) + (model.footprint.host_bytes or 0) - self.host_bytes
        )
        sleepers = [
            each
            for each in everyone
            if each.state is State.ASLEEP and not each.waiting and not each.pinned and each is not model
        ]
        sleepers.sort(key=lambda each: self.price(each, Action.STOP, now, horizon))
        stopped: list[Holding] = []
        while missing > 0:
            if not sleepers:
                return None
            stopped.append(sleepers.pop(0))
            missing -= stopped[-1].held_of_host
        return stopped


def _steps(ways: Sequence[_Way], wanted_by: str) -> Iterator[Step]:
    """What to do now: those that still answer requests are only closed, once."""
    for way in ways:
        if not way.model.leases:
            yield from (Step(action, model.name, wanted_by) for model, action in way.moves)
        elif not way.model.closed:
            yield Step(Action.CLOSE, way.model.name, wanted_by)


def _cheapest(ways: Sequence[_Way], short: Mapping[Device, int], spare: int) -> tuple[_Way, ...]:
    """The ways that together give what is short, at the least price; none where all of them do not.

    Args:
        ways: What could be done.
        short: Bytes that are missing on each device.
        spare: Bytes of the host's memory in which nobody sleeps.
    """
    if len(ways) <= _MOST_EXACTLY:
        sets = (
            chosen
            for count in range(1, len(ways) + 1)
            for chosen in itertools.combinations(ways, count)
            if _go_together(chosen, spare) and not _still_short(chosen, short)
        )
        return min(sets, key=lambda chosen: (sum(way.price for way in chosen), len(chosen)), default=())
    chosen: list[_Way] = []
    while missing := _still_short(chosen, short):
        useful = [way for way in ways if _gain(way, missing) and _go_together((*chosen, way), spare)]
        if not useful:
            return ()
        chosen.append(min(useful, key=lambda way: way.price / _gain(way, missing)))
    return tuple(chosen)


def _go_together(ways: Sequence[_Way], spare: int) -> bool:
    """Whether no model is moved twice, and those that are put to sleep have room in the host's memory."""
    moved = [model.name for way in ways for model, _ in way.moves]
    return len(set(moved)) == len(moved) and sum(way.sleeps for way in ways) <= max(spare, 0)


def _still_short(ways: Iterable[_Way], short: Mapping[Device, int]) -> dict[Device, int]:
    left = {device: size - sum(way.freed.get(device, 0) for way in ways) for device, size in short.items()}
    return {device: size for device, size in left.items() if size > 0}


def _gain(way: _Way, short: Mapping[Device, int]) -> int:
    return sum(min(way.freed.get(device, 0), size) for device, size in short.items())
