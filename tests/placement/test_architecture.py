"""What is read from a config.json, and what is said of a wrong one."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from citadel_llm.placement.architecture_families import FAMILIES
from citadel_llm.placement.numbers import numbers_of_catalogue
from citadel_llm.placement.terms import Layout, PlacementError

from .samples import SHAPES, SMALL, entry, memory, shape

LLAMA = shape("llama-3.1-8b")["config"]
WHERE = "models[0].architecture"


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


@pytest.mark.parametrize(
    ("config", "where", "words"),
    [
        (LLAMA | {"hidden_size": -4096}, "hidden_size", "must be a whole number above 0, not -4096"),
        (LLAMA | {"hidden_size": 0}, "hidden_size", "must be a whole number above 0, not 0"),
        (LLAMA | {"hidden_size": "7B"}, "hidden_size", "must be a whole number above 0, not '7B'"),
        (LLAMA | {"hidden_size": 4096.0}, "hidden_size", "must be a whole number above 0, not 4096.0"),
        (
            LLAMA | {"num_hidden_layers": 10**9},
            "num_hidden_layers",
            "must not be above 2000, as 1000000000 is",
        ),
        (LLAMA | {"num_hidden_layers": True}, "num_hidden_layers", "not True"),
        (
            LLAMA | {"hidden_size": 4097},
            "hidden_size",
            "must be a multiple of num_attention_heads (32), not 4097",
        ),
        (
            LLAMA | {"num_key_value_heads": 5},
            "num_key_value_heads",
            "must divide num_attention_heads (32), not 5",
        ),
        (LLAMA | {"attention_bias": "no"}, "attention_bias", "must be true or false, not 'no'"),
        (
            LLAMA | {"torch_dtype": "int4"},
            "torch_dtype",
            "must be one of bfloat16, float16, float32, not 'int4'",
        ),
        (LLAMA | {"rope_scaling": 8}, "rope_scaling", "must be an object or null, not 8"),
        (without(LLAMA, "vocab_size"), "vocab_size", "must be set"),
        (without(LLAMA, "model_type"), "model_type", "must be a text such as llama, not None"),
        ({"_class_name": "FluxPipeline"}, "model_type", "of an image model's pipeline (diffusers)"),
        ({"peft_type": "LORA"}, "model_type", "of an adapter (PEFT), which holds no model of its own"),
        ({"weight_map": {}}, "model_type", "a safetensors index"),
        (
            LLAMA | {"model_type": "imp"},
            "model_type",
            "is 'imp', a family that is not known; set weight_bytes",
        ),
        (
            shape("gemma-2-9b")["config"] | {"layer_types": ["full_attention"]},
            "layer_types",
            "must be a list with one word for each of the 42 layers",
        ),
        (
            shape("granite-4.0-h-tiny")["config"] | {"layer_types": ["rnn"] * 40},
            "layer_types",
            "holds a kind of layer that is not known: 'rnn'",
        ),
        (
            shape("nemotron-h-8b")["config"] | {"hybrid_override_pattern": "MMX"},
            "hybrid_override_pattern",
            "must be 52 of the letters M, *, - and E, not 'MMX'",
        ),
        (
            shape("bamba-9b")["config"] | {"mamba_n_heads": 100},
            "mamba_n_heads",
            "times mamba_d_head must be mamba_expand x hidden_size (8192)",
        ),
        (
            shape("gemma-3-12b")["config"] | {"vision_config": {"model_type": "pixtral"}},
            "vision_config.model_type",
            "is 'pixtral', a vision tower that is not known",
        ),
        (
            shape("minilm-l6")["config"] | {"hidden_size": 385},
            "hidden_size",
            "must be a multiple of num_attention",
        ),
    ],
)
def test_what_is_wrong_is_named(config: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(PlacementError) as caught:
        memory(config)
    assert caught.value.entry == f"{WHERE}.{where}"
    assert words in str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(PlacementError) as caught:
        memory(without(LLAMA, "vocab_size") | {"hidden_size": -1, "num_hidden_layers": "32"})
    for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
        assert f"{WHERE}.{key}: must be" in str(caught.value)


def test_a_model_without_numbers() -> None:
    model = entry({}).model_copy(update={"architecture": None})
    with pytest.raises(
        PlacementError, match=r"^models\[2\]\.architecture: must be set for m, whose weights are not"
    ):
        numbers_of_catalogue(model, "models[2]")


def test_a_family_that_is_not_known_will_do_with_its_size() -> None:
    guessed = memory(LLAMA | {"model_type": "novel"}, weight_bytes=16_000_000_000)
    assert guessed.weight_bytes == 16_000_000_000
    (need,) = guessed.on(Layout(), SMALL)
    assert "its family is not known, its layers are guessed" in need.fixed[0].source
    (known,) = memory("llama-3.1-8b").on(Layout(), SMALL)
    assert need.kv.bytes_for(4096) == known.kv.bytes_for(4096)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("llama-3.1-8b", {("grouped attention", "dense"): 32}),
        ("phi-3-mini-4k", {("multi-head attention, sliding window", "dense"): 32}),
        (
            "gemma-3-1b",
            {("multi-query attention, sliding window", "dense"): 22, ("multi-query attention", "dense"): 4},
        ),
        (
            "gpt-oss-20b",
            {("grouped attention, sliding window", "experts"): 12, ("grouped attention", "experts"): 12},
        ),
        ("deepseek-v2-lite", {("latent attention", "dense"): 1, ("latent attention", "experts"): 26}),
        ("qwen3-next-80b-a3b", {("deltanet", "experts"): 36, ("grouped attention", "experts"): 12}),
        ("nemotron-h-8b", {("mamba2", ""): 24, ("", "dense"): 24, ("grouped attention", ""): 4}),
        # Attention in layers 4, 12, 20 and 28, experts in every second, from 1 on.
        (
            "jamba-v0.1",
            {("mamba", "dense"): 12, ("mamba", "experts"): 16, ("grouped attention", "dense"): 4},
        ),
    ],
)
def test_kinds_of_layers(name: str, kinds: dict[tuple[str, str], int]) -> None:
    found: dict[tuple[str, str], int] = {}
    for layer in memory(name).architecture.layers:
        key = (layer.mixer, layer.feed_forward)
        found[key] = found.get(key, 0) + 1
    assert found == kinds


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({}, 131072),
        ({"rope_scaling": None, "max_position_embeddings": 8192}, 8192),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}, "max_position_embeddings": 4096}, 16384),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 4096}, 8192),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 32768}, 32768),
    ],
)
def test_the_longest_context(changes: dict[str, Any], longest: int) -> None:
    assert memory(LLAMA | changes).max_context == longest


def test_what_transformers_fills_in() -> None:
    bare = without(shape("mistral-7b-v0.1")["config"], "num_key_value_heads")
    assert memory(bare).architecture.kv_heads == 8
    assert memory(without(LLAMA, "num_key_value_heads")).architecture.kv_heads == 32
    assert memory("gemma-3-4b").architecture.heads == 8


def test_every_family_has_a_published_shape() -> None:
    configs = [shape(name)["config"] for name in SHAPES]
    built = {config.get("text_config", config)["model_type"] for config in configs} | {
        config["model_type"] for config in configs
    }
    # Kimi K2 is built as DeepSeek-V3 is.
    assert {*FAMILIES} - built == {"kimi_k2"}
    assert FAMILIES["kimi_k2"] is FAMILIES["deepseek_v3"]


# The schema refuses the others: JSON has none.
_FINITE = st.floats(allow_nan=False, allow_infinity=False)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | _FINITE | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SHAPES), st.data(), ANYTHING)
def test_any_value_of_any_key_is_planned_or_refused(name: str, data: st.DataObject, value: Any) -> None:
    config = shape(name)["config"]
    key = data.draw(
        st.sampled_from([*config, "num_experts", "layer_types", "quantization_config", "vision_config"])
    )
    with suppress(PlacementError):
        made = memory(dict(config) | {key: value})
        for need in made.on(Layout(), SMALL):
            assert need.fixed_bytes > 0
            assert need.kv.bytes_for(4096) >= 0
