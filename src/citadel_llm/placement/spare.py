"""Shares out what an arrangement leaves: longer contexts, in the catalogue's order, then larger KV caches.

Nothing here can break what the search ensured: each growth is measured against what is left of every device
that it touches, with the largest model on demand awake.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from citadel_llm.placement.options import Build, Demand, whole
from citadel_llm.placement.plan import Residency
from citadel_llm.placement.search import Place
from citadel_llm.placement.slots import Slots
from citadel_llm.placement.terms import GIB, MIB

# vLLM runs at most so many requests at once unless told otherwise (`max_num_seqs`, the default of its API
# server on GPUs of less than 70 GiB). A larger KV cache would keep prefixes only.
MOST_REQUESTS = 256
# A context that is not the model's own is a multiple of this many tokens.
_CONTEXT_STEP = 256


@dataclass
class Share:
    """What one model has: grows as memory is shared out.

    Attributes:
        demand: What it asks for.
        place: Where it is.
        residency: Whether it is always awake.
        context: Longest context in tokens.
        kv_cache: KV cache on each device in bytes.
    """

    demand: Demand
    place: Place
    residency: Residency
    context: int
    kv_cache: int

    @property
    def open(self) -> bool:
        """Whether its KV cache may grow: the catalogue does not say how large it is."""
        return self.demand.wish.model.engine.kv_cache_gib is None

    def kv_for(self, context: int, requests: int) -> int:
        """The KV cache on each device for so many requests of so many tokens."""
        return max(need.kv.bytes_for(context, requests) for need in self.place.option.needs)

    def requests(self) -> int:
        """How many requests of its longest context the KV cache holds at once."""
        low, high = 0, max(MOST_REQUESTS, self.demand.wish.model.engine.concurrent_requests)
        while low < high:
            middle = (low + high + 1) // 2
            if self.kv_for(self.context, middle) <= self.kv_cache:
                low = middle
            else:
                high = middle - 1
        return low


class Ledger:
    """What every device has left, kept up to date while shares grow."""

    def __init__(self, slots: Slots, shares: Sequence[Share]) -> None:
        self._usable = slots.usable
        self._base = [0] * len(slots.devices)
        self._swings: list[dict[int, int]] = [{} for _ in slots.devices]
        self.shares = list(shares)
        for index, share in enumerate(self.shares):
            for worker, position in enumerate(share.place.positions):
                need = share.place.option.needs[worker]
                awake = need.fixed_bytes + share.kv_cache
                if share.residency == "resident":
                    self._base[position] += awake
                elif share.residency == "warm":
                    self._base[position] += need.asleep_bytes
                    self._swings[position][index] = awake - need.asleep_bytes
                else:
                    self._swings[position][index] = awake

    def room(self, index: int) -> int:
        """By how much the KV cache of one model could grow on each of its devices."""
        return min(self._room_on(index, position) for position in self.shares[index].place.positions)

    def grow(self, index: int, by: int) -> None:
        """Give a model so much more KV cache on each of its devices."""
        share = self.shares[index]
        share.kv_cache += by
        for position in share.place.positions:
            if share.residency == "resident":
                self._base[position] += by
            else:
                self._swings[position][index] += by

    def hold(self, growths: dict[int, int]) -> bool:
        """Whether there is room for all of these residents to grow so, each by its own."""
        for position in range(len(self._base)):
            here = [by for index, by in growths.items() if position in self.shares[index].place.positions]
            swing = max(self._swings[position].values(), default=0)
            if sum(here) > self._usable[position] - self._base[position] - swing and any(here):
                return False
        return True

    def fair_step(self, growing: set[int]) -> int:
        """By how much all the growing ones can grow together."""
        steps = []
        for position, swings in enumerate(self._swings):
            here = [i for i in growing if position in self.shares[i].place.positions]
            residents = sum(1 for i in here if self.shares[i].residency == "resident")
            if not here:
                continue
            left = self._usable[position] - self._base[position]
            if residents:
                steps.append((left - max(swings.values(), default=0)) // residents)
            steps += [(left - swings[i]) // (residents + 1) for i in here if i in swings]
        return min(steps, default=0)

    def _room_on(self, index: int, position: int) -> int:
        swings = self._swings[position]
        left = self._usable[position] - self._base[position]
        if self.shares[index].residency == "resident":
            return left - max(swings.values(), default=0)
        return left - swings[index]


def share_out(slots: Slots, shares: Sequence[Share], build: Build) -> None:
    """Let contexts and KV caches grow into what is left; the shares are changed.

    On the CPU build the KV cache stays at what the wished requests need: the memory is the host's, and not
    the engines' alone.
    """
    ledger = Ledger(slots, shares)
    for group in _by_model(shares):
        _lengthen(ledger, group, build)
    if build == "cuda":
        _fill(ledger)


def _by_model(shares: Sequence[Share]) -> list[list[int]]:
    """The indices of each model's engines."""
    groups: list[list[int]] = []
    for index, share in enumerate(shares):
        if share.demand.wish.replica == 1:
            groups.append([])
        groups[-1].append(index)
    return groups


