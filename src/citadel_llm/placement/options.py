"""What a model may be given: on how many devices, of which kind, laid out how, and what that takes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from citadel_llm.config.schema import Model
from citadel_llm.placement.capabilities import Verdict, judge
from citadel_llm.placement.memory import memory_of
from citadel_llm.placement.numbers import Numbers
from citadel_llm.placement.slots import Slots
from citadel_llm.placement.terms import GIB, Device, Layout, ModelMemory, PlacementError, RankNeed
from citadel_llm.placement.vllm_architectures import support

Build = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Wish:
    """A model that is to be placed.

    Attributes:
        model: Its entry in the catalogue.
        memory: What it needs; none for a model that no engine of this release serves.
        entry: How messages call it, such as `models[2]`.
        numbers: What `memory` was made from: with them a refusal can say what another quantization would do.
        remake: How `memory` is made anew for a changed entry and numbers; none: from them alone.
        replica: Which of the model's engines this is, counted from 1; all of them together until `engines`.
    """

    model: Model
    memory: ModelMemory | None
    entry: str
    numbers: Numbers | None = None
    remake: Callable[[Model, Numbers], ModelMemory] | None = None
    replica: int = 1

    def engines(self) -> "tuple[Wish, ...]":
        """A wish for each of the model's engines: each takes its own memory, and all are awake always."""
        count, gpus = self.model.engine.replicas, self.model.engine.gpus
        if count == 1:
            return (self,)
        each = len(gpus) // count
        return tuple(
            replace(
                self, model=_alone(self.model, engine_id, gpus[at * each : (at + 1) * each]), replica=at + 1
            )
            for at, engine_id in enumerate(self.model.engine_ids)
        )

    def remade(self, model: Model, numbers: Numbers, build: Build) -> ModelMemory:
        """What a changed entry would need.

        Raises:
            PlacementError: The model cannot be so.
        """
        if self.remake is not None:
            return self.remake(model, numbers)
        return memory_of(model, numbers, build, self.entry)

    def judge(self, device: Device, quantization: str) -> Verdict:
        """Whether a GPU can compute with it, when it is stored so."""
        engine = self.model.engine
        model_type = str(self.numbers.config.get("model_type", "")) if self.numbers else ""
        return judge(device, quantization, engine.dtype, engine.kv_cache_dtype, model_type)


def _alone(model: Model, name: str, gpus: tuple[int, ...]) -> Model:
    """A model's entry as that of one of its engines."""
    engine = model.engine.model_copy(update={"replicas": 1, "gpus": gpus})
    return model.model_copy(update={"name": name, "residency": "resident", "engine": engine})


@dataclass(frozen=True)
class Option:
    """One layout on one kind of device.

    Attributes:
        layout: The layout.
        positions: The devices that it may be on.
        fixed: Whether it must be on exactly these, in this order.
        loose: Whether layers may be split over devices without a fast link.
        needs: What each worker needs.
        kv_cache: The least KV cache on each device.
        awake: What each worker takes with it when awake.
        asleep: What each worker holds asleep.
    """

    layout: Layout
    positions: tuple[int, ...]
    fixed: bool
    loose: bool
    needs: tuple[RankNeed, ...]
    kv_cache: int
    awake: tuple[int, ...]
    asleep: tuple[int, ...]

    @cached_property
    def weights(self) -> int:
        """The weights of all workers together."""
        return sum(term.bytes for need in self.needs for term in need.fixed if term.name == "weights")


