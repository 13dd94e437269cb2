"""A model's whole need: overheads, sleep, layouts, the CPU build."""

from typing import Any

import pytest

from citadel_llm.placement.overheads import default_batch
from citadel_llm.placement.terms import GIB, MIB, Device, Layout, PlacementError, RankNeed

from .samples import H100, HOST, SMALL, memory, recorded, shape


def term(need: RankNeed, name: str) -> float:
    return sum(term.bytes for term in need.fixed if term.name == name) / GIB


def measured(kind: str) -> list[Any]:
    """What others measured of one term on H100; published/measured.json names them."""
    rows = [row for row in recorded("measured") if row["term"] == kind]
    return [pytest.param(row, id=f"{row['name']} over {row['tensor_parallel']}") for row in rows]


def need_of(row: dict[str, Any]) -> RankNeed:
    made = memory(dict(shape(row["shape"])["config"]) | row["changes"])
    return made.on(Layout(row["tensor_parallel"]), H100)[0]


@pytest.mark.parametrize("row", measured("weights"))
def test_weights_are_those_that_vllm_reported(row: dict[str, Any]) -> None:
    assert term(need_of(row), "weights") == pytest.approx(row["gib"], rel=0.025)


@pytest.mark.parametrize("row", measured("activation"))
def test_activation_is_not_below_what_was_measured(row: dict[str, Any]) -> None:
    assert row["gib"] <= term(need_of(row), "activation") <= row["gib"] + 1.1


@pytest.mark.parametrize("row", measured("CUDA graphs"))
def test_graphs_are_not_below_what_was_measured(row: dict[str, Any]) -> None:
    assert row["gib"] <= term(need_of(row), "CUDA graphs") <= row["gib"] + 0.6


@pytest.mark.parametrize("row", measured("asleep"))
def test_a_sleeping_engine_is_not_below_what_was_measured(row: dict[str, Any]) -> None:
    assert need_of(row).asleep_bytes >= row["gib"] * GIB


def test_a_small_model_is_not_charged_like_a_large_one() -> None:
    (need,) = memory("smollm2-135m").on(Layout(), SMALL)
    assert term(need, "activation") < 0.4
    assert need.fixed_bytes < 2.1 * GIB


def test_every_term_has_a_source_and_a_place() -> None:
    for layout in (Layout(), Layout(2), Layout(1, 2), Layout(2, 2)):
        needs = memory("llama-3.1-8b").on(layout, SMALL)
        assert len(needs) == layout.devices
        for need in needs:
            names = [term.name for term in need.fixed]
            expected = ["weights", "activation", "CUDA graphs", "communication", "runtime"]
            assert names == [name for name in expected if name != "communication" or layout.devices > 1]
            assert all(term.source and term.bytes > 0 for term in need.fixed)


def test_only_the_last_stage_samples() -> None:
    first, last = memory("gemma-3-12b").on(Layout(1, 2), SMALL)
    assert term(last, "activation") - term(first, "activation") > 0.75


def test_pipeline_parallel_costs_less_than_tensor_parallel_without_a_link() -> None:
    pipeline = memory("mixtral-8x7b", quantization="awq").on(Layout(1, 2), SMALL)
    tensor = memory("mixtral-8x7b", quantization="awq").on(Layout(2), SMALL)
    assert max(need.fixed_bytes for need in pipeline) < max(need.fixed_bytes for need in tensor)
    # 4 bits in two cards of 16 GiB, with a request of 4096 tokens.
    assert max(need.fixed_bytes + need.kv.bytes_for(4096) for need in pipeline) < 0.92 * SMALL.memory


def test_eager_takes_no_graphs() -> None:
    (need,) = memory("llama-3.1-8b", enforce_eager=True).on(Layout(), SMALL)
    assert term(need, "CUDA graphs") == 0


class TestAsleep:
    def test_weights_and_activation_go(self) -> None:
        (need,) = memory("llama-3.1-8b").on(Layout(), SMALL)
        assert {term.name for term in need.asleep} == {"CUDA graphs", "runtime"}
        assert need.asleep_bytes < need.fixed_bytes / 10


