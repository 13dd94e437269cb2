"""Which layers of a family look back only so far, are mixtures of experts, or are no attention.

Read in transformers 5.19 (each family's configuration class and modelling file).
"""

from collections.abc import Callable

from .architecture_keys import Keys

# --- Which layers look back only so far -------------------------------------------------------------


def every_layer(keys: Keys, count: int) -> tuple[int | None, ...]:
    """One window for all layers, as Mistral 7B v0.1 and Phi-3 have it; null or 0 for none."""
    return _by_types(keys, count, lambda _: True)


def where_switched_on(keys: Keys, count: int) -> tuple[int | None, ...]:
    """Qwen's: only with `use_sliding_window`, and from layer `max_window_layers` on."""
    if not keys.flag("use_sliding_window"):
        return (None,) * count
    first = keys.whole("max_window_layers", 28, least=0)
    return _by_types(keys, count, lambda index: index >= first)


def every_second(keys: Keys, count: int) -> tuple[int | None, ...]:
    """Gemma 2's and gpt-oss': layers 0, 2, 4, and so on."""
    return _by_types(keys, count, lambda index: index % 2 == 0)


def all_but_every_nth(keys: Keys, count: int) -> tuple[int | None, ...]:
    """Gemma 3's and Cohere 2's: all but each last of `sliding_window_pattern` layers."""
    period = keys.whole("sliding_window_pattern", 6)
    return _by_types(keys, count, lambda index: (index + 1) % period != 0)


def _by_types(keys: Keys, count: int, slides: Callable[[int], bool]) -> tuple[int | None, ...]:
    window = keys.maybe_whole("sliding_window", least=0)
    if not window:
        return (None,) * count
    types = keys.words("layer_types", count)
    if types is not None:
        return tuple(window if kind == "sliding_attention" else None for kind in types)
    return tuple(window if slides(index) else None for index in range(count))


# --- Which layers are mixtures of experts -----------------------------------------------------------


def qwen_expert(keys: Keys, index: int) -> bool:
    """Qwen's: every `decoder_sparse_step`th layer, but those of `mlp_only_layers`."""
    if index in keys.numbers("mlp_only_layers"):
        return False
    return (index + 1) % keys.whole("decoder_sparse_step", 1) == 0


def deepseek_expert(keys: Keys, index: int) -> bool:
    """DeepSeek's: from layer `first_k_dense_replace` on."""
    frequency = keys.whole("moe_layer_freq", 1)
    return index >= keys.whole("first_k_dense_replace", 0, least=0) and index % frequency == 0


def jamba_expert(keys: Keys, index: int) -> bool:
    """Jamba's: one in `expert_layer_period` layers."""
    period, offset = keys.whole("expert_layer_period"), keys.whole("expert_layer_offset", least=0)
    return index % period == offset and keys.whole("num_experts") > 1


# --- Which layers are not attention -----------------------------------------------------------------

_MIXERS = {
    "full_attention": "attention",
    "attention": "attention",
    "sliding_attention": "attention",
    "linear_attention": "state",
    "mamba": "state",
    "mamba2": "state",
    "mlp": "dense",
    "moe": "experts",
}


def typed(keys: Keys, count: int) -> tuple[str, ...]:
    """As `layer_types` says."""
    types = keys.words("layer_types", count)
    if types is None:
        keys.note("layer_types", "must be set")
        return ("attention",) * count
    for kind in types:
        if kind not in _MIXERS:
            keys.note("layer_types", f"holds a kind of layer that is not known: {kind!r}")
    return tuple(_MIXERS.get(kind, "attention") for kind in types)


def qwen_next_mixers(keys: Keys, count: int) -> tuple[str, ...]:
    """Qwen3-Next's: attention in each last of `full_attention_interval` layers."""
    if keys.get("layer_types") is not None:
        return typed(keys, count)
    period = keys.whole("full_attention_interval", 4)
    return tuple("state" if (index + 1) % period else "attention" for index in range(count))


def jamba_mixers(keys: Keys, count: int) -> tuple[str, ...]:
    """Jamba's: attention in one of `attn_layer_period` layers."""
    period, offset = keys.whole("attn_layer_period"), keys.whole("attn_layer_offset", least=0)
    return tuple("attention" if index % period == offset else "state" for index in range(count))


def bamba_mixers(keys: Keys, count: int) -> tuple[str, ...]:
    """Bamba's: attention in the layers of `attn_layer_indices`."""
    if keys.get("layer_types") is not None:
        return typed(keys, count)
    where = keys.numbers("attn_layer_indices")
    return tuple("attention" if index in where else "state" for index in range(count))


def nemotron_mixers(keys: Keys, count: int) -> tuple[str, ...]:
    """Nemotron-H's: a letter for each layer."""
    pattern = keys.get("hybrid_override_pattern")
    if pattern is None:
        return typed(keys, count)
    letters = {"M": "state", "*": "attention", "-": "dense", "E": "experts"}
    if not isinstance(pattern, str) or len(pattern) != count or set(pattern) - set(letters):
        keys.note("hybrid_override_pattern", f"must be {count} of the letters M, *, - and E, not {pattern!r}")
        return ("attention",) * count
    return tuple(letters[letter] for letter in pattern)
