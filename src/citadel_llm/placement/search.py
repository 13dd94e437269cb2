"""The search for an arrangement: which model on which devices, so that nothing overflows.

A depth-first search that places the models one after the other, the largest first. It is exact: within its
budget it finds an arrangement whenever there is one. Devices in the same state are tried once. Its budget is
in nodes: one is one device tried for one worker. Time is never asked, so that the same input gives the same
plan on every machine.

Of each device it knows `base`, what is always taken (residents awake, sleepers' rests), and `swing`, the most
that one model on demand takes on top of it. Models on demand are awake one at a time: their needs are not
summed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

from citadel_llm.placement.options import Demand, Option
from citadel_llm.placement.plan import Residency
from citadel_llm.placement.slots import Slots


@dataclass(frozen=True)
class Place:
    """Where one model is: its option, and the position of each worker's device."""

    option: Option
    positions: tuple[int, ...]


Arrangement = list[Place]


class State:
    """What is taken of each device by the models placed so far."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.base = [0] * len(slots.devices)
        self.swing = [0] * len(slots.devices)

    def left(self, position: int, awake: int, asleep: int, residency: Residency) -> int:
        """What would be left of a device's usable memory with one more worker on it; negative: too much."""
        base, swing = self.base[position], self.swing[position]
        if residency == "resident":
            base += awake
        elif residency == "warm":
            base += asleep
            swing = max(swing, awake - asleep)
        else:
            swing = max(swing, awake)
        return self.slots.usable[position] - base - swing

    def put(self, place: Place, residency: Residency) -> list[tuple[int, int, int]]:
        """Place a model; returns what `take_back` wants."""
        before = []
        for worker, position in enumerate(place.positions):
            before.append((position, self.base[position], self.swing[position]))
            awake, asleep = place.option.awake[worker], place.option.asleep[worker]
            if residency == "resident":
                self.base[position] += awake
            elif residency == "warm":
                self.base[position] += asleep
                self.swing[position] = max(self.swing[position], awake - asleep)
            else:
                self.swing[position] = max(self.swing[position], awake)
        return before

    def take_back(self, before: list[tuple[int, int, int]]) -> None:
        """Undo the latest `put` that is not undone."""
        for position, base, swing in before:
            self.base[position], self.swing[position] = base, swing


class Budget:
    """How many nodes may still be looked at, by one search and by all together."""

    def __init__(self, each: int, total: int) -> None:
        self.each = each
        self.left = total
        self.used = 0
        self.cut_short = False

    def open(self) -> int:
        """Begin a search: how many nodes it may take."""
        return min(self.each, self.left)

    def spend(self, nodes: int) -> None:
        """Book what a search took."""
        self.used += nodes
        self.left -= nodes


class _ExhaustedError(Exception):
    pass


