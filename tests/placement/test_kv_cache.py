"""The cost of the KV cache: against what vLLM's own classes said, and its properties."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citadel_llm.placement.architecture import AttentionCache
from citadel_llm.placement.kv_cache import BlockPool, Group, Kind, pools
from citadel_llm.placement.terms import GIB, Layout
from citadel_llm.placement.weights import stages

from .samples import H100, HOST, SHAPES, SMALL, memory, recorded

SPOKEN = recorded("kv_cache")
COUNTS = st.integers(min_value=1, max_value=300_000)


def stage_pools(name: str, tp: int, pp: int, number_bytes: int = 2) -> tuple[BlockPool, ...]:
    layers = memory(name).architecture.layers
    return pools(
        tuple(layer.cache for layer in layers),
        stages(len(layers), pp),
        tensor_parallel=tp,
        block_tokens=SPOKEN["block_tokens"],
        number_bytes=number_bytes,
        model_bytes=2,
        in_flight=(pp + 1) * SPOKEN["batched_tokens"],
    )


@pytest.mark.parametrize(
    "answer",
    SPOKEN["answers"],
    ids=lambda a: f"{a['model']}-{a['tensor_parallel']}x{a['pipeline_parallel']}",
)
def test_what_vllm_itself_says(answer: dict[str, Any]) -> None:
    found = stage_pools(answer["model"], answer["tensor_parallel"], answer["pipeline_parallel"])
    assert [
        {c: pool.bytes_for(int(c)) for c in stage}
        for pool, stage in zip(found, answer["stages"], strict=True)
    ] == (answer["stages"])


@given(st.sampled_from(SHAPES), st.sampled_from([(1, 1), (2, 1), (1, 2)]), COUNTS, COUNTS, st.integers(1, 64))
def test_never_falls(name: str, split: tuple[int, int], one: int, other: int, sequences: int) -> None:
    less, more = sorted((one, other))
    for pool in stage_pools(name, *split):
        assert pool.bytes_for(less, sequences) <= pool.bytes_for(more, sequences)
        assert pool.bytes_for(less, sequences) <= pool.bytes_for(less, sequences + 1)


@pytest.mark.parametrize(
    ("name", "token"),
    [("llama-3.1-8b", 128), ("phi-3-mini-4k", 384), ("qwen2.5-14b", 192), ("mixtral-8x7b", 128)],
)
def test_kibibytes_a_token(name: str, token: int) -> None:
    (need,) = memory(name).on(Layout(), SMALL)
    assert need.kv.bytes_for(3200) - need.kv.bytes_for(1600) == 1600 * token * 1024


def test_fp8_halves_it() -> None:
    (full,) = memory("llama-3.1-8b").on(Layout(), SMALL)
    (half,) = memory("llama-3.1-8b", kv_cache_dtype="fp8").on(Layout(), SMALL)
    assert half.kv.bytes_for(4096) * 2 == full.kv.bytes_for(4096)


def test_a_window_caps_it() -> None:
    (need,) = memory("mistral-7b-v0.1").on(Layout(), SMALL)
    # The window of 4096, two batches of 2048 at work, and a block for where the window begins.
    assert need.kv.bytes_for(8191) == need.kv.bytes_for(32768) == (8191 // 16 + 1 + 1 + 1) * 16 * 128 * 1024


def test_a_window_begins_behind_the_token_that_is_made() -> None:
    # A window of 17 needs 16 tokens before the new one: one block, and one for where it begins.
    assert Group(Kind(token_bytes=2, window=17), 16, 32).blocks(1000, in_flight=0) == 2
    assert Group(Kind(token_bytes=2, window=18), 16, 32).blocks(1000, in_flight=0) == 3


def test_kinds_of_nearly_equal_number_make_two_groups() -> None:
    # vLLM's own example (v1/core/kv_cache_planning.py): 12 layers with a window and 13 without are padded to
    # 13 and 13.
    caches = [AttentionCache(1, 2, window=16 if index % 2 else None) for index in range(25)]
    (pool,) = pools(
        tuple(caches),
        [range(25)],
        tensor_parallel=1,
        block_tokens=16,
        number_bytes=2,
        model_bytes=2,
        in_flight=0,
    )
    assert len(pool.groups) == 2
    assert pool.block_bytes == 13 * 16 * 4


def test_kv_heads_are_copied_where_ranks_are_more() -> None:
    # Four kv heads over eight ranks: each holds one.
    by_four, by_eight = (memory("qwen3-30b-a3b").on(Layout(tp), SMALL)[0].kv for tp in (4, 8))
    assert by_four.bytes_for(4096) == by_eight.bytes_for(4096)


def test_latent_attention_is_whole_on_every_rank() -> None:
    alone, split = (memory("deepseek-v2-lite").on(Layout(tp), H100)[0].kv for tp in (1, 2))
    assert alone.bytes_for(4096) == split.bytes_for(4096) == (4096 + 128) * 27 * 576 * 2


def test_a_state_costs_the_same_at_any_length() -> None:
    (need,) = memory("bamba-9b").on(Layout(), SMALL)
    longer = need.kv.bytes_for(200_000) - need.kv.bytes_for(100_000)
    # Three layers of 32 attend; the group of a block has room for three, and is as wide as a state.
    assert longer == pytest.approx(100_000 * 3 * 2 * 8 * 128 * 2, rel=0.02)


def test_an_encoder_keeps_nothing() -> None:
    (need,) = memory("minilm-l6", "cpu").on(Layout(), HOST)
    assert need.kv.bytes_for(512, 100) == 0


def test_a_card_of_16_gib_holds_phi_3() -> None:
    (need,) = memory("phi-3-mini-4k").on(Layout(), SMALL)
    assert need.fixed_bytes + need.kv.bytes_for(4096, 2) < 0.92 * SMALL.memory < 16 * GIB
