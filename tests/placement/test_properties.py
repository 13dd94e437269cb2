"""What holds for every machine and every set of models, tried on many.

The sizes are such that the search tries every arrangement (each plan says whether it did): up to four models
on up to three GPUs.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citadel_llm.placement.devices import Machine
from citadel_llm.placement.options import Wish
from citadel_llm.placement.plan import Plan
from citadel_llm.placement.planner import fits, make_plan, problem_of
from citadel_llm.placement.refusal import PlacementRefusedError
from citadel_llm.placement.segments import segments_of
from citadel_llm.placement.terms import GIB

from .synthetic import SHARE, gpus, wish

MANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
SIZES = (8, 12, 16, 24)


@st.composite
def engines(draw: st.DrawFn, count: int) -> dict[str, Any]:
    engine: dict[str, Any] = {}
    if draw(st.integers(0, 3)) == 0:
        engine["max_model_len"] = draw(st.sampled_from((2048, 8192, 32768)))
    if draw(st.integers(0, 3)) == 0:
        engine["concurrent_requests"] = draw(st.integers(1, 4))
    if draw(st.integers(0, 5)) == 0:
        engine["kv_cache_gib"] = draw(st.integers(1, 3))
    if draw(st.integers(0, 4)) == 0:
        engine["gpus"] = [draw(st.integers(0, count - 1))]
    return engine


@st.composite
def sets(draw: st.DrawFn) -> tuple[Machine, list[Wish]]:
    """A machine, and models that more or less fit on it."""
    sizes = draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3))
    machine = gpus(*sizes, host=draw(st.sampled_from((16, 64))))
    models = [
        wish(
            f"m{at}",
            draw(st.integers(1, 40)) / 2,
            at,
            draw(engines(len(sizes))),
            residency=draw(st.sampled_from(("auto", "auto", "resident", "warm", "cold"))),
            token=draw(st.sampled_from((0, 1 << 16, 1 << 18))),
            overhead=draw(st.sampled_from((GIB // 2, GIB))),
            rest=draw(st.sampled_from((0, GIB // 2))),
        )
        for at in range(draw(st.integers(1, 4)))
    ]
    return machine, models


def planned(machine: Machine, wishes: Sequence[Wish]) -> Plan | PlacementRefusedError:
    try:
        return make_plan(SHARE, "cuda", machine, wishes)
    except PlacementRefusedError as error:
        return error


@MANY
@given(sets())
def test_never_over_a_devices_or_the_hosts_memory(case: tuple[Machine, list[Wish]]) -> None:
    result = planned(*case)
    if isinstance(result, PlacementRefusedError):
        return
    assert result.complete
    assert result.host_asleep <= result.host_budget
    for device in result.machine.devices:
        usable = device.memory * SHARE.gpu_memory_share
        always = extra = 0
        for model in result.models:
            for worker in model.on(device.index):
                always += {"resident": worker.awake_bytes, "warm": worker.asleep_bytes, "cold": 0}[
                    model.residency
                ]
        for model in result.models:
            for worker in model.on(device.index):
                rest = {"resident": worker.awake_bytes, "warm": worker.asleep_bytes, "cold": 0}
                extra = max(extra, worker.awake_bytes - rest[model.residency])
        assert always + extra <= usable
        assert (
            sum(
                each.bytes
                for use in result.uses()
                if use.device == device
                for each in segments_of(result, use)
            )
            == device.memory
        )
    for model in result.models:
        share = model.gpu_memory_utilization
        assert share is not None
        for worker in model.workers:
            device = result.machine.devices[worker.device]
            # What vLLM's look at a GPU says when all that may be there is there already.
            made = sum(term.bytes for term in worker.fixed if term.name in ("runtime", "communication"))
            others = sum(
                each.awake_bytes if other.residency == "resident" else each.asleep_bytes
                for other in result.models
                if other is not model and other.residency != "cold"
                for each in other.on(worker.device)
            )
            assert share * device.memory <= max(result.usable(device) - others - made, device.memory / 10_000)


@MANY
@given(sets())
def test_every_wish_is_kept(case: tuple[Machine, list[Wish]]) -> None:
    result = planned(*case)
    if isinstance(result, PlacementRefusedError):
        return
    for each, model in zip(case[1], result.models, strict=True):
        entry = each.model
        assert model.name == entry.name
        assert entry.residency in ("auto", model.residency)
        assert entry.engine.gpus in ((), model.devices)
        assert entry.engine.max_model_len in (None, model.context)
        assert model.requests >= entry.engine.concurrent_requests
        assert each.memory is not None
        assert model.context >= min(entry.engine.min_model_len, each.memory.max_context) or (
            entry.engine.max_model_len is not None
        )
        if entry.engine.kv_cache_gib:
            assert model.kv_cache == entry.engine.kv_cache_gib * GIB


@MANY
@given(sets(), st.integers(0, 2), st.integers(1, 8))
def test_more_memory_never_turns_a_set_that_fits_into_one_that_does_not(
    case: tuple[Machine, list[Wish]], which: int, more: int
) -> None:
    machine, models = case
    if isinstance(planned(machine, models), PlacementRefusedError):
        return
    # All of a kind grow together: one engine wants equal GPUs, so growing one alone would take a pair apart.
    memory = machine.devices[which % len(machine.devices)].memory
    grown = tuple(
        replace(each, memory=each.memory + more * GIB, name=f"{each.name}+")
        if each.memory == memory
        else each
        for each in machine.devices
    )
    assert isinstance(planned(replace(machine, devices=grown), models), Plan)
    assert isinstance(planned(replace(machine, host_memory=machine.host_memory * 2), models), Plan)


@MANY
@given(sets(), st.randoms(use_true_random=False))
def test_the_same_input_gives_the_same_plan(case: tuple[Machine, list[Wish]], chance: random.Random) -> None:
    machine, models = case
    first, second = planned(machine, models), planned(machine, models)
    assert first.as_json() == second.as_json()
    devices = list(machine.devices)
    chance.shuffle(devices)
    other = planned(replace(machine, devices=tuple(devices)), models)
    if isinstance(first, PlacementRefusedError) or isinstance(other, PlacementRefusedError):
        assert type(first) is type(other)
        return
    # The order in which the devices are listed names them, and decides nothing.
    assert [each.residency for each in first.models] == [each.residency for each in other.models]


@MANY
@given(sets())
def test_a_refused_set_has_a_reason_that_names_its_number(case: tuple[Machine, list[Wish]]) -> None:
    error = planned(*case)
    if isinstance(error, Plan):
        return
    assert error.reasons
    assert error.complete
    for reason in error.reasons:
        assert any(name in reason.text for name in reason.models) or "models[" in reason.text
        if reason.missing is not None:
            assert reason.missing > 0
            assert f"{reason.missing / GIB:.2f} GiB too much" in reason.text


@settings(MANY, max_examples=60)
@given(sets())
def test_every_suggestion_fits(case: tuple[Machine, list[Wish]]) -> None:
    machine, models = case
    error = planned(machine, models)
    if isinstance(error, Plan):
        return
    for suggestion in error.suggestions:
        changed = [_changed(each, suggestion.settings) for each in models]
        kept = [each for each in changed if each.model.name not in suggestion.left_out]
        assert len(kept) == len(models) - len(suggestion.left_out)
        assert isinstance(planned(machine, kept), Plan), suggestion
    assert list(error.suggestions) == sorted(error.suggestions, key=lambda each: each.cost)


def _changed(each: Wish, words: Sequence[str]) -> Wish:
    """The wish as an operator would write it after reading the suggestion."""
    model = each.model
    for setting in words:
        if not setting.startswith(f"{each.entry}.") or setting.endswith("removed"):
            continue
        key, _, value = setting.removeprefix(f"{each.entry}.").partition(": ")
        if key == "residency":
            model = model.model_copy(update={"residency": value})
            continue
        assert key.startswith("engine.")
        name, read = key.removeprefix("engine."), {"[]": ()}
        if name.endswith(" absent"):
            name, new = name.removesuffix(" absent"), None
        else:
            new = read[value] if value in read else int(value)
        model = model.model_copy(update={"engine": model.engine.model_copy(update={name: new})})
    return replace(each, model=model)


@settings(MANY, max_examples=80)
@given(
    st.lists(st.integers(2, 30), min_size=1, max_size=4),
    st.lists(st.sampled_from(("resident", "warm", "cold")), min_size=4, max_size=4),
    st.lists(st.sampled_from(SIZES), min_size=1, max_size=3),
)
def test_the_search_finds_an_arrangement_whenever_there_is_one(
    halves: list[int], residencies: list[str], sizes: list[int]
) -> None:
    """Beside a program that tries all of them, without any of the search's shortcuts."""
    machine = gpus(*sizes, host=1000)
    models = [
        wish(f"m{at}", half / 2, at, residency=residency)
        for at, (half, residency) in enumerate(zip(halves, residencies, strict=False))
    ]
    assert fits(SHARE, "cuda", machine, models, {}) == _brute_force(machine, models)