def _lengthen(ledger: Ledger, group: Sequence[int], build: Build) -> None:
    """Give a model's engines the longest context that all of them can have: clients see one model."""
    shares = [ledger.shares[index] for index in group]
    engine, memory = shares[0].demand.wish.model.engine, shares[0].demand.memory
    if engine.max_model_len is not None:
        return

    def grown(share: Share, context: int) -> int:
        """By how much its cache must grow for a context."""
        return max(0, whole(share.kv_for(context, engine.concurrent_requests), build) - share.kv_cache)

    def fits(context: int) -> bool:
        if not all(
            share.kv_for(context, engine.concurrent_requests) <= _most(ledger, index, share, build)
            for index, share in zip(group, shares, strict=True)
        ):
            return False
        return len(group) == 1 or ledger.hold({i: grown(ledger.shares[i], context) for i in group})

    longest = memory.max_context
    low, high = max(share.context for share in shares) // _CONTEXT_STEP, longest // _CONTEXT_STEP
    context = shares[0].context
    if fits(longest):
        context = longest
    else:
        while low < high:
            middle = (low + high + 1) // 2
            if fits(middle * _CONTEXT_STEP):
                low = middle
            else:
                high = middle - 1
        context = max(context, low * _CONTEXT_STEP)
    for index, share in zip(group, shares, strict=True):
        share.context = context
        if share.open:
            ledger.grow(index, grown(share, context))


def _most(ledger: Ledger, index: int, share: Share, build: Build) -> int:
    """How large the KV cache of one engine can be, the others staying as they are."""
    most = share.kv_cache + (max(0, ledger.room(index)) if share.open else 0)
    return most - most % GIB if build == "cpu" else most


def _fill(ledger: Ledger) -> None:
    """Equal shares of what is left: all grow together until one has enough, or meets a full device."""
    shares = ledger.shares
    caps = {i: share.kv_for(share.context, MOST_REQUESTS) for i, share in enumerate(shares) if share.open}
    growing = {i for i, cap in caps.items() if cap - shares[i].kv_cache >= MIB}
    while growing:
        nearest = min(caps[i] - shares[i].kv_cache for i in growing)
        step = min(ledger.fair_step(growing), nearest)
        step -= step % MIB
        for index in growing if step > 0 else ():
            ledger.grow(index, step)
        full = {i for i in growing if caps[i] - shares[i].kv_cache < MIB}
        # What cannot grow by itself any more, and, when nothing can, the one that holds the others back.
        full |= {i for i in growing if ledger.room(i) < MIB}
        if not full and step <= 0:
            full = {min(growing, key=lambda i: (ledger.room(i), i))}
        growing -= full