@dataclass
class Demand:
    """One wish with its options, found when they are asked for: the most preferred stand first."""

    wish: Wish
    memory: ModelMemory
    slots: Slots
    build: Build
    context: int
    reasons: list[tuple[str, int | None]] = field(default_factory=list)
    closest: Option | None = None

    def __post_init__(self) -> None:
        """Start at the first option."""
        self._found: list[Option] = []
        self._more = self._generate()
        self._needs: dict[tuple[Layout, str], tuple[RankNeed, ...]] = {}

    @property
    def engine_gpus(self) -> tuple[int, ...]:
        """The GPUs that the catalogue names."""
        return self.wish.model.engine.gpus

    def options(self) -> Iterator[Option]:
        """The options that fit when nothing else is there, the most preferred first."""
        at = 0
        while True:
            if at == len(self._found):
                following = next(self._more, None)
                if following is None:
                    return
                self._found.append(following)
            yield self._found[at]
            at += 1

    @cached_property
    def first(self) -> Option | None:
        """The most preferred option."""
        return next(self.options(), None)

    def needs(self, layout: Layout, device: Device) -> tuple[RankNeed, ...]:
        """What each worker needs on such a device."""
        key = (layout, f"{device.name} {device.memory}")
        if key not in self._needs:
            self._needs[key] = self.memory.on(layout, device)
        return self._needs[key]

    def least_kv(self, needs: Sequence[RankNeed], context: int) -> int:
        """The KV cache on each device for the wished requests of so many tokens."""
        engine = self.wish.model.engine
        wanted = engine.concurrent_requests
        return whole(max(need.kv.bytes_for(context, wanted) for need in needs), self.build)

    def _generate(self) -> Iterator[Option]:
        for positions, fixed in self._places():
            if self._allowed(positions):
                for layout, loose in self._layouts(positions, fixed):
                    option = self._option(layout, positions, fixed, loose)
                    if option is not None:
                        yield option

    def _places(self) -> Iterator[tuple[tuple[int, ...], bool]]:
        """Each set of devices to choose from, with the number of devices as its length."""
        if self.engine_gpus:
            yield self._pinned(), True
            return
        most = max((len(kind) for kind in self.slots.kinds), default=0)
        for count in range(1, most + 1):
            self._count = count
            for kind in self.slots.kinds:
                if len(kind) >= count:
                    yield kind, False

    def _pinned(self) -> tuple[int, ...]:
        where = {device.index: position for position, device in enumerate(self.slots.devices)}
        self._count = len(self.engine_gpus)
        return tuple(where[index] for index in self.engine_gpus)

    def _layouts(self, positions: tuple[int, ...], fixed: bool) -> Iterator[tuple[Layout, bool]]:
        """The layouts over the current number of devices, the most preferred first."""
        engine = self.wish.model.engine
        tensor, pipeline = engine.tensor_parallel_size, engine.pipeline_parallel_size
        possible = [
            layout
            for layout in self.memory.layouts(self._count)
            if tensor in (None, layout.tensor_parallel) and pipeline in (None, layout.pipeline_parallel)
        ]
        possible.sort(key=lambda layout: -layout.tensor_parallel)
        quick = [each for each in possible if self._links_allow(each, positions, fixed)]
        yield from ((layout, False) for layout in quick)
        if not quick:
            # Told to, or its shape cannot be laid out in sequence: the least split of what is left.
            yield from ((layout, True) for layout in possible[-1:])

    def _links_allow(self, layout: Layout, positions: tuple[int, ...], fixed: bool) -> bool:
        size = layout.tensor_parallel
        if size == 1:
            return True
        if fixed:
            groups = [positions[at : at + size] for at in range(0, len(positions), size)]
            return all(self.slots.fast[a][b] for group in groups for a in group for b in group if a != b)
        return any(sum(self.slots.fast[a][b] for b in positions) >= size - 1 for a in positions)

    def _option(self, layout: Layout, positions: tuple[int, ...], fixed: bool, loose: bool) -> Option | None:
        device = self.slots.devices[positions[0]]
        needs = self.needs(layout, device)
        wanted = self.wish.model.engine.kv_cache_gib
        least = self.least_kv(needs, self.context)
        kv_cache = least if wanted is None else wanted * GIB
        awake = tuple(need.fixed_bytes + kv_cache for need in needs)
        asleep = tuple(need.asleep_bytes for need in needs)
        option = Option(layout, positions, fixed, loose, needs, kv_cache, awake, asleep)
        if least > kv_cache:
            self._say(
                f"{self.wish.entry}.engine.kv_cache_gib of {self.wish.model.name}: a KV cache of "
                f"{gib(kv_cache)} on each device is too little for "
                f"{self.wish.model.engine.concurrent_requests} request(s) of {self.context} tokens, which "
                f"take {gib(least)} ({gib(least - kv_cache)} too much)",
                least - kv_cache,
            )
            return None
        if max(awake) > self.slots.usable[positions[0]]:
            if self.closest is None or max(awake) < max(self.closest.awake):
                self.closest = option
            return None
        return option

    def _allowed(self, positions: tuple[int, ...]) -> bool:
        device = self.slots.devices[positions[0]]
        if device.kind == "cpu":
            return True
        verdict = self.wish.judge(device, self.memory.quantization)
        if verdict.refused:
            self._say(f"{self.wish.entry} ({self.wish.model.name}): {verdict.refused}; {verdict.remedy}")
        return not verdict.refused

    def _say(self, reason: str, missing: int | None = None) -> None:
        if (reason, missing) not in self.reasons:
            self.reasons.append((reason, missing))


