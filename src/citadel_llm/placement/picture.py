"""The plan as a picture: each device's memory as a bar of its parts, as SVG, light and dark."""

from collections.abc import Iterator, Sequence

from citadel_llm.placement.plan import DeviceUse, ModelPlan, Plan
from citadel_llm.placement.segments import Segment, segments_of
from citadel_llm.placement.svg import (
    COLOURS,
    LETTER,
    PLAIN,
    SMALL,
    class_of,
    cut,
    document,
    label,
    line,
    rect,
    text,
)
from citadel_llm.placement.terms import GIB

WIDTH = 960
_MARGIN = 28
_BAR_LEFT = 190
_BAR_WIDTH = WIDTH - _MARGIN - _BAR_LEFT
_BAR_HEIGHT = 30
# From the top of a row to its bar, and to the line below it.
_ABOVE, _BELOW = 18, 65
_HEAD = 84
_MOST_LISTED = 24
_TITLE = 17
# With more devices than this, the rows move together.
_ROOMY = 8
_WORDS = {"resident": "awake always", "warm": "asleep", "cold": "on demand"}


def picture(plan: Plan) -> str:
    """The plan as an SVG document."""
    uses = plan.uses()
    body: list[str] = []
    top = _HEAD
    for use in uses:
        body += _row(plan, use, top, roomy=len(uses) <= _ROOMY)
        top += _row_height(len(uses))
    if plan.build == "cuda":
        body += _host_row(plan, top)
        top += _row_height(1)
    legend = list(_legend(plan, uses, top))
    body += legend
    top += 26 * _legend_lines(plan, uses) + 22
    body += _models(plan, top)
    height = top + _models_height(plan) + 14
    title = _title(plan)
    head = [
        text(cut(title, _TITLE, WIDTH - 60), _MARGIN, 36, "h", _TITLE),
        text(cut(_subtitle(plan), PLAIN, WIDTH - 60), _MARGIN, 58, "s"),
    ]
    return document(title, " ".join(_described(plan, uses)), WIDTH, height, [*head, *body])


def _row_height(count: int) -> int:
    return 84 if count <= _ROOMY else 58


def _row(plan: Plan, use: DeviceUse, top: int, *, roomy: bool) -> Iterator[str]:
    """One device: its name at the left, above the bar the models, in it the parts, below it the sums."""
    name = use.device.name.removeprefix("NVIDIA GeForce ").removeprefix("NVIDIA ")
    yield from _name(_device(use), name, top)
    yield from _bar(segments_of(plan, use), use.device.memory, top + _ABOVE)
    if roomy:
        yield text(_sums(use), _BAR_LEFT, top + _BELOW, "s", SMALL)


def _name(name: str, more: str, top: int) -> Iterator[str]:
    width = _BAR_LEFT - _MARGIN - 12
    yield text(cut(name, PLAIN, width), _MARGIN, top + _ABOVE + 13, "h")
    yield text(cut(more, SMALL, width), _MARGIN, top + _ABOVE + 29, "s", SMALL)


def _bar(segments: Sequence[Segment], total: int, top: int) -> Iterator[str]:
    yield rect("track", (_BAR_LEFT, top, _BAR_WIDTH, _BAR_HEIGHT))
    at = 0
    for segment in segments:
        left, right = _x(at, total), _x(at + segment.bytes, total)
        if segment.kind == "free":
            yield from label(f"free {_gib(segment.bytes)}", left, right, top + 20, "s")
        else:
            yield from _segment(segment, at, total, top)
        if segment.model:
            yield from label(segment.model, left, right, top - 6, "t")
            yield line("gap", right, top, top + _BAR_HEIGHT)
        at += segment.bytes
    yield rect("frame", (_BAR_LEFT, top, _BAR_WIDTH, _BAR_HEIGHT), radius=3)


def _segment(segment: Segment, start: int, total: int, top: int) -> Iterator[str]:
    """A segment's parts, with their sizes where there is room; hatched when taken on demand only."""
    at = start
    for name, size in segment.parts:
        left, right = _x(at, total), _x(at + size, total)
        said = f"{segment.model}, {segment.kind}: {name} {_gib(size)} GiB".removeprefix(", ")
        yield rect(class_of(name), (left, top, right - left, _BAR_HEIGHT), title=said)
        if segment.kind == "resident":
            yield from label(_gib(size), left, right, top + 20, "on", whole=True)
        at += size
    if segment.kind == "on demand":
        left, right = _x(start, total), _x(at, total)
        yield rect("hatch", (left, top, right - left, _BAR_HEIGHT))


def _host_row(plan: Plan, top: int) -> Iterator[str]:
    """The host's memory with the sleeping models' weights."""
    total = plan.machine.host_memory
    yield from _name("Host memory", f"{total / GIB:.0f} GiB", top)
    sleepers = [
        Segment("asleep", model.name, (("asleep", model.weight_bytes),))
        for model in plan.models
        if model.residency == "warm"
    ]
    free = Segment("free", "", (("free", plan.host_budget - plan.host_asleep),))
    rest = Segment("reserve", "", (("reserve", total - plan.host_budget),))
    segments = [segment for segment in (*sleepers, free, rest) if segment.bytes > 0]
    yield from _bar(segments, total, top + _ABOVE)
    count = len(sleepers)
    models = f"{count} model{'' if count == 1 else 's'} asleep"
    said = f"{models}: {_gib(plan.host_asleep)} of {_gib(plan.host_budget)} GiB usable"
    yield text(said, _BAR_LEFT, top + _BELOW, "s", SMALL)


