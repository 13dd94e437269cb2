"""Which GPUs a model gets, and how it is laid over them."""

from itertools import combinations
from typing import Any

import pytest

from citadel_llm.placement.capabilities import Verdict, judge
from citadel_llm.placement.devices import Link, LinkKind, Machine
from citadel_llm.placement.refusal import PlacementRefusedError
from citadel_llm.placement.terms import GIB, Device

from .synthetic import gpus, plan


def links(*pairs: tuple[int, int], kind: LinkKind = "nvlink", peer: str = "ok") -> tuple[Link, ...]:
    return tuple(Link(pair, kind, "", peer) for pair in pairs)


def all_pairs(count: int) -> list[tuple[int, int]]:
    return list(combinations(range(count), 2))


SLOW = [pair for pair in all_pairs(4) if pair not in {(0, 2), (1, 3)}]


@pytest.mark.parametrize(
    ("machine", "gib", "layout", "devices"),
    [
        # One is enough, however fast the others are linked.
        (gpus(16, 16, links=links((0, 1))), 10, (1, 1), 1),
        # Nothing known, and everything slower than one switch: in sequence.
        (gpus(16, 16), 20, (1, 2), 2),
        (gpus(16, 16, links=links((0, 1), kind="bridge")), 20, (1, 2), 2),
        (gpus(16, 16, links=links((0, 1), kind="sockets")), 20, (1, 2), 2),
        # One switch is fast with peer-to-peer only, NVLink in any case.
        (gpus(16, 16, links=links((0, 1), kind="switch")), 20, (2, 1), 2),
        (gpus(16, 16, links=links((0, 1), kind="switch", peer="chipset not supported")), 20, (1, 2), 2),
        (gpus(16, 16, links=links((0, 1), peer="")), 20, (2, 1), 2),
        # All four linked: split over four. In pairs: over the pairs, one after the other.
        (gpus(16, 16, 16, 16, links=links(*all_pairs(4))), 45, (4, 1), 4),
        (
            gpus(16, 16, 16, 16, links=(*links((0, 2), (1, 3)), *links(*SLOW, kind="socket"))),
            45,
            (2, 2),
            4,
        ),
    ],
)
def test_the_layout_follows_the_links(
    machine: Machine, gib: float, layout: tuple[int, int], devices: int
) -> None:
    [model] = plan(machine, ("m", gib)).models
    assert (model.layout.tensor_parallel, model.layout.pipeline_parallel) == layout
    assert len(set(model.devices)) == devices


def test_each_split_stays_within_linked_gpus() -> None:
    machine = gpus(16, 16, 16, 16, links=(*links((0, 2), (1, 3)), *links(*SLOW, kind="socket")))
    [model] = plan(machine, ("m", 45)).models
    assert {frozenset(model.devices[:2]), frozenset(model.devices[2:])} == {
        frozenset({0, 2}),
        frozenset({1, 3}),
    }


def test_a_pair_goes_where_the_link_is() -> None:
    machine = gpus(16, 16, 16, links=(*links((1, 2)), *links((0, 1), (0, 2), kind="sockets")))
    [model] = plan(machine, ("m", 20)).models
    assert set(model.devices) == {1, 2}


def test_gpus_with_other_links_are_not_alike() -> None:
    """The larger one is placed first, and must not take the pair apart that the other one needs."""
    machine = gpus(16, 16, 16, links=(*links((0, 1)), *links((0, 2), (1, 2), kind="sockets")))
    split = {"possible": {2: ((2, 1),)}, "residency": "resident"}
    single, pair = plan(machine, ("a", 10.5, {"residency": "resident"}), ("b", 20, split)).models
    assert single.devices == (2,)
    assert set(pair.devices) == {0, 1}


def test_stages_go_to_near_gpus() -> None:
    far = links((0, 1), (0, 2), (1, 3), (2, 3), kind="sockets")
    machine = gpus(16, 16, 16, 16, links=(*links((0, 3), (1, 2), kind="bridge"), *far))
    [model] = plan(machine, ("m", 20)).models
    assert set(model.devices) in ({0, 3}, {1, 2})


def test_a_shape_that_cannot_be_laid_in_sequence_is_split_with_a_warning() -> None:
    [model] = plan(gpus(16, 16), ("m", 20, {"possible": {1: ((1, 1),), 2: ((2, 1),)}})).models
    assert model.layout.tensor_parallel == 2
    assert "without a fast link" in model.warnings[0]
    assert any("its shape allows no other layout" in sentence for sentence in model.why)


def test_one_engine_has_gpus_of_one_kind() -> None:
    [model] = plan(gpus(16, 24, 16), ("m", 26)).models
    assert set(model.devices) == {0, 2}


