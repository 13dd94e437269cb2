"""The formulas against models that transformers built of the same shapes on torch's meta device.

The recording is made, and checked in the engine's own environment, by scripts/measure_published_models.py.
"""

import pytest

from citadel_llm.placement.architecture import StateCache
from citadel_llm.placement.kv_cache import token_bytes

from .samples import SHAPES, memory, recorded, shape

WITHIN = 0.001


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_and_their_bytes(name: str) -> None:
    built = recorded("reference")["models"][name]
    config = {key: value for key, value in shape(name)["config"].items() if key != "quantization_config"}
    whole = memory(config, dtype="bfloat16")
    assert whole.parameters == pytest.approx(built["parameters"], rel=WITHIN)
    assert whole.weight_bytes == pytest.approx(built["bytes_bf16"], rel=WITHIN)


@pytest.mark.parametrize("name", SHAPES)
def test_kv_bytes_per_token_are_exact(name: str) -> None:
    built = recorded("reference")["models"][name]
    layers = memory(name).architecture.layers
    assert sum(token_bytes(layer.cache, 2) for layer in layers) == built["kv_bytes_per_token"]


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("jamba-v0.1", 4),
        ("bamba-9b", 4),
        ("granite-4.0-h-tiny", 4),
        ("nemotron-h-8b", 4),
        ("qwen3-next-80b-a3b", 4),
        ("qwen3.5-9b", 4),
        ("qwen3.5-35b-a3b", 4),
    ],
)
def test_states_are_those_of_transformers(name: str, kernel: int) -> None:
    caches = [layer.cache for layer in memory(name).architecture.layers]
    states = [cache for cache in caches if isinstance(cache, StateCache)]
    # transformers keeps as many tokens for the convolution as its kernel is wide, vLLM one fewer.
    kept = sum(cache.convolution * kernel // (kernel - 1) + cache.recurrent for cache in states)
    assert kept == recorded("reference")["models"][name]["state_numbers"]


@pytest.mark.parametrize("name", [name for name in SHAPES if shape(name)["published_parameters"]])
def test_published_counts(name: str) -> None:
    assert memory(name).parameters == shape(name)["published_parameters"]


def test_every_shape_names_its_source() -> None:
    assert all(shape(name)["source"].startswith("https://") for name in SHAPES)
    assert {*SHAPES} == {*recorded("reference")["models"]}


@pytest.mark.parametrize(
    ("name", "weight_bytes", "source"),
    [
        # total_size of the safetensors indexes
        ("gpt-oss-20b", 13_761_264_768, "openai/gpt-oss-20b"),
        ("mixtral-8x7b", 93_405_585_408, "mistralai/Mixtral-8x7B-v0.1"),
        ("llama-3.1-8b", 16_060_522_496, "meta-llama/Llama-3.1-8B"),
    ],
)
def test_published_sizes(name: str, weight_bytes: int, source: str) -> None:
    assert memory(name).weight_bytes == weight_bytes