def demand_of(wish: Wish, memory: ModelMemory, slots: Slots, build: Build) -> Demand:
    """A wish, checked against what the machine has at all.

    Raises:
        PlacementError: It asks for what is not there.
    """
    engine = wish.model.engine
    where = f"{wish.entry}.engine"
    _check_runtime(wish, build)
    if engine.max_model_len is not None and engine.max_model_len > memory.max_context:
        message = f"{engine.max_model_len} tokens, and {wish.model.name} was made for {memory.max_context}"
        raise PlacementError(f"{where}.max_model_len", message, f"at most {memory.max_context} would do")
    if wish.model.residency == "warm" and build == "cpu":
        message = "warm, but sleeping in host memory needs a GPU"
        raise PlacementError(f"{wish.entry}.residency", message, "resident or cold would do")
    _check_gpus(wish, slots)
    sizes = (engine.tensor_parallel_size, engine.pipeline_parallel_size)
    if None not in sizes or engine.gpus:
        _check_layout(wish, memory, slots, len(engine.gpus) or math.prod(size or 1 for size in sizes))
    context = engine.max_model_len or min(engine.min_model_len, memory.max_context)
    return Demand(wish, memory, slots, build, context)


def whole(kv_cache: int, build: Build) -> int:
    """A KV cache's size in the steps that the engine takes: whole GiB, and at least one, on the CPU build."""
    return kv_cache if build == "cuda" else max(1, -(-kv_cache // GIB)) * GIB


def gib(count: int) -> str:
    """Bytes for a sentence."""
    return f"{count / GIB:.2f} GiB"


def _check_runtime(wish: Wish, build: Build) -> None:
    named = wish.numbers.config.get("architectures") if wish.numbers else None
    if not isinstance(named, list) or not named:
        return
    said = support([str(each) for each in named], build)
    if not said.served:
        past = f" (it was, up to {said.until})" if said.until else ""
        near = f", or is {' or '.join(said.nearest)} meant?" if said.nearest else ""
        raise PlacementError(
            f"{wish.entry}.runtime",
            f"{', '.join(map(str, named))} of {wish.model.name} is not in the registry of vLLM "
            f"{said.version}{past}",
            f"runtime: transformers would keep it in the catalogue without serving it{near}",
        )


def _check_gpus(wish: Wish, slots: Slots) -> None:
    there = {device.index: device for device in slots.devices if device.kind == "cuda"}
    where = f"{wish.entry}.engine.gpus"
    missing = [index for index in wish.model.engine.gpus if index not in there]
    if missing:
        has = f"the machine has {len(there)}: {sorted(there)}" if there else "the machine has none"
        raise PlacementError(
            where, f"there is no GPU {missing[0]}; {has}", "leave it out, and the plan chooses"
        )
    named = [there[index] for index in wish.model.engine.gpus]
    if len({(each.name, each.memory, each.compute_capability) for each in named}) > 1:
        words = ", ".join(f"{each.index} is {each.name} with {gib(each.memory)}" for each in named)
        raise PlacementError(where, f"one engine needs GPUs of one kind, but {words}", "name equal ones")


def _check_layout(wish: Wish, memory: ModelMemory, slots: Slots, count: int) -> None:
    engine = wish.model.engine
    where = f"{wish.entry}.engine"
    if count > len(slots.devices):
        message = f"its sizes take {count} devices, and the machine has {len(slots.devices)}"
        raise PlacementError(
            where, message, "smaller tensor_parallel_size or pipeline_parallel_size would do"
        )
    possible = memory.layouts(count)
    tensor, pipeline = engine.tensor_parallel_size, engine.pipeline_parallel_size
    if not any(
        tensor in (None, each.tensor_parallel) and pipeline in (None, each.pipeline_parallel)
        for each in possible
    ):
        asked = f"tensor {tensor or 'any'} x pipeline {pipeline or 'any'} over {count} devices"
        allowed = ", ".join(f"{each.tensor_parallel} x {each.pipeline_parallel}" for each in possible)
        message = f"the shape of {wish.model.name} cannot be laid out as {asked}"
        raise PlacementError(
            where, message, f"possible there: {allowed or 'nothing; another number of devices'}"
        )
