"""A model's whole need: overheads, sleep, layouts, the CPU build."""

from typing import Any

import pytest

from citadel_llm.placement.overheads import default_batch
from citadel_llm.placement.terms import GIB, MIB, Device, Layout, PlacementError, RankNeed

from .samples import H100, HOST, SMALL, memory, shape


def term(need: RankNeed, name: str) -> float:
    return sum(term.bytes for term in need.fixed if term.name == name) / GIB


@pytest.mark.parametrize(
    ("name", "tp", "measured"),
    [
        # Peak activation in GiB of vLLM 0.19 on H100, by architecture, as llm-d's planner carries it. It names no
        # model; the shape here is one of that architecture.
        ("llama-3.1-8b", 1, 1.89),
        ("qwen2.5-14b", 1, 2.25),
        ("qwen3-8b", 1, 2.21),
        ("deepseek-v2-lite", 1, 1.93),
        ("granite-3.1-8b", 1, 0.85),
        ("mixtral-8x7b", 2, 1.21),
        ("qwen1.5-moe-a2.7b", 1, 2.47),
        ("qwen3-30b-a3b", 1, 2.68),
        ("gemma-2b", 1, 3.63),
        ("gemma-2-9b", 1, 3.65),
        ("gemma-3-12b", 1, 3.94),
    ],
)
def test_activation_is_not_below_what_was_measured(name: str, tp: int, measured: float) -> None:
    need = memory(name).on(Layout(tp), H100)[0]
    assert measured <= term(need, "activation") <= measured + 1.1


@pytest.mark.parametrize(
    ("name", "changes", "measured"),
    [
        # CUDA graphs in GiB, vLLM 0.11 on H100, llm-d-benchmark
        ("llama-3.1-8b", {"num_hidden_layers": 80}, 0.6),
        ("qwen3-8b", {"num_hidden_layers": 28}, 0.10),
        ("gpt-oss-20b", {}, 0.39),
        ("gpt-oss-120b", {}, 1.03),
    ],
)
def test_graphs_are_not_below_what_was_measured(name: str, changes: dict[str, Any], measured: float) -> None:
    (need,) = memory(dict(shape(name)["config"]) | changes).on(Layout(), H100)
    assert measured <= term(need, "CUDA graphs") <= measured + 0.5


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

    @pytest.mark.parametrize(("tp", "measured"), [(1, 1.27), (4, 1.06)])
    def test_it_is_not_below_what_was_measured(self, tp: int, measured: float) -> None:
        # A small model on one H100 (llm-d-fast-model-actuation#746), 30 B over four cards (vllm#32714).
        name = "smollm2-135m" if tp == 1 else "qwen3-30b-a3b"
        need = memory(name).on(Layout(tp), H100)[0]
        assert need.asleep_bytes >= measured * GIB


class TestOnTheCpu:
    def test_smollm2_takes_what_was_measured(self) -> None:
        (need,) = memory("smollm2-135m", "cpu").on(Layout(), HOST)
        assert [term.name for term in need.fixed] == ["weights", "activation", "runtime"]
        whole = need.fixed_bytes + 1 * GIB
        # API server 0.7 GB, core 0.6, worker 2.1 with 1 GiB of KV cache; activation is planned on top.
        activation = term(need, "activation") * GIB
        assert whole - activation == pytest.approx(3.4e9, rel=0.01)
        assert activation < 0.3 * GIB

    def test_nothing_sleeps(self) -> None:
        (need,) = memory("smollm2-135m", "cpu").on(Layout(), HOST)
        assert need.asleep == ()

    def test_blocks_have_32_tokens(self) -> None:
        (need,) = memory("smollm2-135m", "cpu").on(Layout(), HOST)
        assert need.kv.bytes_for(1) == 2 * 32 * 23040


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
