"""A set that cannot be: the arithmetic that says so, and what would fit instead."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from citadel_llm.config.schema import Placement
from citadel_llm.placement.options import Demand, Option, Wish, gib
from citadel_llm.placement.plan import Residency
from citadel_llm.placement.search import Budget, Place, Search, State
from citadel_llm.placement.terms import PlacementError

if TYPE_CHECKING:
    from citadel_llm.placement.planner import Problem


# So many reasons are written out for people; programs get all.
_MOST_SAID = 8
# For finding one model's place beside others that stay.
_NODES = 10_000


@dataclass(frozen=True)
class Reason:
    """One thing that does not fit.

    Attributes:
        text: The arithmetic in words.
        missing: By how many bytes it does not fit; none when it is no question of memory.
        models: The names of the models that have to do with it.
        device: The index of the GPU that overflows, when it is one.
    """

    text: str
    missing: int | None
    models: tuple[str, ...]
    device: int | None = None


@dataclass(frozen=True)
class Suggestion:
    """A change with which the set was planned, and fits.

    Attributes:
        settings: What to set, such as `models[1].residency: warm`.
        text: What that means, in words.
        cost: What it takes away: suggestions are sorted by it. The less, the less.
        left_out: The names of the models that it leaves out.
    """

    settings: tuple[str, ...]
    text: str
    cost: int
    left_out: tuple[str, ...] = ()


class PlacementRefusedError(PlacementError):
    """Not all models can be served on the machine.

    Args:
        reasons: Everything that does not fit.
        suggestions: What would, the smallest change first; each was planned.
        complete: Whether every arrangement was tried.
    """

    def __init__(self, reasons: Sequence[Reason], suggestions: Sequence[Suggestion], complete: bool) -> None:
        super().__init__("models", "they cannot all be served", "see the suggestions")
        self.reasons = tuple(reasons)
        self.suggestions = tuple(suggestions)
        self.complete = complete

    def __str__(self) -> str:
        """The reasons and the suggestions, a line for each."""
        lines = ["The models cannot all be served on this machine:"]
        lines += [f"  - {reason.text}" for reason in self.reasons[:_MOST_SAID]]
        if self.reasons[_MOST_SAID:]:
            lines.append(f"  - and {len(self.reasons) - _MOST_SAID} more like these")
        if not self.complete:
            lines.append("  (Not every arrangement was tried: there are too many.)")
        if self.suggestions:
            lines.append("What would fit (one of these):")
            lines += [f"  - {each.text}:  {_listed(each.settings)}" for each in self.suggestions]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The refusal for programs; docs/placement.md says what each key means."""
        return {
            "format": 1,
            "fits": False,
            "complete": self.complete,
            "reasons": [
                {
                    "text": each.text,
                    "missing_bytes": each.missing,
                    "models": list(each.models),
                    "device": each.device,
                }
                for each in self.reasons
            ],
            "suggestions": [
                {"text": each.text, "settings": list(each.settings), "leaves_out": list(each.left_out)}
                for each in self.suggestions
            ],
        }


def _listed(settings: Sequence[str]) -> str:
    more = f", and {len(settings) - _MOST_SAID} more" if settings[_MOST_SAID:] else ""
    return f"{', '.join(settings[:_MOST_SAID])}{more}"


def refuse(
    placement: Placement, problem: "Problem", wishes: Sequence[Wish], faults: Sequence[PlacementError]
) -> PlacementRefusedError:
    """Why the wishes cannot be, and what could."""
    from citadel_llm.placement.suggestions import suggest  # noqa: PLC0415 - it plans, too

    reasons = _reasons(problem, faults)
    involved = {name for reason in reasons for name in reason.models}
    hopeless = {each.models[0] for each in reasons if each.device is None and len(each.models) == 1}
    suggestions = suggest(placement, problem.build, problem.machine, wishes, involved, hopeless=hopeless)
    return PlacementRefusedError(reasons, suggestions, not problem.budget.cut_short)


def arithmetic(option: Option, worker: int) -> str:
    """What one worker needs, term by term: `weights 7.12 + KV cache 1.50 + activation 2.00`."""
    sizes = {"weights": 0, "KV cache": option.kv_cache}
    for term in option.needs[worker].fixed:
        sizes[term.name] = sizes.get(term.name, 0) + term.bytes
    return " + ".join(f"{name} {gib(size).removesuffix(' GiB')}" for name, size in sizes.items() if size)


def _reasons(problem: "Problem", faults: Sequence[PlacementError]) -> list[Reason]:
    reasons = [Reason(str(fault), None, _named(fault, problem)) for fault in faults]
    for demand in problem.demands:
        if demand.first is None and demand.wish.replica == 1:
            reasons += _alone(problem, demand)
    residencies = problem.wished()
    if not problem.sleepers_fit(residencies):
        reasons.append(_host(problem, residencies))
    if reasons:
        return reasons
    return _overflows(problem, residencies)


def _named(fault: PlacementError, problem: "Problem") -> tuple[str, ...]:
    entries = {wish.entry: wish.model.name for wish in problem.wishes}
    return tuple(name for entry, name in entries.items() if fault.entry.startswith((f"{entry}.", entry)))