@pytest.mark.parametrize(
    ("engine", "devices", "layout"),
    [
        ({"gpus": [1]}, (1,), (1, 1)),
        ({"gpus": [2, 0]}, (2, 0), (1, 2)),
        ({"gpus": [0, 1], "tensor_parallel_size": 2}, (0, 1), (2, 1)),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 1}, None, (2, 1)),
        ({"pipeline_parallel_size": 3}, None, (1, 3)),
    ],
)
def test_what_the_entry_says_is_obeyed(
    engine: dict[str, Any], devices: tuple[int, ...] | None, layout: tuple[int, int]
) -> None:
    [model] = plan(gpus(16, 16, 16), ("m", 10, {"engine": engine})).models
    assert devices in (None, model.devices)
    assert (model.layout.tensor_parallel, model.layout.pipeline_parallel) == layout


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ({"gpus": [7]}, "models[0].engine.gpus: there is no GPU 7; the machine has 3: [0, 1, 2]"),
        ({"gpus": [1, 2]}, "one engine needs GPUs of one kind, but 1 is G16 with 16.00 GiB, 2 is G24"),
        ({"tensor_parallel_size": 4, "pipeline_parallel_size": 1}, "its sizes take 4 devices"),
        ({"gpus": [0, 1], "tensor_parallel_size": 2}, "cannot be laid out as tensor 2 x pipeline any"),
        ({"max_model_len": 40000}, "models[0].engine.max_model_len: 40000 tokens, and m was made for 32768"),
        ({"kv_cache_gib": 1, "max_model_len": 16384, "gpus": [0]}, "take 2.00 GiB (1.00 GiB too much)"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(engine: dict[str, Any], reason: str) -> None:
    entry = {"engine": engine, "possible": {1: ((1, 1),), 2: ((1, 2),)}}
    with pytest.raises(PlacementRefusedError) as error:
        plan(gpus(16, 16, 24), ("m", 5, entry))
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("capability", "quantization", "dtype", "refused", "warned"),
    [
        ((12, 0), "bf16", "auto", "", ""),
        # vLLM takes float16 by itself; told otherwise, it fails.
        ((7, 5), "bf16", "auto", "", "computed in float16 instead of bf16"),
        ((7, 5), "bf16", "bfloat16", "bf16 needs 8.0", ""),
        ((7, 5), "awq", "bfloat16", "bf16 needs 8.0", ""),
        ((7, 5), "mxfp4", "auto", "mxfp4 needs 8.0", ""),
        ((7, 5), "bf16", "float16", "", ""),
        ((7, 5), "fp16", "bfloat16", "bf16 needs 8.0", ""),
        ((7, 5), "awq", "auto", "", ""),
        ((7, 0), "awq", "auto", "awq needs 7.5", ""),
        ((7, 0), "fp16", "auto", "fp16 needs 7.5", ""),
        # A card of 7.5 would do, in float16.
        ((6, 1), "bf16", "auto", "fp16 needs 7.5", ""),
        ((8, 6), "fp8", "auto", "", "saves memory here, not time"),
        ((8, 9), "fp8", "auto", "", ""),
        (None, "fp8", "auto", "", ""),
    ],
)
def test_what_a_gpu_can_compute(
    capability: tuple[int, int] | None, quantization: str, dtype: str, refused: str, warned: str
) -> None:
    verdict = judge(Device("cuda", 0, "a card", 16 * GIB, capability), quantization, dtype, "auto")
    assert bool(verdict.refused) == bool(refused)
    assert refused in verdict.refused
    assert bool(verdict.warning) == bool(warned)
    assert warned in verdict.warning


def test_a_gpu_that_is_too_old_is_refused_with_what_would_do() -> None:
    old = Machine((Device("cuda", 0, "Tesla T4", 16 * GIB, (7, 5)),), (), 64 * GIB, "a test")
    with pytest.raises(PlacementRefusedError) as error:
        plan(old, ("m", 5, {"engine": {"dtype": "bfloat16"}}))
    assert "bf16 needs 8.0, above the compute capability 7.5 of Tesla T4" in str(error.value)
    assert "engine.dtype: float16 would do" in str(error.value)
    assert plan(old, ("m", 5, {"engine": {"dtype": "float16"}})).models[0].devices == (0,)


def test_a_model_that_float16_breaks_needs_bf16() -> None:
    verdict = judge(Device("cuda", 0, "T4", 16 * GIB, (7, 5)), "awq", "auto", "auto", "gemma3")
    assert verdict.refused.startswith("gemma3 is not computed in float16, and bf16 needs 8.0")
    assert judge(Device("cuda", 0, "L4", 24 * GIB, (8, 9)), "awq", "auto", "auto", "gemma3") == Verdict()
