"""Encoders, which make embeddings and keep no cache: BERT and its kin."""

from .architecture import Architecture, Layer, Tensor
from .architecture_blocks import Attention, dense, norm
from .architecture_keys import MOST_LAYERS, Keys

# What transformers' configuration classes fill in.
_TYPES = {"bert": 2, "roberta": 1, "xlm-roberta": 1}


def read_encoder(keys: Keys, model_type: str, names: tuple[str, ...], dtype: str) -> Architecture:
    """What an encoder is made of.

    Raises:
        PlacementError: A key is missing or wrong.
    """
    hidden, heads = keys.whole("hidden_size"), keys.whole("num_attention_heads")
    inner, vocabulary = keys.whole("intermediate_size"), keys.whole("vocab_size")
    positions = keys.whole("max_position_embeddings")
    message = f"must be a multiple of num_attention_heads ({heads}), not {hidden}"
    keys.relate("hidden_size", "num_attention_heads", message, holds=hidden % heads == 0)
    count = keys.whole("num_hidden_layers", most=MOST_LAYERS)
    keys.check()
    tensors = (
        *Attention(hidden, heads, heads, hidden // heads, qkv_bias=True, out_bias=True).tensors(),
        *dense(hidden, inner, gated=False, bias=True),
        *norm("norm_1", hidden, bias=True),
        *norm("norm_2", hidden, bias=True),
    )
    first = (
        Tensor("word_embeddings", "embedding", vocabulary, hidden, "vocabulary"),
        Tensor("position_embeddings", "embedding", positions, hidden),
        Tensor(
            "token_type_embeddings", "embedding", keys.whole("type_vocab_size", _TYPES[model_type]), hidden
        ),
        *norm("LayerNorm", hidden, bias=True),
    )
    keys.check()
    # RoBERTa's first position is the one after the padding's (pad_token_id 1).
    longest = positions - 2 if model_type != "bert" else positions
    return Architecture(
        model_type=model_type,
        names=names,
        layers=(Layer("multi-head attention", "dense", tensors, None),) * count,
        first=first,
        # The pooler stands in published files; vLLM leaves it out where it pools otherwise.
        last=(Tensor("pooler", "attention", hidden, hidden), Tensor("pooler.bias", "small", hidden)),
        tower=(),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        vocabulary=vocabulary,
        widest=inner,
        experts_per_token=0,
        max_context=longest,
        dtype=dtype,
        tied=True,
    )
