"""The plan for a terminal: tables, and each device's memory as a bar of block characters."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from citadel_llm.placement.plan import DeviceUse, ModelPlan, Plan
from citadel_llm.placement.segments import Segment, SegmentKind, segments_of
from citadel_llm.placement.terms import GIB

BLOCKS: dict[SegmentKind, str] = {
    "resident": "█",
    "asleep": "▓",
    "on demand": "▒",
    "free": "·",
    "reserve": " ",
}
_WORDS = {"resident": "awake always", "warm": "asleep", "cold": "on demand"}
_BAR = 48


def plan_text(plan: Plan) -> str:
    """The whole plan: models, devices, the host's memory, and what one should know."""
    lines = [*_models(plan), "", *_devices(plan)]
    if plan.build == "cuda":
        lines.append(_host(plan))
    lines += ["", _legend(plan)]
    notes = list(_notes(plan))
    return "\n".join([*lines, "", *notes] if notes else lines)


def explanation(model: ModelPlan) -> str:
    """One model's place, the reasons for it, and every term with its source."""
    lines = [f"{model.name} ({model.entry}): {_WORDS[model.residency]}", ""]
    lines += [f"  {sentence}" for sentence in model.why]
    lines += [f"  Warning: {warning}." for warning in model.warnings]
    for worker in model.workers:
        place = f"device {worker.device}" if len(model.workers) > 1 else "its device"
        lines += ["", f"  On {place}, {_gib(worker.awake_bytes)} awake, {_gib(worker.asleep_bytes)} asleep:"]
        rows = [[term.name, _gib(term.bytes), term.source] for term in worker.fixed]
        rows.append(["KV cache", _gib(worker.kv_cache), "what the plan gives it"])
        lines += [f"    {line}" for line in _columns(rows)]
    return "\n".join(lines)


def bar(segments: Sequence[Segment], width: int) -> str:
    """Segments as block characters, exactly as many as asked for."""
    total = sum(segment.bytes for segment in segments)
    ends, seen = [], 0
    for segment in segments:
        seen += segment.bytes
        ends.append(round(seen * width / total) if total else 0)
    starts = [0, *ends[:-1]]
    return "".join(
        BLOCKS[segment.kind] * (end - start)
        for segment, start, end in zip(segments, starts, ends, strict=True)
    )


def _models(plan: Plan) -> Iterator[str]:
    rows = [["MODEL", "STATE", "ON", "LAYOUT", "WEIGHTS", "CONTEXT", "AT ONCE", "KV CACHE", "MUST BE FREE"]]
    for model in plan.models:
        layout, share = model.layout, model.gpu_memory_utilization
        tensor, pipeline = layout.tensor_parallel, layout.pipeline_parallel
        how = [f"tensor x{tensor}"] if tensor > 1 else []
        how += [f"pipeline x{pipeline}"] if pipeline > 1 else []
        rows.append(
            [
                model.name,
                _WORDS[model.residency],
                "CPU" if plan.build == "cpu" else f"GPU {','.join(map(str, model.devices))}",
                " ".join(how) or "-",
                f"{_gib(model.weight_bytes)} {model.quantization}",
                str(model.context),
                str(model.requests) if model.kv_cache else "-",
                _gib(model.kv_cache),
                "-" if share is None else f"{share:.2%}",
            ]
        )
    rows += [[each.name, "not served", "-", "-", "-", "-", "-", "-", "-"] for each in plan.unserved]
    return _columns(rows)


def _devices(plan: Plan) -> Iterator[str]:
    rows = []
    for use in plan.uses():
        name = "Host memory" if use.device.kind == "cpu" else f"GPU {use.device.index}"
        rows.append([name, f"[{bar(segments_of(plan, use), _BAR)}]", _said(use)])
    return _columns(rows)


def _said(use: DeviceUse) -> str:
    sizes = {"awake": use.resident, "asleep": use.asleep, "on demand": use.on_demand, "free": use.free}
    parts = [f"{name} {size / GIB:.2f}" for name, size in sizes.items() if size or name == "free"]
    return f"{', '.join(parts)} of {_gib(use.usable)} usable"


def _host(plan: Plan) -> str:
    return f"Host memory: {_gib(plan.host_asleep)} for models asleep, of {_gib(plan.host_budget)} usable"


def _legend(plan: Plan) -> str:
    words: dict[SegmentKind, str] = {
        "resident": "awake always",
        "asleep": "held asleep",
        "on demand": "the largest on demand",
        "free": "free",
    }
    used = {segment.kind for use in plan.uses() for segment in segments_of(plan, use)}
    marks = [f"{BLOCKS[kind]} {word}" for kind, word in words.items() if kind in used]
    share = plan.host_memory_share if plan.build == "cpu" else plan.gpu_memory_share
    return "   ".join([*marks, f"blank: kept back ({1 - share:.0%})"])


def _notes(plan: Plan) -> Iterator[str]:
    for model in plan.models:
        for warning in model.warnings:
            yield f"{model.name}: {warning}."
    for each in plan.unserved:
        yield f"{each.name}: {each.reason}."
    if not plan.complete:
        yield "Not every arrangement was tried: there are too many. There may be a better one."


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
