"""Says in plain sentences why a model got what it got."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from citadel_llm.placement.options import gib
from citadel_llm.placement.search import Budget, Search
from citadel_llm.placement.slots import Slots
from citadel_llm.placement.spare import MOST_REQUESTS, Share
from citadel_llm.placement.terms import Device

if TYPE_CHECKING:
    from citadel_llm.placement.planner import Problem

# For more models than this, which one another stands in the way of is not looked for.
_MOST_COMPARED = 24
_NODES_FOR_A_PAIR = 2_000
# Arguments of vLLM that change how much memory an engine takes, or on how many GPUs, and that no plan reads.
_TAKE_MEMORY = frozenset(
    {
        *("--block-size", "--cpu-offload-gb", "--data-parallel-size", "-dp", "--enable-lora"),
        *("--decode-context-parallel-size", "-dcp", "--hf-overrides", "--limit-mm-per-prompt"),
        *("--max-loras", "--max-lora-rank", "--max-num-batched-tokens"),
        *("--max-num-seqs", "--mm-processor-kwargs", "--speculative-config", "--performance-mode"),
        *("--no-enable-chunked-prefill", "--no-enable-prefix-caching", "--prefill-context-parallel-size"),
    }
)
_WHY_PIPELINE = 'vLLM\'s documentation, "Parallelism and Scaling", advises it where there is no NVLink'


def reasons_of(problem: "Problem", shares: Sequence[Share]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """For each model why it is where it is, and the warnings."""
    reasons = []
    for index, share in enumerate(shares):
        sentences = [
            _residency(problem, shares, index),
            *_devices(problem.slots, share),
            *_layout(problem.slots, share),
            _context(share),
        ]
        reasons.append((tuple(sentences), tuple(_warnings(problem.slots, share))))
    return reasons


def _residency(problem: "Problem", shares: Sequence[Share], index: int) -> str:
    share = shares[index]
    wished = share.demand.wish.model.residency
    states = {
        "resident": "Awake always",
        "warm": f"Asleep in host memory ({gib(share.demand.memory.weight_bytes)} of it) until asked for",
        "cold": "Started when asked for",
    }
    state = states[share.residency]
    if len(_engines_of(problem, share)) > 1:
        return f"{state}: its entry asks for {len(_engines_of(problem, share))} engines (replicas)."
    if wished != "auto":
        return f"{state}: its entry says residency: {wished}."
    if share.residency == "resident":
        return f"{state}: there is room for it, and every other model can still be served."
    blocker = _blocker(problem, shares, index)
    if share.residency == "warm" or problem.build == "cpu":
        return f"{state}: awake always, it would leave too little for {blocker}."
    needed, free = share.demand.memory.weight_bytes, problem.host_budget - _asleep(shares)
    if needed > free:
        return (
            f"{state}: awake always, it would leave too little for {blocker}, and asleep its weights would "
            f"take {gib(needed)} of the host's memory, where {gib(free)} are left for sleepers."
        )
    rest = max(share.place.option.asleep)
    return (
        f"{state}: awake always, it would leave too little for {blocker}, and even asleep it would hold "
        f"{gib(rest)} of its GPU that another model needs."
    )


def _engines_of(problem: "Problem", share: Share) -> list[str]:
    entry = share.demand.wish.entry
    return [demand.wish.model.name for demand in problem.demands if demand.wish.entry == entry]


def _blocker(problem: "Problem", shares: Sequence[Share], index: int) -> str:
    """The first model that has no room when this one is always awake."""
    if len(shares) <= _MOST_COMPARED:
        for other, share in enumerate(shares):
            if other == index:
                continue
            pair = [problem.demands[index], problem.demands[other]]
            budget = Budget(_NODES_FOR_A_PAIR, _NODES_FOR_A_PAIR)
            most = [each.place.option.layout.devices for each in (shares[index], share)]
            found = Search(problem.slots, pair, ["resident", share.residency], most).run(budget)
            if found is None and not budget.cut_short:
                return share.demand.wish.model.name
    return "the others together"


def _devices(slots: Slots, share: Share) -> Iterator[str]:
    option, engine = share.place.option, share.demand.wish.model.engine
    devices = [slots.devices[position] for position in share.place.positions]
    if devices[0].kind == "cpu":
        return
    words = _gpus(devices)
    if engine.gpus:
        yield f"On {words}: its entry names {'it' if len(devices) == 1 else 'them'}."
        return
    if len(devices) == 1:
        most = max(option.awake)
        usable = slots.usable[share.place.positions[0]]
        yield f"On {words}: one is enough, for it needs at least {gib(most)} of {gib(usable)} usable."
        return
    usable = slots.usable[share.place.positions[0]]
    fewer = [
        max(need.fixed_bytes for need in needs) + share.demand.least_kv(needs, share.demand.context)
        for layout in share.demand.memory.layouts(len(devices) - 1)
        if (needs := share.demand.needs(layout, devices[0]))
    ]
    if fewer and min(fewer) > usable:
        on_fewer = f"on {len(devices) - 1} it would take {gib(min(fewer))}"
        yield f"On {words}: {on_fewer}{' of each' if len(devices) > 2 else ''}, and {gib(usable)} are usable."  # noqa: PLR2004
    else:
        yield f"On {words}: on fewer it would not fit beside the others."


def _layout(slots: Slots, share: Share) -> Iterator[str]:
    layout, engine = share.place.option.layout, share.demand.wish.model.engine
    if layout.devices == 1:
        return
    tensor, pipeline = layout.tensor_parallel, layout.pipeline_parallel
    told = engine.tensor_parallel_size is not None or engine.pipeline_parallel_size is not None
    if tensor > 1:
        ways = sorted(
            {
                _way(slots, a, b)
                for at in range(0, layout.devices, tensor)
                for a, b in pairwise(share.place.positions[at : at + tensor])
            }
        )
        why = "its entry says so" if told else f"they are linked by {' and '.join(ways)}"
        if share.place.option.loose and not told:
            why = "its shape allows no other layout"
        yield f"Each layer is split over {tensor} GPUs (tensor parallel): {why}."
    if pipeline > 1:
        why = "its entry says so" if told else _why_pipeline(slots, share)
        yield f"The layers are dealt out over {pipeline} stages in sequence (pipeline parallel): {why}."


def _why_pipeline(slots: Slots, share: Share) -> str:
    if share.place.option.layout.tensor_parallel > 1:
        return "between these groups the links are slower"
    if not slots.linked:
        return f"nothing is known of fast links between these GPUs; {_WHY_PIPELINE}"
    ways = sorted({_way(slots, a, b) for a, b in pairwise(share.place.positions)})
    if any(slots.fast[a][b] for a, b in pairwise(share.place.positions)):
        return "its shape cannot be split so, or not all of them are linked fast"
    return f"between them is {' and '.join(ways)}; {_WHY_PIPELINE}"


def _context(share: Share) -> str:
    engine, memory = share.demand.wish.model.engine, share.demand.memory
    if engine.max_model_len is not None:
        start = f"Context {share.context} tokens, as its entry says"
    elif share.context == memory.max_context:
        start = f"Context {share.context} tokens, the longest that it was made for"
    else:
        more = share.kv_for(memory.max_context, engine.concurrent_requests) - share.kv_for(
            share.context, engine.concurrent_requests
        )
        limit = "memory is left" if share.open else "kv_cache_gib allows"
        start = (
            f"Context {share.context} tokens, as {limit}: all {memory.max_context} that it was made for "
            f"would take {gib(more)} more on each device"
        )
    if not share.kv_cache:
        return f"{start}; it keeps no KV cache."
    requests = share.requests()
    count = f"{requests} or more" if requests >= MOST_REQUESTS else str(requests)
    return f"{start}; a KV cache of {gib(share.kv_cache)} holds {count} such request(s) at once."


def _warnings(slots: Slots, share: Share) -> Iterator[str]:
    wish, option = share.demand.wish, share.place.option
    device = slots.devices[share.place.positions[0]]
    if device.kind == "cuda":
        verdict = wish.judge(device, share.demand.memory.quantization)
        if verdict.warning:
            yield verdict.warning
    words = wish.model.engine.extra_args
    unknown = [word for word in words if word.partition("=")[0].replace("_", "-") in _TAKE_MEMORY]
    if unknown:
        yield f"{wish.entry}.engine.extra_args has {', '.join(unknown)}, whose memory is not reckoned with"
    if option.loose and option.layout.tensor_parallel > 1:
        yield "each layer is split over GPUs without a fast link between them: every token waits for it"


def _asleep(shares: Sequence[Share]) -> int:
    return sum(share.demand.memory.weight_bytes for share in shares if share.residency == "warm")


def _gpus(devices: Sequence[Device]) -> str:
    numbers = [str(device.index) for device in devices]
    return f"GPU {numbers[0]}" if len(numbers) == 1 else f"GPUs {', '.join(numbers[:-1])} and {numbers[-1]}"


_WAYS = {
    0: "NVLink",
    1: "one PCIe switch",
    2: "the host bridge",
    3: "one socket",
    4: "the way across sockets",
}


def _way(slots: Slots, a: int, b: int) -> str:
    return _WAYS.get(slots.distance[a][b], "an unknown way")