class TestOnTheCpu:
    def test_smollm2_takes_what_was_measured(self) -> None:
        (need,) = memory("smollm2-135m", "cpu").on(Layout(), HOST)
        assert [term.name for term in need.fixed] == ["weights", "activation", "runtime"]
        whole = need.fixed_bytes + 1 * GIB
        # API server 0.7 GB, core 0.6, worker 2.1 with 1 GiB of KV cache; activation is planned on top.
        activation = term(need, "activation") * GIB
        assert whole - activation == pytest.approx(3.4e9, rel=0.01)
        assert activation < 0.3 * GIB

    @pytest.mark.parametrize("row", measured("engine on a CPU"))
    def test_an_engine_takes_no_more_than_planned(self, row: dict[str, Any]) -> None:
        (need,) = memory(row["shape"], "cpu").on(Layout(), HOST)
        assert row["gib"] <= (need.fixed_bytes + GIB) / GIB <= row["gib"] + 0.7

    def test_nothing_sleeps(self) -> None:
        (need,) = memory("smollm2-135m", "cpu").on(Layout(), HOST)
        assert need.asleep == ()

    def test_a_host_is_one_device(self) -> None:
        assert memory("smollm2-135m", "cpu").layouts(1) == (Layout(),)
        assert memory("smollm2-135m", "cpu").layouts(3) == ()

    def test_blocks_have_128_tokens(self) -> None:
        (need,) = memory("smollm2-135m", "cpu").on(Layout(), HOST)
        assert need.kv.bytes_for(1) == 2 * 128 * 23040

    @pytest.mark.parametrize(
        ("name", "tokens", "requests"), [("smollm2-135m", 46_592, 22.75), ("gemma-3-1b", 35_544, 17.36)]
    )
    def test_what_an_engine_said_of_1_gib(self, name: str, tokens: int, requests: float) -> None:
        # vLLM 0.32 for CPUs with VLLM_CPU_KVCACHE_SPACE=1 and max_model_len 2048, as it logged. It counts the
        # block that stays empty among its blocks.
        (need,) = memory(name, "cpu").on(Layout(), HOST)
        request = need.kv.bytes_for(2048, 2) - need.kv.bytes_for(2048)
        block = need.kv.bytes_for(2048) - request
        blocks, each = GIB // block, request // block
        assert blocks / each == pytest.approx(requests, abs=0.005)
        assert int(blocks / each * 2048) == tokens


@pytest.mark.parametrize(
    ("name", "devices", "layouts"),
    [
        ("llama-3.1-8b", 1, {(1, 1)}),
        ("llama-3.1-8b", 4, {(1, 4), (2, 2), (4, 1)}),
        ("llama-3.1-8b", 3, {(1, 3)}),
        ("smollm2-135m", 3, {(1, 3), (3, 1)}),
        # Nine heads and three kv heads do not divide by two.
        ("smollm2-135m", 2, {(1, 2)}),
        ("smollm2-135m", 64, set()),
        # Two kv heads are copied over four ranks, and cannot be over three.
        ("glm-4-9b", 4, {(1, 4), (2, 2), (4, 1)}),
        ("qwen2.5-14b", 5, {(1, 5)}),
    ],
)
def test_layouts(name: str, devices: int, layouts: set[tuple[int, int]]) -> None:
    found = memory(name).layouts(devices)
    assert {(layout.tensor_parallel, layout.pipeline_parallel) for layout in found} == layouts


@pytest.mark.parametrize(
    ("device", "tokens", "sequences"),
    [
        (SMALL, 2048, 256),
        (H100, 8192, 1024),
        (Device("cuda", 0, "NVIDIA A100-SXM4-80GB", 80 * GIB, (8, 0)), 2048, 256),
        (Device("cuda", 0, "NVIDIA GB10", 120 * GIB, (12, 1)), 2048, 256),
        (Device("cuda", 0, "NVIDIA H200", 143771 * MIB, (9, 0)), 8192, 1024),
        (Device("cuda", 0, "NVIDIA B200", 183359 * MIB, (10, 0)), 16384, 1024),
        (HOST, 2048, 128),
    ],
)
def test_the_batch_that_vllm_takes(device: Device, tokens: int, sequences: int) -> None:
    batch = default_batch(device, Layout())
    assert (batch.tokens, batch.sequences) == (tokens, sequences)


def test_float32_is_planned_as_vllm_loads_it() -> None:
    assert memory("gemma-2-9b").quantization == "bf16"
    assert memory("gemma-2-9b", dtype="float32").weight_bytes == 4 * 9_241_705_984
    assert memory("phi-2").quantization == "fp16"


def test_what_the_engine_cannot_do_is_refused() -> None:
    with pytest.raises(
        PlacementError, match=r"models\[0\]\.engine\.quantization: is awq, the model's own files are m"
    ):
        memory("gpt-oss-20b", quantization="awq")
