"""From a config.json to an `Architecture`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .architecture import Architecture, Cache, Layer, Tensor
from .architecture_blocks import (
    Attention,
    DeltaNet,
    Experts,
    LatentAttention,
    Mamba,
    Mamba2,
    dense,
    linear,
    norm,
)
from .architecture_encoders import read_encoder
from .architecture_families import ENCODERS, FAMILIES, GENERIC, Family, Switch
from .architecture_keys import MOST_LAYERS, Keys
from .architecture_vision import read_tower
from .terms import PlacementError

_DTYPES = {
    "bfloat16": "bfloat16",
    "float16": "float16",
    "half": "float16",
    "float32": "float32",
    "float": "float32",
}
# Rope scalings whose max_position_embeddings is the scaled one; others multiply it by their factor
# (vLLM 0.33, config/model.py, _get_and_verify_max_len).
_ALREADY_SCALED = {
    "su",
    "longrope",
    "llama3",
    "yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
    "default",
    "mrope",
}


def read_architecture(config: Mapping[str, Any], entry: str, *, weights_known: bool) -> Architecture:
    """What a model is made of.

    Args:
        config: The content of its config.json.
        entry: Where that stands, for errors.
        weights_known: Whether its size is known from elsewhere: then a family that is not known will do.

    Raises:
        PlacementError: A key is missing or wrong, or the family is not known.
    """
    model_type = _model_type(config, entry)
    outer = Keys(config, entry)
    text, text_type = _text_keys(outer, model_type)
    if text_type in ENCODERS:
        return read_encoder(text, text_type, _names(config), _dtype(outer, text))
    family = FAMILIES.get(text_type)
    if family is None:
        if not weights_known:
            raise PlacementError(
                f"{entry}.model_type",
                f"is {text_type!r}, a family that is not known",
                "set weight_bytes beside it (total_size in the model's safetensors index), or use one of: "
                f"{', '.join(sorted({*FAMILIES, *ENCODERS}))}",
            )
        family = GENERIC
    text.defaults = family.defaults
    architecture = _read_decoder(outer, text, text_type, family, weights_known=weights_known)
    outer.check()
    return architecture


def _model_type(config: Mapping[str, Any], entry: str) -> str:
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type:
        return model_type
    known = {
        "_class_name": "of an image model's pipeline (diffusers)",
        "image_processor_type": "of an image processor (preprocessor_config.json)",
        "tokenizer_class": "of a tokenizer (tokenizer_config.json)",
        "weight_map": "a safetensors index",
        "peft_type": "of an adapter (PEFT), which holds no model of its own",
    }
    other = next((f"; this one is {what}" for key, what in known.items() if key in config), "")
    raise PlacementError(
        f"{entry}.model_type",
        f"must be a text such as llama, not {model_type!r}{other}",
        "give the content of the model's config.json",
    )


def _text_keys(outer: Keys, model_type: str) -> tuple[Keys, str]:
    """The part that describes the language model: of models that also see, an object of its own."""
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(outer.values.get(key), Mapping):
            inner = outer.inner(key)
            return inner, str(inner.get("model_type") or model_type)
    return outer, model_type


def _read_decoder(
    outer: Keys, text: Keys, model_type: str, family: Family, *, weights_known: bool
) -> Architecture:
    generic = model_type not in FAMILIES
    hidden = text.whole("hidden_size")
    count = text.whole("num_hidden_layers", most=MOST_LAYERS)
    vocabulary = text.whole("vocab_size")
    attention = _attention(text, family, hidden)
    tied = outer.flag("tie_word_embeddings", default=text.flag("tie_word_embeddings", default=family.tied))
    outer.check()
    layers = _layers(text, family, hidden, attention, count)
    if "num_experts_per_tok" in text.values and family.experts is None and not generic:
        text.note("num_experts_per_tok", f"speaks of experts, which a {model_type} has none of")
    first = (Tensor("embed_tokens", "embedding", vocabulary, hidden, "vocabulary"),)
    last = norm("norm", hidden, bias=family.norm_bias) if family.norm_weights else ()
    if not tied:
        last = (*last, *linear("lm_head", "head", vocabulary, hidden, "vocabulary", bias=family.head_bias))
    experts_per_token = _experts_per_token(text, family)
    widest = max(
        (tensor.rows for layer in layers for tensor in layer.tensors if tensor.role == "feed-forward"),
        default=hidden,
    )
    return Architecture(
        model_type=model_type,
        names=_names(outer.values),
        layers=layers,
        first=first,
        last=last,
        tower=read_tower(outer, hidden, weights_known=weights_known) if text is not outer else (),
        hidden=hidden,
        heads=attention.heads,
        kv_heads=attention.kv_heads if isinstance(attention, Attention) else 1,
        vocabulary=vocabulary,
        widest=max(widest, experts_per_token * text.whole(family.experts.inner, 1) if family.experts else 0),
        experts_per_token=experts_per_token,
        max_context=_max_context(text, model_type),
        dtype=_dtype(outer, text),
        tied=tied,
        generic=generic,
    )


def _attention(text: Keys, family: Family, hidden: int) -> Attention | LatentAttention:
    heads = text.whole("num_attention_heads")
    if family.attention == "latent":
        # DeepSeek-V2-Lite writes null where queries are not compressed: absent alone means the default.
        compressed = "q_lora_rank" not in text.values or text.values["q_lora_rank"] is not None
        return LatentAttention(
            hidden=hidden,
            heads=heads,
            query_rank=text.whole("q_lora_rank") if compressed else None,
            kv_rank=text.whole("kv_lora_rank"),
            nope=text.whole("qk_nope_head_dim"),
            rope=text.whole("qk_rope_head_dim"),
            value=text.whole("v_head_dim"),
            bias=text.flag("attention_bias"),
        )
    kv_heads = text.whole("num_key_value_heads", heads)
    message = f"must divide num_attention_heads ({heads}), not {kv_heads}"
    text.relate("num_key_value_heads", "num_attention_heads", message, holds=heads % kv_heads == 0)
    head_dim = text.maybe_whole("head_dim")
    if head_dim is None:
        message = f"must be a multiple of num_attention_heads ({heads}), not {hidden}"
        text.relate("hidden_size", "num_attention_heads", message, holds=hidden % heads == 0)
        head_dim = max(hidden // heads, 1)
    return Attention(
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        qkv_bias=_switch(text, family.qkv_bias, default=family.qkv_bias == "qkv_bias"),
        out_bias=_switch(text, family.out_bias),
        qk_norm=family.qk_norm,
        gated=family.gated_attention,
        sinks=family.sinks,
    )


def _layers(
    text: Keys, family: Family, hidden: int, attention: Attention | LatentAttention, count: int
) -> tuple[Layer, ...]:
    windows = family.window(text, count) if family.window else (None,) * count
    mixers = family.mixers(text, count) if family.mixers else ("attention",) * count
    norms = tuple(
        tensor
        for number in range(family.norms if family.norm_weights else 0)
        for tensor in norm(f"norm_{number + 1}", hidden, bias=family.norm_bias)
    )
    layers = []
    for index, (mixer, window) in enumerate(zip(mixers, windows, strict=True)):
        kind, tensors = "", norms
        cache: Cache | None = None
        if mixer == "attention":
            tensors += attention.tensors()
            if isinstance(attention, Attention):
                kind, cache = attention.kind + (", sliding window" if window else ""), attention.cache(window)
            else:
                kind, cache = "latent attention", attention.cache()
        elif mixer == "state":
            block = _state(text, hidden)
            exact = text.get("mamba_ssm_dtype") == "float32"
            kind, cache = type(block).__name__.lower(), replace(block.cache(), recurrent_float32=exact)
            tensors += block.tensors()
        forward = ""
        if not family.one_block or mixer in {"dense", "experts"}:
            forward = "experts" if mixer == "experts" or _is_expert(text, family, index) else "dense"
            tensors += _feed_forward(text, family, hidden, forward)
        layers.append(Layer(kind, forward, tensors, cache))
    return tuple(layers)


def _is_expert(text: Keys, family: Family, index: int) -> bool:
    if family.experts is None or text.whole(family.experts.count, least=0) == 0:
        return False
    return family.is_expert is None or family.is_expert(text, index)


def _feed_forward(text: Keys, family: Family, hidden: int, kind: str) -> tuple[Tensor, ...]:
    where = family.experts
    bias = _switch(text, family.mlp_bias)
    if kind == "dense":
        # Granite's hybrids without experts have the shared one alone.
        only_shared = where is not None and where.shared and where.inner == "intermediate_size"
        key = where.shared if where and only_shared else "intermediate_size"
        return dense(hidden, text.whole(key), gated=family.gated, bias=bias)
    if where is None:
        text.note("layer_types", "holds layers of experts, which this family has none of")
        return ()
    inner = text.whole(where.inner)
    shared = text.whole(where.shared, least=0) if where.shared else 0
    return Experts(
        count=text.whole(where.count),
        inner=inner,
        shared=shared * inner if where.shared_are_counted else shared,
        shared_gate=where.shared_gate and shared > 0,
        router_bias=where.router_bias,
        bias=where.bias,
        gated=where.gated,
    ).tensors(hidden)


def _state(text: Keys, hidden: int) -> Mamba | Mamba2 | DeltaNet:
    if text.get("linear_num_value_heads") is not None:
        return DeltaNet(
            hidden,
            text.whole("linear_num_key_heads"),
            text.whole("linear_num_value_heads"),
            text.whole("linear_key_head_dim"),
            text.whole("linear_value_head_dim"),
            text.whole("linear_conv_kernel_dim"),
        )
    if text.get("mamba_num_heads") is not None:
        return Mamba2(
            hidden,
            text.whole("mamba_num_heads"),
            text.whole("mamba_head_dim"),
            text.whole("n_groups"),
            text.whole("ssm_state_size"),
            text.whole("conv_kernel"),
            text.flag("mamba_proj_bias"),
            text.flag("use_conv_bias", default=True),
        )
    inner = text.whole("mamba_expand") * hidden
    common = (text.whole("mamba_d_state"), text.whole("mamba_d_conv"))
    biases = (text.flag("mamba_proj_bias"), text.flag("mamba_conv_bias", default=True))
    if text.get("mamba_n_heads") is None:
        rank = text.get("mamba_dt_rank")
        width = -(-hidden // 16) if rank in (None, "auto") else text.whole("mamba_dt_rank")
        return Mamba(hidden, inner, *common, width, *biases)
    heads = text.whole("mamba_n_heads")
    head_dim = inner // heads if text.get("mamba_d_head") == "auto" else text.whole("mamba_d_head")
    if heads * head_dim != inner:
        text.note("mamba_n_heads", f"times mamba_d_head must be mamba_expand x hidden_size ({inner})")
    return Mamba2(hidden, heads, head_dim, text.whole("mamba_n_groups"), *common, *biases)


def _experts_per_token(text: Keys, family: Family) -> int:
    if family.experts is None or text.whole(family.experts.count, least=0) == 0:
        return 0
    return text.whole("num_experts_per_tok", 2)


def _max_context(text: Keys, model_type: str) -> int:
    longest = text.whole("max_position_embeddings", 2048)
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    if not isinstance(scaling, Mapping):
        text.note("rope_scaling", f"must be an object or null, not {scaling!r}")
        return longest
    factor = scaling.get("factor")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in _ALREADY_SCALED or "gemma3" in model_type or not isinstance(factor, int | float):
        return longest
    return int(longest * factor)


def _dtype(outer: Keys, text: Keys) -> str:
    value = next(
        (v for keys in (outer, text) for name in ("torch_dtype", "dtype") if (v := keys.get(name))), None
    )
    # transformers writes none for float32 models of old; vLLM takes it for float32, too.
    name = str(value or "float32").removeprefix("torch.")
    if name not in _DTYPES:
        outer.note("torch_dtype", f"must be one of bfloat16, float16, float32, not {value!r}")
    return _DTYPES.get(name, "bfloat16")


def _names(config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("architectures")
    return tuple(str(name) for name in names) if isinstance(names, list | tuple) else ()


def _switch(text: Keys, switch: Switch, *, default: bool = False) -> bool:
    return text.flag(switch, default=default) if isinstance(switch, str) else switch
