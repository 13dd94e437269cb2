"""The families of models that are known: what their layers are made of, as a table.

Every row is held against the model that transformers 5.19 builds of a published shape
(tests/placement/published), or against its source, and the splits against vLLM 0.33. `defaults` are what
the family's configuration class fills in for keys that published files leave out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .architecture_keys import Keys
from .architecture_patterns import (
    all_but_every_nth,
    bamba_mixers,
    deepseek_expert,
    every_layer,
    every_second,
    jamba_expert,
    jamba_mixers,
    nemotron_mixers,
    qwen_expert,
    qwen_next_mixers,
    typed,
    where_switched_on,
)

# True, False, or the key of config.json that says it.
Switch = bool | str


@dataclass(frozen=True)
class ExpertKeys:
    """Where a family's config.json tells of its experts.

    Attributes:
        count: Key of the number of routed experts.
        inner: Key of each expert's inner width.
        shared: Key of all shared experts' inner width together, or of their number when `shared_are_counted`.
        shared_are_counted: Whether `shared` counts experts of the routed ones' width.
        shared_gate: Whether a gate weighs the shared expert.
        router_bias: Whether the router has a bias.
        bias: Whether the experts have biases.
        gated: Whether an expert has a gate's matrix.
    """

    count: str
    inner: str = "moe_intermediate_size"
    shared: str = ""
    shared_are_counted: bool = False
    shared_gate: bool = False
    router_bias: bool = False
    bias: bool = False
    gated: bool = True


@dataclass(frozen=True)
class Family:
    """What the layers of a family are made of.

    Attributes:
        attention: `grouped` for multi-head, grouped and multi-query attention.
        defaults: Values of absent keys.
        tied: Whether the head is the embedding when config.json does not say.
        qkv_bias, out_bias, mlp_bias, norm_bias, head_bias: Who has biases.
        qk_norm: See `architecture_blocks.Attention`.
        gated_attention: Whether the query's matrix also makes a gate.
        sinks: Whether heads have sinks.
        gated: Whether the feed-forward network has a gate's matrix.
        norms: Norms of the stream's width in a layer.
        norm_weights: Whether norms have weights at all.
        window: The window of each layer; none for layers that look at everything.
        experts: Where the experts are described.
        is_expert: Whether a layer's feed-forward network is a mixture of experts.
        mixers: The kind of each layer, for hybrids.
        one_block: Whether a layer is either a mixer or a feed-forward network, not both.
    """

    attention: Literal["grouped", "latent"] = "grouped"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = False
    qkv_bias: Switch = False
    out_bias: Switch = False
    mlp_bias: Switch = False
    norm_bias: bool = False
    head_bias: bool = False
    qk_norm: str = ""
    gated_attention: bool = False
    sinks: bool = False
    gated: bool = True
    norms: int = 2
    norm_weights: bool = True
    window: Callable[[Keys, int], tuple[int | None, ...]] | None = None
    experts: ExpertKeys | None = None
    is_expert: Callable[[Keys, int], bool] | None = None
    mixers: Callable[[Keys, int], tuple[str, ...]] | None = None
    one_block: bool = False


_BIAS = "attention_bias"
_GEMMA = {"head_dim": 256}
_MAMBA2 = {
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_n_heads": 128,
    "mamba_d_head": 64,
    "mamba_n_groups": 1,
    "mamba_conv_bias": True,
}
_DEEPSEEK = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
_DEEPSEEK_EXPERTS = ExpertKeys("n_routed_experts", shared="n_shared_experts", shared_are_counted=True)
# transformers keeps DeepSeek-V3's correction of the router as a buffer, published files as a tensor.
_DEEPSEEK_V3 = Family(
    attention="latent",
    defaults={**_DEEPSEEK, "q_lora_rank": 1536, "n_routed_experts": 256, "n_shared_experts": 1}
    | {"first_k_dense_replace": 3, "moe_intermediate_size": 2048},
    experts=_DEEPSEEK_EXPERTS,
    is_expert=deepseek_expert,
)
_GEMMA3 = Family(
    defaults={
        "head_dim": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
    },
    tied=True,
    qk_norm="head",
    norms=4,
    window=all_but_every_nth,
)

_QWEN_NEXT = Family(
    defaults={
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    },
    qkv_bias=_BIAS,
    out_bias=_BIAS,
    qk_norm="head",
    gated_attention=True,
    experts=ExpertKeys("num_experts", shared="shared_expert_intermediate_size", shared_gate=True),
    is_expert=qwen_expert,
    mixers=qwen_next_mixers,
)

FAMILIES: dict[str, Family] = {
    "llama": Family(qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias="mlp_bias"),
    "mistral": Family(
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072}, window=every_layer
    ),
    "mixtral": Family(
        defaults={"num_key_value_heads": 8, "num_local_experts": 8},
        window=every_layer,
        experts=ExpertKeys("num_local_experts", "intermediate_size"),
    ),
    "phi": Family(
        qkv_bias=True, out_bias=True, mlp_bias=True, norm_bias=True, head_bias=True, gated=False, norms=1
    ),
    "phi3": Family(window=every_layer),
    "qwen2": Family(qkv_bias=True, window=where_switched_on),
    "qwen2_moe": Family(
        defaults={"num_experts": 60, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
        qkv_bias="qkv_bias",
        window=where_switched_on,
        experts=ExpertKeys("num_experts", shared="shared_expert_intermediate_size", shared_gate=True),
        is_expert=qwen_expert,
    ),
    "qwen3": Family(
        defaults={"head_dim": 128}, qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="head", window=where_switched_on
    ),
    "qwen3_moe": Family(
        defaults={"num_key_value_heads": 4, "num_experts": 128, "moe_intermediate_size": 768},
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        qk_norm="head",
        window=where_switched_on,
        experts=ExpertKeys("num_experts"),
        is_expert=qwen_expert,
    ),
    "qwen3_next": _QWEN_NEXT,
    "qwen3_5_moe_text": _QWEN_NEXT,
    "qwen3_5_text": replace(_QWEN_NEXT, experts=None, is_expert=None),
    "gemma": Family(defaults=_GEMMA, tied=True, qkv_bias=_BIAS, out_bias=_BIAS),
    "gemma2": Family(
        defaults=_GEMMA | {"sliding_window": 4096},
        tied=True,
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        norms=4,
        window=every_second,
    ),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "deepseek_v2": Family(
        attention="latent",
        defaults={**_DEEPSEEK, "first_k_dense_replace": 0, "n_shared_experts": 2},
        experts=_DEEPSEEK_EXPERTS,
        is_expert=deepseek_expert,
    ),
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": _DEEPSEEK_V3,
    "gpt_oss": Family(
        defaults={"head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128, "attention_bias": True},
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        sinks=True,
        window=every_second,
        experts=ExpertKeys("num_local_experts", "intermediate_size", router_bias=True, bias=True),
    ),
    "granite": Family(qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias="mlp_bias"),
    "olmo2": Family(qkv_bias=_BIAS, out_bias=_BIAS, qk_norm="all heads"),
    "starcoder2": Family(
        defaults={"use_bias": True},
        tied=True,
        qkv_bias="use_bias",
        out_bias="use_bias",
        mlp_bias="use_bias",
        norm_bias=True,
        gated=False,
        window=every_layer,
    ),
    "cohere2": Family(
        defaults={"head_dim": 128, "sliding_window": 4096, "sliding_window_pattern": 4},
        tied=True,
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        norms=1,
        window=all_but_every_nth,
    ),
    "glm4": Family(
        defaults={"head_dim": 128, "attention_bias": True, "num_key_value_heads": 2}, qkv_bias=_BIAS, norms=4
    ),
    "jamba": Family(
        defaults={
            "num_key_value_heads": 8,
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_conv_bias": True,
        },
        experts=ExpertKeys("num_experts", "intermediate_size"),
        is_expert=jamba_expert,
        mixers=jamba_mixers,
    ),
    "bamba": Family(
        defaults={**_MAMBA2, "num_key_value_heads": 8},
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        mlp_bias="mlp_bias",
        mixers=bamba_mixers,
    ),
    "granitemoehybrid": Family(
        defaults=_MAMBA2,
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        experts=ExpertKeys("num_local_experts", "intermediate_size", shared="shared_intermediate_size"),
        mixers=typed,
    ),
    "nemotron_h": Family(
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "mamba_num_heads": 128,
            "mamba_head_dim": 64,
            "n_groups": 8,
            "ssm_state_size": 128,
            "conv_kernel": 4,
        },
        qkv_bias=_BIAS,
        out_bias=_BIAS,
        mlp_bias="mlp_bias",
        gated=False,
        norms=1,
        mixers=nemotron_mixers,
        one_block=True,
    ),
}
# A family that is not known is taken for this when its weights are: the common keys, and no window.
GENERIC = Family(qkv_bias=_BIAS, out_bias=_BIAS, mlp_bias="mlp_bias")
ENCODERS = ("bert", "roberta", "xlm-roberta")