class Search:
    """One search over all demands with given residencies.

    Args:
        slots: The devices.
        demands: The models.
        residencies: One for each of them.
        most: Over how many devices each may be laid; any number when absent.
        spread: Put each on the emptiest devices, not on the fullest that hold it.
    """

    def __init__(
        self,
        slots: Slots,
        demands: Sequence[Demand],
        residencies: Sequence[Residency],
        most: Sequence[int] | None = None,
        *,
        spread: bool = False,
    ) -> None:
        self._slots = slots
        self._demands = demands
        self._residencies = residencies
        self._devices = most
        self._spread = spread
        self.nodes = 0
        self._most_nodes = 0

    def run(self, budget: Budget) -> Arrangement | None:
        """An arrangement; none when there is none, or, with `budget.cut_short` set, when none was found."""
        if self.impossible():
            return None
        self._most_nodes, self.nodes = budget.open(), 0
        places: dict[int, Place] = {}
        try:
            found = self._place(self.order(), State(self._slots), places)
        except _ExhaustedError:
            budget.cut_short = True
            found = False
        budget.spend(self.nodes)
        return [places[each] for each in range(len(self._demands))] if found else None

    def first_place(self, index: int, state: State, budget: Budget) -> Place | None:
        """A place for one model where the others stay; none when the state has no room for it."""
        self._most_nodes, self.nodes = budget.open(), 0
        try:
            place = next(self.places(index, state), None)
        except _ExhaustedError:
            budget.cut_short = True
            place = None
        budget.spend(self.nodes)
        return place

    def impossible(self) -> bool:
        """Whether the sums alone say that there is no arrangement."""
        always = 0
        for demand, residency in zip(self._demands, self._residencies, strict=True):
            first = demand.first
            if first is None:
                return True
            # Over more devices, or on another kind, the weights together do not get less; a tenth is for what
            # is measured in one layout and reckoned in another.
            always += first.weights * 9 // 10 if residency == "resident" else 0
        return always > sum(self._slots.usable)

    def places(self, index: int, state: State) -> Iterator[Place]:
        """Every place of one model that the state has room for, the most preferred first."""
        residency = self._residencies[index]
        if not self._spread or len(self._slots.kinds) == 1:
            for option in self._options(index):
                yield from self._seats(option, residency, state, ())
            return
        # Of several kinds of device one that nothing is on yet, else the emptiest, whichever kind it is of.
        for layout, same in groupby(self._options(index), key=lambda option: option.layout):
            seats = (seat for option in same for seat in self._seats(option, residency, state, ()))
            if layout.devices > 1:
                yield from seats
            else:
                yield from sorted(seats, key=lambda seat: self._fullness(seat, state, residency))

    def _options(self, index: int) -> Iterator[Option]:
        options = self._demands[index].options()
        if self._devices is None:
            return options
        most = self._devices[index]
        # They come with the fewest devices first.
        return takewhile(lambda option: option.layout.devices <= most, options)

    def _fullness(self, place: Place, state: State, residency: Residency) -> tuple[bool, int]:
        awake, asleep, position = place.option.awake[0], place.option.asleep[0], place.positions[0]
        used = state.base[position] + state.swing[position] > 0
        return used, -state.left(position, awake, asleep, residency)

    def order(self) -> list[int]:
        """The pinned first, then by what one device must hold of them."""

        def key(index: int) -> tuple[bool, int, int]:
            first = self._demands[index].first
            return (not self._demands[index].engine_gpus, -max(first.awake) if first else 0, index)

        return sorted(range(len(self._demands)), key=key)

    def _place(self, order: list[int], state: State, places: dict[int, Place]) -> bool:
        """Place the models in this order; a stack of its own, for catalogues may be longer than Python's."""
        trials: list[Iterator[Place]] = []
        undo: list[list[tuple[int, int, int]]] = []
        while len(undo) < len(order):
            index = order[len(undo)]
            if len(trials) == len(undo):
                trials.append(self.places(index, state))
            place = next(trials[-1], None)
            if place is not None:
                undo.append(state.put(place, self._residencies[index]))
                places[index] = place
                continue
            trials.pop()
            if not undo:
                return False
            state.take_back(undo.pop())
        return True

    def _seats(
        self, option: Option, residency: Residency, state: State, taken: tuple[int, ...]
    ) -> Iterator[Place]:
        worker = len(taken)
        if worker == option.layout.devices:
            yield Place(option, taken)
            return
        for position in self._positions(option, residency, state, taken):
            yield from self._seats(option, residency, state, (*taken, position))

    def _positions(
        self, option: Option, residency: Residency, state: State, taken: tuple[int, ...]
    ) -> list[int]:
        """The devices with room for the next worker, one of each state, the most preferred first."""
        worker = len(taken)
        awake, asleep = option.awake[worker], option.asleep[worker]
        if option.fixed:
            self._count(1)
            position = option.positions[worker]
            return [position] if state.left(position, awake, asleep, residency) >= 0 else []
        self._count(len(option.positions))
        group = () if option.loose else taken[worker - worker % option.layout.tensor_parallel :]
        sign = -1 if self._spread else 1
        seen: dict[tuple[int, ...], int] = {}
        for position in option.positions:
            if position in taken or (group and not self._near(position, group)):
                continue
            left = state.left(position, awake, asleep, residency)
            if left < 0:
                continue
            key = self._key(option, position, taken, sign * left, state)
            if key not in seen:
                seen[key] = position
        if worker and self._interchangeable(option, worker):
            # The same two devices in the other order would change nothing.
            before, at = taken[:-1], taken[-1]
            left = state.left(at, option.awake[worker - 1], option.asleep[worker - 1], residency)
            last = self._key(option, at, before, sign * left, state)
            return [seen[key] for key in sorted(seen) if key >= last]
        return [seen[key] for key in sorted(seen)]

    def _near(self, position: int, group: tuple[int, ...]) -> bool:
        fast = self._slots.fast[position]
        return all(fast[mate] for mate in group)

    def _key(
        self, option: Option, position: int, taken: tuple[int, ...], left: int, state: State
    ) -> tuple[int, ...]:
        """What decides whether a device is tried before another, and which two are alike."""
        way = self._way(option, position, taken) if self._slots.linked else 0
        return (way, left, self._slots.twins[position], state.base[position], state.swing[position])

    def _interchangeable(self, option: Option, worker: int) -> bool:
        return (
            not self._slots.linked
            and option.awake[worker] == option.awake[worker - 1]
            and option.asleep[worker] == option.asleep[worker - 1]
        )

    def _way(self, option: Option, position: int, taken: tuple[int, ...]) -> int:
        """How far the device is from the one before it; for the first, from its nearest neighbour."""
        if option.layout.devices == 1:
            return 0
        if taken:
            return self._slots.distance[position][taken[-1]]
        return min(self._slots.distance[position][other] for other in option.positions if other != position)

    def _count(self, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > self._most_nodes:
            raise _ExhaustedError


def state_of(
    slots: Slots, places: Sequence[Place], residencies: Sequence[Residency], without: int | None = None
) -> State:
    """What an arrangement takes of each device, leaving out one model if wished."""
    state = State(slots)
    for index, (place, residency) in enumerate(zip(places, residencies, strict=True)):
        if index != without:
            state.put(place, residency)
    return state