def _legend_items(plan: Plan, uses: Sequence[DeviceUse]) -> list[tuple[str, str]]:
    """What is in the picture: the class of each colour, and its word."""
    segments = [segment for use in uses for segment in segments_of(plan, use)]
    names = {name for segment in segments for name, _ in segment.parts}
    items = [(class_of(name), name) for name in COLOURS if name in names and name != "asleep"]
    if any(model.residency == "warm" for model in plan.models):
        items.append((class_of("asleep"), "asleep"))
    if any(segment.kind == "on demand" for segment in segments):
        items.append(("hatch", "only while a model on demand is awake"))
    return [*items, ("track", "free"), ("reserve", "kept back")]


def _legend_places(plan: Plan, uses: Sequence[DeviceUse]) -> list[tuple[str, str, float, int]]:
    places: list[tuple[str, str, float, int]] = []
    x, row = float(_MARGIN), 0
    for kind, word in _legend_items(plan, uses):
        width = 24 + len(word) * SMALL * LETTER + 12
        if x + width > WIDTH - _MARGIN:
            x, row = float(_MARGIN), row + 1
        places.append((kind, word, x, row))
        x += width
    return places


def _legend_lines(plan: Plan, uses: Sequence[DeviceUse]) -> int:
    return _legend_places(plan, uses)[-1][3] + 1


def _legend(plan: Plan, uses: Sequence[DeviceUse], top: int) -> Iterator[str]:
    for kind, word, x, row in _legend_places(plan, uses):
        y = top + 6 + row * 26
        first = class_of("weights") if kind == "hatch" else kind
        yield rect(first, (x, y, 16, 16), radius=3)
        if kind == "hatch":
            yield rect("hatch", (x, y, 16, 16), radius=3)
        yield text(word, x + 23, y + 12, "s", SMALL)


def _models_height(plan: Plan) -> int:
    listed = min(len(plan.models), _MOST_LISTED) + (len(plan.models) > _MOST_LISTED)
    return 22 * (1 + listed + min(len(plan.unserved), _MOST_LISTED))


def _models(plan: Plan, top: int) -> Iterator[str]:
    """A line for each model: its state, where it is, and what it can take."""
    columns = (_MARGIN, 300, 410, 610, 740)
    yield f'  <path class="line" d="M{_MARGIN} {top - 14}H{WIDTH - _MARGIN}"/>'
    for x, word in zip(
        columns, ("model", "state", "on", "context", "requests, KV cache on each"), strict=True
    ):
        yield text(word, x, top + 4, "s", SMALL)
    y = top + 26
    for model in plan.models[:_MOST_LISTED]:
        for x, words, end in zip(columns, _cells(plan, model), (*columns[1:], WIDTH), strict=True):
            kind = "h" if x == _MARGIN else "t"
            yield text(cut(words, SMALL, end - x - 12), x, y, kind, SMALL)
        y += 22
    if len(plan.models) > _MOST_LISTED:
        yield text(f"and {len(plan.models) - _MOST_LISTED} more", _MARGIN, y, "s", SMALL)
        y += 22
    for each in plan.unserved[:_MOST_LISTED]:
        yield text(cut(each.name, SMALL, columns[1] - _MARGIN - 12), _MARGIN, y, "h", SMALL)
        yield text(cut(each.reason, SMALL, WIDTH - columns[1] - 20), columns[1], y, "s", SMALL)
        y += 22


def _cells(plan: Plan, model: ModelPlan) -> tuple[str, ...]:
    layout = model.layout
    ways = [("tensor", layout.tensor_parallel), ("pipeline", layout.pipeline_parallel)]
    how = "".join(f", {word} x{count}" for word, count in ways if count > 1)
    gpus = ",".join(map(str, model.devices))
    return (
        model.name,
        _WORDS[model.residency],
        "CPU" if plan.build == "cpu" else f"GPU {gpus}{how}",
        f"{model.context} tokens",
        f"{model.requests} at once, {_gib(model.kv_cache)} GiB" if model.kv_cache else "none",
    )


def _title(plan: Plan) -> str:
    count = len(plan.machine.devices)
    where = "the CPU" if plan.build == "cpu" else f"{count} GPU{'s' if count != 1 else ''}"
    models = sum(model.replica == 1 for model in plan.models)
    return f"{models} model{'s' if models != 1 else ''} on {where}"


def _subtitle(plan: Plan) -> str:
    names = sorted({device.name for device in plan.machine.devices})
    share = plan.host_memory_share if plan.build == "cpu" else plan.gpu_memory_share
    rules = f"{share:.0%} of each may be taken; one model on demand awake at a time"
    return f"{', '.join(names)}; sizes in GiB; {rules}"


def _described(plan: Plan, uses: Sequence[DeviceUse]) -> Iterator[str]:
    for use in uses:
        yield f"{_device(use)}: {_sums(use)}."
    for model in plan.models:
        yield f"{model.name}: {', '.join(_cells(plan, model)[1:])}."


def _device(use: DeviceUse) -> str:
    return "Host memory" if use.device.kind == "cpu" else f"GPU {use.device.index}"


def _sums(use: DeviceUse) -> str:
    sizes = {
        "awake always": use.resident,
        "held asleep": use.asleep,
        "on demand at most": use.on_demand,
        "free": use.free,
    }
    parts = [f"{word} {_gib(size)}" for word, size in sizes.items() if size or word == "free"]
    return f"{' · '.join(parts)} · usable {_gib(use.usable)} of {_gib(use.device.memory)} GiB"


def _x(offset: int, total: int) -> float:
    return _BAR_LEFT + _BAR_WIDTH * offset / total


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
