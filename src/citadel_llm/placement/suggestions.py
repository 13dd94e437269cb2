"""Finds the nearest sets that would fit, by planning them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from citadel_llm.config.schema import Placement
from citadel_llm.placement.devices import Machine
from citadel_llm.placement.options import Build, Wish
from citadel_llm.placement.refusal import Suggestion
from citadel_llm.placement.terms import PlacementError

# What a change takes away, from nothing to a whole model.
FREE_CHOICE, CACHE_SIZE, CACHE_TYPE, WARM, COLD, REPLICAS, REQUESTS, CONTEXT, FP8, FOUR_BITS, LEFT_OUT = (
    range(11)
)
# Each is planned: so many models are looked at, those first that have to do with the reasons.
_MOST_MODELS = 12
_MOST_SHOWN = 8
# How many sets are planned in all: fewer when they are large. How many nodes of the search each may take.
_LEAST_PLANNED, _MOST_PLANNED, _MODELS_PLANNED = 20, 120, 1500
_NODES = 60_000
# So many models' names are written out.
_MOST_NAMED = 6
_SHORTEST_CONTEXT = 1024
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
_UNQUANTIZED = ("bf16", "fp16", "fp32")


Fit = Callable[[Sequence[Wish]], bool]


@dataclass(frozen=True)
class _Change:
    cost: int
    setting: str
    text: str
    wish: Wish


def suggest(
    placement: Placement,
    build: Build,
    machine: Machine,
    wishes: Sequence[Wish],
    involved: Iterable[str],
    *,
    hopeless: Iterable[str] = (),
) -> tuple[Suggestion, ...]:
    """What would fit, the smallest change first; every one was planned.

    Args:
        placement: The shares of memory that may be taken.
        build: The engine's build.
        machine: What there is.
        wishes: The models.
        involved: The names of those that the reasons speak of: they are looked at first.
        hopeless: The names of those that cannot be even alone.
    """
    from citadel_llm.placement.planner import Known, fits  # noqa: PLC0415 - the planner calls this, when it refuses

    known: Known = {}
    left = max(_LEAST_PLANNED, min(_MOST_PLANNED, _MODELS_PLANNED // max(1, len(wishes))))

    def fit(changed: Sequence[Wish]) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fits(placement, build, machine, changed, known, _NODES)

    found = [*_left_out(wishes, set(hopeless), fit), *_together(wishes, build, fit)]
    found += _one_model(wishes, set(involved), build, fit)
    found.sort(key=lambda each: (each.cost, len(each.settings), each.settings))
    shown = found[:_MOST_SHOWN]
    # Leaving a model out is always among them: it is the one that needs nobody's consent but the operator's.
    if found[_MOST_SHOWN:] and found[-1].left_out and not any(each.left_out for each in shown):
        shown[-1] = next(each for each in found if each.left_out)
    return tuple(shown)


def _one_model(wishes: Sequence[Wish], involved: set[str], build: Build, fit: Fit) -> Iterator[Suggestion]:
    order = sorted(range(len(wishes)), key=lambda at: (wishes[at].model.name not in involved, at))
    for position in order[:_MOST_MODELS]:
        done: set[int] = set()
        for change in _changes(wishes[position], build):
            # Of several contexts or counts the first that fits is the nearest.
            if change.cost in done:
                continue
            if fit([*wishes[:position], change.wish, *wishes[position + 1 :]]):
                done.add(change.cost)
                yield Suggestion((change.setting,), change.text, change.cost)


def _changes(wish: Wish, build: Build) -> Iterator[_Change]:
    """Each way in which one model could take less, the nearest first where there are several of a kind."""
    memory = wish.memory
    if memory is None or not wish.model.served:
        return
    yield from _freer(wish, build)
    engine, name = wish.model.engine, wish.model.name
    if engine.kv_cache_gib:
        for size in range(engine.kv_cache_gib - 1, 0, -1):
            text = f"a smaller KV cache for {name}"
            yield from _made(
                _Change(CACHE_SIZE, f"kv_cache_gib: {size}", text, wish), build, kv_cache_gib=size
            )
        text = f"a KV cache for {name} as large as the plan finds"
        yield from _made(_Change(CACHE_SIZE, "kv_cache_gib absent", text, wish), build, kv_cache_gib=None)
    yield from _residencies(wish, build)
    for count in range(engine.replicas - 1, 0, -1):
        # GPUs that are pinned down are dealt out to all replicas: to fewer, others would have to be named.
        if not engine.gpus:
            many = f"{count} engines" if count > 1 else "one engine"
            change = _Change(REPLICAS, f"replicas: {count}", f"{many} of {name}", wish)
            yield from _made(change, build, replicas=count)
    for count in _halves(engine.concurrent_requests, 1):
        change = _Change(
            REQUESTS, f"concurrent_requests: {count}", f"room for fewer requests at once of {name}", wish
        )
        yield from _made(change, build, concurrent_requests=count)
    key = "min_model_len" if engine.max_model_len is None else "max_model_len"
    for context in _shorter(wish, memory.max_context):
        change = _Change(CONTEXT, f"{key}: {context}", f"a shorter context for {name}", wish)
        yield from _made(change, build, **{key: context})
    if build == "cuda":
        yield from _fewer_bits(wish, memory.quantization)


def _freer(wish: Wish, build: Build) -> Iterator[_Change]:
    """What the entry pins down, left to the plan."""
    engine, name = wish.model.engine, wish.model.name
    if engine.gpus:
        change = _Change(FREE_CHOICE, "gpus: []", f"{name} on GPUs that the plan chooses", wish)
        yield from _made(change, build, gpus=())
    if engine.tensor_parallel_size or engine.pipeline_parallel_size:
        setting = "tensor_parallel_size and pipeline_parallel_size absent"
        change = _Change(FREE_CHOICE, setting, f"{name} laid out as the plan chooses", wish)
        yield from _made(change, build, tensor_parallel_size=None, pipeline_parallel_size=None)


def _residencies(wish: Wish, build: Build) -> Iterator[_Change]:
    now, name = wish.model.residency, wish.model.name
    if wish.model.engine.replicas > 1:
        return
    steps = {"resident": (("warm", WARM), ("cold", COLD)), "warm": (("cold", COLD),)}
    words = {"warm": f"{name} asleep in host memory until asked for", "cold": f"{name} started on demand"}
    for residency, cost in steps.get(now, ()):
        if residency == "cold" or build == "cuda":
            setting = f"{wish.entry}.residency: {residency}"
            yield _Change(cost, setting, words[residency], _update(wish, residency=residency))


def _shorter(wish: Wish, longest: int) -> list[int]:
    now = wish.model.engine.max_model_len or min(wish.model.engine.min_model_len, longest)
    contexts = {longest, now * 3 // 4, *_halves(now, _SHORTEST_CONTEXT)}
    return sorted((each for each in contexts if _SHORTEST_CONTEXT <= each < now), reverse=True)


def _fewer_bits(wish: Wish, quantization: str) -> Iterator[_Change]:
    name = wish.model.name
    if wish.model.engine.kv_cache_dtype == "auto":
        change = _Change(CACHE_TYPE, "kv_cache_dtype: fp8", f"the KV cache of {name} in 8 bits", wish)
        yield from _made(change, "cuda", kv_cache_dtype="fp8")
    if quantization in _UNQUANTIZED:
        text = f"the weights of {name} in 8 bits; the engine makes them so while it loads"
        yield from _made(_Change(FP8, "quantization: fp8", text, wish), "cuda", quantization="fp8")
        yield from _four_bits(wish)


def _four_bits(wish: Wish) -> Iterator[_Change]:
    """An AWQ build of the model: other weights, so its source is to be changed with it."""
    if wish.numbers is None:
        return
    config = {**wish.numbers.config, "quantization_config": _AWQ}
    numbers = replace(wish.numbers, config=config, weight_bytes=None, tensors=None)
    other = replace(_update(wish, weight_bytes=None), numbers=numbers)
    text = f"a 4-bit (AWQ) build of {wish.model.name} as its source"
    yield from _made(_Change(FOUR_BITS, "quantization: awq", text, other), "cuda", quantization="awq")


def _made(change: _Change, build: Build, **options: Any) -> Iterator[_Change]:
    """The change with these options of the engine, when the model can be so."""
    wish = change.wish
    model = wish.model.model_copy(update={"engine": wish.model.engine.model_copy(update=options)})
    changed = replace(wish, model=model)
    if wish.numbers is not None:
        try:
            changed = replace(changed, memory=wish.remade(model, wish.numbers, build))
        except PlacementError:
            return
    elif {"kv_cache_dtype", "quantization"} & options.keys():
        return
    yield replace(change, setting=f"{wish.entry}.engine.{change.setting}", wish=changed)


def _together(wishes: Sequence[Wish], build: Build, fit: Fit) -> Iterator[Suggestion]:
    """Changes to several models at once."""
    explicit = [wish for wish in wishes if wish.model.residency in ("resident", "warm")]
    if len(explicit) > 1:
        free = [_update(wish, residency="auto") for wish in wishes]
        if fit(free):
            settings = _settings(explicit, "residency: auto")
            yield Suggestion(settings, "which models are always awake as the plan finds", COLD)
    pinned = [wish for wish in wishes if wish.model.engine.gpus]
    if len(pinned) > 1:
        free = [_update(wish, engine=wish.model.engine.model_copy(update={"gpus": ()})) for wish in wishes]
        if fit(free):
            settings = _settings(pinned, "engine.gpus: []")
            yield Suggestion(settings, "all models on GPUs that the plan chooses", FREE_CHOICE)
    if build == "cuda":
        yield from _all_four_bits(wishes, fit)


def _all_four_bits(wishes: Sequence[Wish], fit: Fit) -> Iterator[Suggestion]:
    changed, touched = list(wishes), []
    for position, wish in enumerate(wishes):
        if wish.memory is not None and wish.memory.quantization in _UNQUANTIZED:
            for change in _four_bits(wish):
                changed[position] = change.wish
                touched.append(wish)
    if len(touched) > 1 and fit(changed):
        yield Suggestion(
            _settings(touched, "engine.quantization: awq"),
            "4-bit (AWQ) builds as the sources of all of these",
            FOUR_BITS,
        )


def _left_out(wishes: Sequence[Wish], hopeless: set[str], fit: Fit) -> Iterator[Suggestion]:
    """The largest set that fits: without one model if that is enough, the last of the catalogue first."""
    everyone = [at for at, wish in enumerate(wishes) if wish.model.served]
    served = [at for at in everyone if wishes[at].model.name not in hopeless]
    if len(everyone) == 1 or not served:
        return
    if len(served) < len(everyone):
        if fit([wishes[at] for at in served]):
            yield _without(wishes, [at for at in everyone if at not in served])
            return
        # Without them there is too much, still: no single one will do.
        alone: list[int] = []
    else:
        alone = served[-_MOST_MODELS:]
    for gone in reversed(alone):
        if fit([wish for at, wish in enumerate(wishes) if at != gone]):
            yield _without(wishes, (gone,))
            return
    # The longest beginning of the catalogue that fits, and what else fits beside it.
    low, high = 0, len(served) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if fit([wishes[at] for at in served[:middle]]):
            low = middle
        else:
            high = middle - 1
    kept = served[:low]
    for at in served[low + 1 : low + 1 + _MOST_MODELS]:
        if fit([wishes[each] for each in (*kept, at)]):
            kept.append(at)
    if kept:
        yield _without(wishes, [at for at in everyone if at not in kept])


def _without(wishes: Sequence[Wish], gone: Sequence[int]) -> Suggestion:
    names = tuple(wishes[at].model.name for at in gone)
    some = ", ".join(names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else ""
    settings = tuple(f"{wishes[at].entry} removed" for at in gone)
    return Suggestion(settings, f"the set without {some}{more}", LEFT_OUT + len(gone), names)


def _settings(wishes: Sequence[Wish], setting: str) -> tuple[str, ...]:
    return tuple(f"{wish.entry}.{setting}" for wish in wishes)


def _update(wish: Wish, **values: Any) -> Wish:
    return replace(wish, model=wish.model.model_copy(update=values))


def _halves(value: int, least: int) -> list[int]:
    halves = []
    while value // 2 >= least:
        value //= 2
        halves.append(value)
    return halves
