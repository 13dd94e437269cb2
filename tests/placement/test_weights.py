"""Weights by quantization, and their part on each rank."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citadel_llm.placement.terms import Layout, PlacementError
from citadel_llm.placement.weights import stages
from citadel_llm.placement.weights_quantization import Scheme, scheme_of_config

from .samples import H100, SHAPES, memory, shape

LLAMA = "llama-3.1-8b"


@pytest.mark.parametrize(
    ("layers", "stages_", "counts"),
    [
        # get_pp_indices of vLLM 0.33
        (32, 1, [32]),
        (32, 2, [16, 16]),
        (27, 2, [14, 13]),
        (61, 4, [15, 15, 16, 15]),
        (30, 4, [7, 8, 8, 7]),
        (31, 4, [8, 8, 8, 7]),
    ],
)
def test_layers_are_dealt_out_as_vllm_does(layers: int, stages_: int, counts: list[int]) -> None:
    dealt = stages(layers, stages_)
    assert [len(stage) for stage in dealt] == counts
    assert [index for stage in dealt for index in stage] == list(range(layers))


def described(**keys: Any) -> dict[str, Any]:
    return {**shape(LLAMA)["config"], "quantization_config": keys}


# Llama 3.1 8B: linear layers hold 6,979,321,856 numbers, embedding, head and norms 1,050,939,392.
LINEAR, REST = 6_979_321_856, 1_050_939_392
INT4 = {"num_bits": 4, "type": "int", "group_size": 128, "strategy": "group", "symmetric": True}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}


@pytest.mark.parametrize(
    ("keys", "name", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq", 4 + (16 + 4) / 128),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "awq", 4 + (16 + 4) / 64),
        # Each input's index of its group: 4 bytes, over 4096 to 14336 outputs.
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq", 4 + (16 + 4) / 128 + 0.0055),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "gptq", 8 + 0.0055 + 0.0052),
        ({"quant_method": "fp8"}, "fp8", 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8 + 32 / 128**2),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": INT4}}},
            "compressed-tensors",
            4 + 16 / 128,
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": FP8}}},
            "compressed-tensors",
            8 + 0.0036,
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 4 + 8 / 16),
    ],
)
def test_a_quantized_llama(keys: dict[str, Any], name: str, bits: float) -> None:
    whole = memory(described(**keys))
    assert whole.quantization == name
    assert whole.weight_bytes == pytest.approx(LINEAR * bits / 8 + REST * 2, rel=0.0002)


def test_what_is_not_converted_stays_whole() -> None:
    patterns = {"modules_to_not_convert": ["model.layers.0.mlp", "re:.*self_attn.*", "lm_head"]}
    some = memory(described(quant_method="fp8", **patterns)).weight_bytes
    all_ = memory(described(quant_method="fp8")).weight_bytes
    # Attention in 32 layers, and the feed-forward network in one, take a byte more for each number.
    assert some - all_ == pytest.approx(32 * (2 * 4096**2 + 2 * 4096 * 1024) + 3 * 4096 * 14336, rel=1e-5)


def test_mixtral_keeps_its_router_and_mxfp4_its_attention() -> None:
    config = dict(shape("mixtral-8x7b")["config"])
    scheme = scheme_of_config(config | {"quantization_config": {"quant_method": "awq"}}, "float16", "m")
    assert isinstance(scheme, Scheme)
    layer = memory(config).architecture.layers[0]
    assert {t.role for t in layer.tensors if scheme.quantizes(t, 0)} == {"attention", "experts"}
    mxfp4 = memory("gpt-oss-20b")
    assert {t.role for t in mxfp4.architecture.layers[0].tensors if mxfp4.weights.scheme.quantizes(t, 0)} == {
        "experts"
    }


@given(
    st.sampled_from(SHAPES),
    st.sampled_from([(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 3), (8, 1), (1, 5)]),
)
def test_ranks_together_hold_at_least_all(name: str, split: tuple[int, int]) -> None:
    whole = memory(name)
    layout = Layout(*split)
    held = [whole.weights.on_rank(layout, stage) for stage in range(layout.pipeline_parallel)]
    assert sum(held) * layout.tensor_parallel >= whole.weight_bytes
    assert max(held) <= whole.weight_bytes * 1.12  # mxfp4's padding is the most that a rank adds


def test_the_embedding_stands_on_the_first_stage_and_the_head_on_the_last() -> None:
    whole = memory(LLAMA)
    first, middle, last = (whole.weights.on_rank(Layout(1, 4), stage) for stage in (0, 1, 3))
    table = 128256 * 4096 * 2
    assert first - middle == table
    assert last - middle == table + 4096 * 2


def test_a_tied_head_is_copied_to_the_last_stage() -> None:
    whole = memory("llama-3.2-1b")
    both = sum(whole.weights.on_rank(Layout(1, 2), stage) for stage in (0, 1))
    assert both - whole.weight_bytes == 128256 * 2048 * 2


def test_the_vocabulary_is_padded_for_ranks() -> None:
    # 30,522 tokens are padded to 30,528: each of two ranks holds 15,264 rows.
    config = dict(shape("minilm-l6")["config"])
    padded, even = (memory(config | {"vocab_size": size}) for size in (30_522, 30_528))
    assert padded.weights.on_rank(Layout(2), 0) == pytest.approx(even.weights.on_rank(Layout(2), 0), abs=2)
    assert padded.weight_bytes < even.weight_bytes


def test_norms_and_the_latent_are_on_every_rank() -> None:
    whole = memory("deepseek-v2-lite")
    replicated = 27 * ((512 + 64) * 2048 + 512 + 2 * 2048) + 2048 + 26 * 64 * 2048
    assert 2 * whole.weights.on_rank(Layout(2), 0) - whole.weight_bytes == replicated * 2


def test_keys_and_values_are_copied_where_ranks_are_more_than_heads() -> None:
    # Four ranks, two kv heads: each is held twice. The norms are held four times.
    whole = memory("glm-4-9b")
    keys = 40 * 2 * (2 * 128 * 4096)
    norms = 40 * 4 * 4096 + 4096
    assert 4 * whole.weights.on_rank(Layout(4), 0) - whole.weight_bytes == pytest.approx(
        2 * (keys + 3 * norms), abs=4
    )


def test_latent_attention_absorbs_its_expanding_matrix() -> None:
    whole = memory("deepseek-v2-lite")
    need = whole.on(Layout(), H100)[0]
    assert need.fixed[0].bytes - whole.weight_bytes == 27 * 16 * (128 + 128) * 512 * 2


class TestFromFiles:
    def test_bytes_go_before_the_formula(self) -> None:
        config = dict(shape(LLAMA)["config"]) | {"quantization_config": {"quant_method": "awq"}}
        whole = memory(config, weight_bytes=5_800_000_000)
        assert whole.weight_bytes == 5_800_000_000
        assert sum(need.fixed[0].bytes for need in whole.on(Layout(1, 2), H100)) == pytest.approx(
            5.8e9, abs=2
        )

    def test_float32_files_are_loaded_in_half(self) -> None:
        size = 4 * 9_241_705_984
        tensors: dict[str, Any] = {
            "bytes": size,
            "parameters": 9_241_705_984,
            "dtypes": {"F32": {"parameters": 9_241_705_984, "bytes": size}},
            "layers": {},
            "head_bytes": 0,
        }
        assert memory("gemma-2-9b", weight_bytes=size, tensors=tensors).weight_bytes == 2 * 9_241_705_984

    def test_layers_that_are_not_loaded_do_not_count(self) -> None:
        inner = memory("deepseek-v2-lite")
        layers = {str(index): int(size) for index, size in enumerate(inner.weights.layer_bytes)} | {
            "27": 1_000_000_000
        }
        total = inner.weight_bytes + 1_000_000_000
        tensors = {
            "bytes": total,
            "parameters": total // 2,
            "dtypes": {"BF16": {"parameters": total // 2, "bytes": total}},
            "layers": layers,
            "head_bytes": 0,
        }
        assert (
            memory("deepseek-v2-lite", weight_bytes=total, tensors=tensors).weight_bytes == inner.weight_bytes
        )

    def test_a_tower_that_is_not_known_stands_whole_on_the_first_stage(self) -> None:
        config = dict(shape("gemma-3-12b")["config"]) | {"vision_config": {"model_type": "pixtral"}}
        known = memory("gemma-3-12b")
        tower = sum(tensor.elements * 2 for tensor in known.architecture.tower)
        layers = {str(index): int(size) for index, size in enumerate(known.weights.layer_bytes)}
        total = known.weight_bytes
        tensors: dict[str, Any] = {
            "bytes": total,
            "parameters": total // 2,
            "dtypes": {"BF16": {"parameters": total // 2, "bytes": total}},
            "layers": layers,
            "head_bytes": 0,
        }
        other = memory(config, weight_bytes=total, tensors=tensors)
        assert other.architecture.tower == ()
        assert other.weight_bytes == total
        for layout in (Layout(), Layout(2), Layout(1, 2)):
            assert other.weights.on_rank(layout, 0) == pytest.approx(known.weights.on_rank(layout, 0), abs=2)
        assert tower > 800_000_000

    @pytest.mark.parametrize(
        ("size", "expected"),
        [(16_060_522_496, 9_081_201_536), (9_081_201_536, 9_081_201_536), (None, 9_081_201_536)],
    )
    def test_fp8_made_while_loading(self, size: int | None, expected: int) -> None:
        assert memory(LLAMA, weight_bytes=size, quantization="fp8").weight_bytes == pytest.approx(
            expected, rel=1e-6
        )


@pytest.mark.parametrize(
    ("keys", "option"),
    [
        ({"quant_method": "awq"}, "awq_marlin"),
        ({"quant_method": "gptq"}, "gptq_marlin"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt_fp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
    ],
)
def test_an_option_that_says_what_the_files_say(keys: dict[str, Any], option: str) -> None:
    assert memory(described(**keys), quantization=option) == memory(described(**keys))


@pytest.mark.parametrize(
    ("config", "engine", "where", "words"),
    [
        (described(quant_method="exl3"), {}, "models[0].architecture.quantization_config", "'exl3'"),
        (described(quant_method="awq", bits="4"), {}, "quantization_config.bits", "not '4'"),
        (described(quant_method="fp8", weight_block_size=[0, 1]), {}, "weight_block_size", "[0, 1]"),
        (described(quant_method="compressed-tensors"), {}, "config_groups", "must describe the weights"),
        (shape(LLAMA)["config"] | {"quantization_config": 7}, {}, "quantization_config", "must be an object"),
        (
            described(quant_method="awq"),
            {"quantization": "gptq"},
            "models[0].engine.quantization",
            "files are awq",
        ),
        (shape(LLAMA)["config"], {"quantization": "q4_k"}, "models[0].engine.quantization", "'q4_k'"),
        # vLLM 0.33 has dropped it, in files and as an option.
        (described(quant_method="bitsandbytes"), {}, "quantization_config", "vLLM 0.33 does not load"),
        (shape(LLAMA)["config"], {"quantization": "bitsandbytes"}, "engine.quantization", "'bitsandbytes'"),
        (
            described(quant_method="fp8"),
            {"quantization": "fp8_per_block"},
            "engine.quantization",
            "files are fp8",
        ),
    ],
)
def test_what_is_wrong_is_named(
    config: dict[str, Any], engine: dict[str, Any], where: str, words: str
) -> None:
    with pytest.raises(PlacementError) as caught:
        memory(config, **engine)
    assert where in caught.value.entry
    assert words in str(caught.value)