def _alone(problem: "Problem", demand: Demand) -> list[Reason]:
    """Why a model does not fit even where nothing else is."""
    name, closest = demand.wish.model.name, demand.closest
    reasons = [Reason(text, missing, (name,)) for text, missing in demand.reasons]
    if closest is not None:
        position = closest.positions[0]
        usable = problem.slots.usable[position]
        worker = max(range(len(closest.awake)), key=lambda each: closest.awake[each])
        needed = closest.awake[worker]
        device = problem.slots.devices[position]
        place = device.name if device.kind == "cpu" else f"each {device.name}"
        count = closest.layout.devices
        over = f" over {count} of them" if count > 1 else ""
        text = (
            f"{demand.wish.entry} ({name}) does not fit even alone{over}: {arithmetic(closest, worker)} = "
            f"{gib(needed)}, for {demand.context} tokens, and {gib(usable)} of {place} are usable → "
            f"{gib(needed - usable)} too much"
        )
        reasons.append(Reason(text, needed - usable, (name,)))
    if not reasons:
        count, engine = len(problem.slots.devices), demand.wish.model.engine
        sizes = ("tensor_parallel_size", "pipeline_parallel_size")
        told = [f"{key} {getattr(engine, key)}" for key in sizes if getattr(engine, key)]
        how = f" with {' and '.join(told)}" if told else ""
        text = (
            f"{demand.wish.entry} ({name}) has no place: its shape cannot be laid out{how} on {count} GPU(s)"
        )
        if not count:
            found = f"the machine has 0 GPUs ({problem.machine.origin})"
            text = f"{demand.wish.entry} ({name}) has no place: {found}"
        reasons.append(Reason(text, None, (name,)))
    return reasons


def _host(problem: "Problem", residencies: Sequence[Residency]) -> Reason:
    pairs = zip(problem.demands, residencies, strict=True)
    sleepers = [demand for demand, each in pairs if each == "warm"]
    total, budget = problem.asleep(residencies), problem.host_budget
    parts = " + ".join(f"{each.wish.model.name} {gib(each.memory.weight_bytes)}" for each in sleepers)
    much = f"{gib(total)} → {gib(total - budget)} too much"
    text = f"Host memory: {gib(budget)} usable; asleep in it: {parts} = {much}"
    return Reason(text, total - budget, tuple(each.wish.model.name for each in sleepers))


def _overflows(problem: "Problem", residencies: Sequence[Residency]) -> list[Reason]:
    """Where it overflows when each model goes where it is least too much."""
    search = Search(problem.slots, problem.demands, residencies)
    state = State(problem.slots)
    places: dict[int, Place] = {}
    for index in search.order():
        place = search.first_place(index, state, Budget(_NODES, _NODES)) or _least_bad(
            problem, index, state, residencies[index]
        )
        places[index] = place
        state.put(place, residencies[index])
    reasons = []
    for position, device in enumerate(problem.slots.devices):
        needed = state.base[position] + state.swing[position]
        usable = problem.slots.usable[position]
        if needed > usable:
            where = "Host memory" if device.kind == "cpu" else f"GPU {device.index}"
            parts, names = _parts(problem, position, places, residencies)
            text = (
                f"{where}: {gib(usable)} usable; {'; '.join(parts)}; together {gib(needed)} → "
                f"{gib(needed - usable)} too much"
            )
            reasons.append(
                Reason(text, needed - usable, tuple(names), None if device.kind == "cpu" else device.index)
            )
    if not reasons:
        text = f"No arrangement was found in {problem.budget.used} steps, and there may be none"
        reasons.append(Reason(text, None, tuple(each.wish.model.name for each in problem.demands)))
    return reasons


def _least_bad(problem: "Problem", index: int, state: State, residency: Residency) -> Place:
    option = problem.demands[index].first
    if option is None:
        raise ValueError(problem.demands[index].wish.entry)
    taken: list[int] = []
    for worker in range(option.layout.devices):
        if option.fixed:
            taken.append(option.positions[worker])
            continue
        free = [position for position in option.positions if position not in taken]
        awake, asleep = option.awake[worker], option.asleep[worker]
        taken.append(max(free, key=lambda each: (state.left(each, awake, asleep, residency), -each)))
    return Place(option, tuple(taken))


def _parts(
    problem: "Problem", position: int, places: dict[int, Place], residencies: Sequence[Residency]
) -> tuple[list[str], list[str]]:
    """What is on a device: residents, sleepers' rests, and the one on demand that takes the most."""
    parts, names = [], []
    swings = []
    for index, demand in enumerate(problem.demands):
        place = places[index]
        if position not in place.positions:
            continue
        name, worker = demand.wish.model.name, place.positions.index(position)
        option, residency = place.option, residencies[index]
        awake = f"{name}: {arithmetic(option, worker)} = {gib(option.awake[worker])}"
        if residency == "resident":
            parts.append(awake)
            names.append(name)
            continue
        if residency == "warm":
            parts.append(f"{name} asleep {gib(option.asleep[worker])}")
        rest = option.asleep[worker] if residency == "warm" else 0
        swings.append((option.awake[worker] - rest, -index, awake, name, rest))
    if swings:
        most, _, words, name, rest = max(swings)
        more = f"; awake, {gib(most)} more than asleep" if rest else ""
        parts.append(f"on demand {words}{more}")
        names += [each[3] for each in swings]
    return parts, names