def _brute_force(machine: Machine, models: list[Wish]) -> bool:
    problem, _ = problem_of(SHARE, "cuda", machine, models)
    choices = [
        [
            (option, seats)
            for option in demand.options()
            for seats in permutations(option.positions, option.layout.devices)
        ]
        for demand in problem.demands
    ]
    residencies = problem.wished()
    return any(_holds(problem.slots.usable, residencies, chosen) for chosen in product(*choices))


def _holds(usable: Sequence[int], residencies: Sequence[str], chosen: Any) -> bool:
    for position, limit in enumerate(usable):
        always, extra = 0, 0
        for residency, (option, seats) in zip(residencies, chosen, strict=True):
            if position in seats:
                worker = seats.index(position)
                rest = {"resident": option.awake[worker], "warm": option.asleep[worker], "cold": 0}[residency]
                always += rest
                extra = max(extra, option.awake[worker] - rest)
        if always + extra > limit:
            return False
    return True


@pytest.mark.parametrize("links", [False, True])
def test_as_many_as_the_largest_site_has(links: bool) -> None:
    """64 GPUs and 200 models: in nodes, which no machine's speed changes; docs/placement.md has the time.

    The time is asked for generously: under a second where nothing else runs, and tests run beside each other.
    """
    chance = random.Random(7)  # noqa: S311 - only so that it varies
    sizes = [chance.choice((2, 4, 7, 9, 14, 22, 40, 70, 130)) for _ in range(200)]
    models = [wish(f"m{at}", size, at) for at, size in enumerate(sizes)]
    machine = gpus(*[80] * 64, host=2000)
    if links:
        machine = replace(machine, links=_eight_by_eight())
    start = time.monotonic()
    result = make_plan(SHARE, "cuda", machine, models)
    assert time.monotonic() - start < 10
    assert len(result.models) == 200
    assert result.nodes <= 300_000
    assert sum(each.residency == "resident" for each in result.models) > 100


def test_a_catalogue_may_be_longer_than_pythons_stack() -> None:
    assert fits(SHARE, "cuda", gpus(80), [wish(f"m{at}", 1, at) for at in range(1200)], {})


def _eight_by_eight() -> Any:
    from citadel_llm.placement.devices import Link  # noqa: PLC0415

    return tuple(
        Link((a, b), "nvlink" if a // 8 == b // 8 else "sockets", "", "ok")
        for a in range(64)
        for b in range(a + 1, 64)
    )
