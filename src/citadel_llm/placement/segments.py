"""A device's memory in its parts, from left to right as a bar shows them."""

from dataclasses import dataclass
from typing import Literal

from citadel_llm.placement.plan import DeviceUse, ModelPlan, Plan, WorkerPlan

SegmentKind = Literal["resident", "asleep", "on demand", "free", "reserve"]


@dataclass(frozen=True)
class Segment:
    """One part of a device's memory.

    Attributes:
        kind: Always taken by a model awake, held by one asleep, taken by the largest one on demand, free, or
            not to be taken (above the share that the engines may take).
        model: The model's name; empty for what is free.
        parts: What it consists of, by the terms' names; in bytes.
    """

    kind: SegmentKind
    model: str
    parts: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        """How much it is."""
        return sum(size for _, size in self.parts)


def segments_of(plan: Plan, use: DeviceUse) -> tuple[Segment, ...]:
    """The parts of one device; together they are its memory."""
    here = [(model, worker) for model in plan.models for worker in model.on(use.device.index)]
    segments = [
        Segment("resident", model.name, worker.parts)
        for model, worker in here
        if model.residency == "resident"
    ]
    segments += [
        Segment("asleep", model.name, (("asleep", worker.asleep_bytes),))
        for model, worker in here
        if model.residency == "warm" and worker.asleep_bytes
    ]
    on_demand = [(model, worker) for model, worker in here if model.residency != "resident"]
    if on_demand:
        model, worker = max(on_demand, key=lambda each: extra(*each))
        segments.append(Segment("on demand", model.name, _extra_parts(model, worker)))
    segments.append(Segment("free", "", (("free", use.free),)))
    segments.append(Segment("reserve", "", (("reserve", use.device.memory - use.usable),)))
    return tuple(segment for segment in segments if segment.bytes > 0)


def extra(model: ModelPlan, worker: WorkerPlan) -> int:
    """What a model takes awake on top of what it holds anyway."""
    return worker.awake_bytes - (worker.asleep_bytes if model.residency == "warm" else 0)


def _extra_parts(model: ModelPlan, worker: WorkerPlan) -> tuple[tuple[str, int], ...]:
    """What it takes on top, by terms: those that it holds asleep count as the same terms awake."""
    held: dict[str, int] = {}
    if model.residency == "warm":
        for term in worker.asleep:
            held[term.name] = held.get(term.name, 0) + term.bytes
    parts, rest = [], 0
    for name, size in worker.parts:
        here = held.pop(name, 0)
        parts.append((name, max(0, size - here)))
        rest += max(0, here - size)
    rest += sum(held.values())
    # What is held under no name that is there awake, is taken off from the end.
    shrunk = []
    for name, size in reversed(parts):
        taken = min(size, rest)
        rest -= taken
        if size > taken:
            shrunk.append((name, size - taken))
    return tuple(reversed(shrunk))
