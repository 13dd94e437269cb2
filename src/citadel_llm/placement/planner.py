"""Makes the plan: where each model of a catalogue runs on a machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from citadel_llm.config.schema import Placement
from citadel_llm.placement.devices import Machine
from citadel_llm.placement.options import Build, Demand, Wish, demand_of
from citadel_llm.placement.plan import ModelPlan, Plan, Residency, Unserved, WorkerPlan
from citadel_llm.placement.search import Arrangement, Budget, Search, state_of
from citadel_llm.placement.slots import Slots, slots_of
from citadel_llm.placement.spare import Share, share_out
from citadel_llm.placement.terms import Device, ModelMemory, PlacementError

# Nodes of the search: one is one device tried for one worker. Chosen so that 200 models on 64 GPUs are
# planned in under a second, and that everything is tried for the few models and GPUs of most servers.
NODES_FOR_ANY = 300_000  # to find any arrangement at all: the first descent alone may take a third of it
NODES_EACH = 25_000  # to raise one model's residency with all others arranged anew
NODES_IN_ALL = 100_000  # for all of these together
NODES_FOR_ONE = 2_000  # to find a place for one model where the others stay
_NO_ENGINE = "not served here: this release has no engine for runtime transformers"
_UTILIZATION_STEPS = 10_000
# What is taken already when vLLM 0.33 looks at how much is free (v1/worker/gpu_worker.py, init_device).
_BEFORE_VLLM_LOOKS = frozenset({"runtime", "communication"})

# Each wish that was looked at, by its id, with the demands that it led to.
Known = dict[int, tuple[Wish, list[Demand]]]


@dataclass
class Problem:
    """What is to be arranged, and how far that has come."""

    build: Build
    machine: Machine
    slots: Slots
    demands: list[Demand]
    host_budget: int
    budget: Budget
    wishes: Sequence[Wish]

    def wished(self) -> list[Residency]:
        """The residencies that were asked for, and for the others the one that needs the least."""
        asked = (demand.wish.model.residency for demand in self.demands)
        return ["cold" if residency == "auto" else residency for residency in asked]

    def fewest(self) -> list[int] | None:
        """On how many devices each model fits by itself; none when one fits nowhere."""
        options = [demand.first for demand in self.demands]
        return None if None in options else [each.layout.devices for each in options if each is not None]

    def sleepers_fit(self, residencies: Sequence[Residency]) -> bool:
        """Whether the host's memory holds the weights of the sleeping models."""
        return self.asleep(residencies) <= self.host_budget

    def asleep(self, residencies: Sequence[Residency]) -> int:
        """What the sleeping models take of the host's memory."""
        pairs = zip(self.demands, residencies, strict=True)
        return sum(demand.memory.weight_bytes for demand, residency in pairs if residency == "warm")


def make_plan(placement: Placement, build: Build, machine: Machine, wishes: Sequence[Wish]) -> Plan:
    """Decide where each model runs.

    The same arguments give the same plan, on any machine.

    Args:
        placement: The shares of memory that may be taken.
        build: The engine's build.
        machine: What there is.
        wishes: The models, those first that go first where memory is scarce.

    Raises:
        PlacementRefusedError: They cannot all be served; with the arithmetic, and with what would fit.
    """
    from citadel_llm.placement.refusal import refuse  # noqa: PLC0415 - it plans, too: to find what would fit

    problem, faults = problem_of(placement, build, machine, wishes)
    arrangement = None if faults else arrange(problem)
    if arrangement is None:
        raise refuse(placement, problem, wishes, faults)
    residencies, places = arrangement
    shares = [
        Share(demand, place, residency, demand.context, place.option.kv_cache)
        for demand, place, residency in zip(problem.demands, places, residencies, strict=True)
    ]
    share_out(problem.slots, shares, build)
    from citadel_llm.placement.explain import reasons_of  # noqa: PLC0415

    why = reasons_of(problem, shares)
    return Plan(
        machine=machine,
        build=build,
        gpu_memory_share=placement.gpu_memory_share,
        host_memory_share=placement.host_memory_share,
        models=tuple(_model_plan(problem, share, *why[at]) for at, share in enumerate(shares)),
        unserved=tuple(
            Unserved(wish.model.name, wish.entry, _NO_ENGINE)
            for wish in wishes
            if wish.memory is None or not wish.model.served
        ),
        complete=not problem.budget.cut_short,
        nodes=problem.budget.used,
    )


def fits(  # noqa: PLR0917 - as make_plan, and what makes asking often cheap
    placement: Placement,
    build: Build,
    machine: Machine,
    wishes: Sequence[Wish],
    known: "Known",
    nodes: int = NODES_FOR_ANY,
) -> bool:
    """Whether all could be served, each at least on demand.

    Args:
        placement: The shares of memory that may be taken.
        build: The engine's build.
        machine: What there is.
        wishes: The models.
        known: What earlier calls for the same machine found out of the same wishes; it is added to.
        nodes: How many nodes the search may take.
    """
    problem, faults = problem_of(placement, build, machine, wishes, known)
    return not faults and first_arrangement(problem, nodes) is not None


def problem_of(
    placement: Placement,
    build: Build,
    machine: Machine,
    wishes: Sequence[Wish],
    known: "Known | None" = None,
) -> tuple[Problem, list[PlacementError]]:
    """The wishes made ready for the search, and those that cannot be on this machine at all."""
    share = placement.host_memory_share if build == "cpu" else placement.gpu_memory_share
    slots = slots_of(machine, [math.floor(device.memory * share) for device in machine.devices])
    demands: list[Demand] = []
    faults: list[PlacementError] = []
    known = {} if known is None else known
    for wish in wishes:
        if wish.memory is None or not wish.model.served:
            continue
        try:
            _, found = known.get(id(wish)) or (wish, _demands_of(wish, wish.memory, slots, build))
        except PlacementError as error:
            faults.append(error)
        else:
            demands += found
            # With the wish, so that its id stays its own.
            known[id(wish)] = wish, found
    host_budget = math.floor(machine.host_memory * placement.host_memory_share)
    return Problem(
        build, machine, slots, demands, host_budget, Budget(NODES_EACH, NODES_IN_ALL), wishes
    ), faults


def _demands_of(wish: Wish, memory: ModelMemory, slots: Slots, build: Build) -> list[Demand]:
    """One for each of the model's engines."""
    return [demand_of(each, memory, slots, build) for each in wish.engines()]


def first_arrangement(problem: Problem, nodes: int = NODES_FOR_ANY) -> Arrangement | None:
    """Any arrangement that keeps every explicit wish, with the rest on demand.

    With as few devices for each model as hold it; over more only if there is no other.
    """
    residencies = problem.wished()
    fewest = problem.fewest()
    if fewest is None or not problem.sleepers_fit(residencies):
        return None
    budget = Budget(nodes, 2 * nodes)
    found = Search(problem.slots, problem.demands, residencies, fewest).run(budget)
    if found is None:
        # What matters is whether there is none over any number of devices.
        budget.cut_short = False
        found = Search(problem.slots, problem.demands, residencies).run(budget)
    problem.budget.used += budget.used
    problem.budget.cut_short = found is None and budget.cut_short
    return found


def arrange(problem: Problem) -> tuple[list[Residency], Arrangement] | None:
    """The best residencies, in the catalogue's order, and an arrangement for them."""
    places = first_arrangement(problem)
    if places is None:
        return None
    residencies = problem.wished()
    # To be awake always, no model is laid over more devices than it is anyway.
    most = [place.option.layout.devices for place in places]
    # On the CPU build there is nothing to sleep on: resident or not.
    better: tuple[Residency, ...] = ("resident", "warm") if problem.build == "cuda" else ("resident",)
    for index, demand in enumerate(problem.demands):
        if demand.wish.model.residency == "auto":
            for residency in better:
                trial = [*residencies[:index], residency, *residencies[index + 1 :]]
                found = _improve(problem, trial, most, places, index)
                if found is not None:
                    residencies, places = trial, found
                    break
    return residencies, _spread(problem, residencies, most) or places


def _improve(
    problem: Problem, residencies: list[Residency], most: list[int], places: Arrangement, index: int
) -> Arrangement | None:
    """An arrangement with one residency raised: the others where they are if that goes, else all anew."""
    if not problem.sleepers_fit(residencies):
        return None
    search = Search(problem.slots, problem.demands, residencies, most)
    if search.impossible():
        return None
    state = state_of(problem.slots, places, residencies, without=index)
    # Cheap, and so never left out, however much of the budget is spent.
    alone = Budget(NODES_FOR_ONE, NODES_FOR_ONE)
    place = search.first_place(index, state, alone)
    problem.budget.used += alone.used
    if place is not None:
        return [*places[:index], place, *places[index + 1 :]]
    return search.run(problem.budget)


def _spread(problem: Problem, residencies: list[Residency], most: list[int]) -> Arrangement | None:
    """The same residencies with each model on the emptiest devices: there is more left to share out."""
    # A budget of its own: that none was found in time says nothing about what fits.
    budget = Budget(NODES_EACH, NODES_EACH)
    found = Search(problem.slots, problem.demands, residencies, most, spread=True).run(budget)
    problem.budget.used += budget.used
    return found


def must_be_free(workers: Sequence[WorkerPlan], devices: Sequence[Device]) -> float:
    """The share of a GPU that vLLM is to find free when it looks (v1/worker/utils.py, request_memory).

    It looks when CUDA's context and NCCL's buffers are made, so what it takes after that, rounded down. One
    share holds for all workers: that of the one that takes the least, or another's GPU with more on it would
    be refused although everything fits. The KV cache's size does not come from it.
    """
    shares = []
    for worker, device in zip(workers, devices, strict=True):
        before = sum(term.bytes for term in worker.fixed if term.name in _BEFORE_VLLM_LOOKS)
        shares.append((worker.awake_bytes - before) / device.memory)
    return max(1, math.floor(min(shares) * _UTILIZATION_STEPS)) / _UTILIZATION_STEPS


def _model_plan(problem: Problem, share: Share, why: tuple[str, ...], warnings: tuple[str, ...]) -> ModelPlan:
    option, wish = share.place.option, share.demand.wish
    devices = [problem.slots.devices[position] for position in share.place.positions]
    workers = tuple(
        WorkerPlan(device.index, need.fixed, need.asleep, share.kv_cache)
        for device, need in zip(devices, option.needs, strict=True)
    )
    return ModelPlan(
        name=wish.model.name,
        replica=wish.replica,
        entry=wish.entry,
        residency=share.residency,
        layout=option.layout,
        workers=workers,
        context=share.context,
        requests=share.requests(),
        kv_cache=share.kv_cache,
        gpu_memory_utilization=None if problem.build == "cpu" else must_be_free(workers, devices),
        parameters=share.demand.memory.parameters,
        weight_bytes=share.demand.memory.weight_bytes,
        quantization=share.demand.memory.quantization,
        why=why,
        warnings=warnings,
    )
