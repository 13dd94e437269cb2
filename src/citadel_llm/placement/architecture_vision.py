"""Vision towers: SigLIP and CLIP, and the projectors of Gemma 3 and LLaVA."""

from .architecture import Tensor
from .architecture_blocks import Attention, dense, norm
from .architecture_keys import MOST_LAYERS, Keys

_TOWERS = {"siglip_vision_model", "clip_vision_model"}
# transformers' configuration classes.
_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
}


def read_tower(outer: Keys, hidden: int, *, weights_known: bool) -> tuple[Tensor, ...]:
    """What stands beside the language model; nothing where config.json describes no tower.

    vLLM splits towers by tensor parallelism, too; here each rank is charged the whole, which is never too
    little. A tower of another kind is noted as a problem unless the weights' size is known.
    """
    if "vision_config" not in outer.values:
        return ()
    keys = outer.inner("vision_config", _DEFAULTS)
    kind = str(keys.get("model_type") or "siglip_vision_model")
    if kind not in _TOWERS and weights_known:
        return ()
    if kind not in _TOWERS:
        keys.note(
            "model_type",
            f"is {kind!r}, a vision tower that is not known (known: {', '.join(sorted(_TOWERS))})",
        )
        return ()
    width, heads = keys.whole("hidden_size"), keys.whole("num_attention_heads")
    patch, image = keys.whole("patch_size"), keys.whole("image_size")
    patches = (image // patch) ** 2
    layer = (
        *Attention(width, heads, heads, max(width // heads, 1), qkv_bias=True, out_bias=True).tensors(),
        *dense(width, keys.whole("intermediate_size"), gated=False, bias=True),
        *norm("norm_1", width, bias=True),
        *norm("norm_2", width, bias=True),
    )
    pixels = keys.whole("num_channels") * patch**2
    if kind == "clip_vision_model":
        parts = [
            Tensor("class_embedding", "vision", width),
            Tensor("patch_embedding", "vision", width, pixels),
            Tensor("position_embedding", "vision", patches + 1, width),
            *norm("pre_layrnorm", width, bias=True),
        ]
    else:
        parts = [
            Tensor("patch_embedding", "vision", width, pixels),
            Tensor("patch_embedding.bias", "vision", width),
            Tensor("position_embedding", "vision", patches, width),
        ]
    parts += layer * keys.whole("num_hidden_layers", most=MOST_LAYERS)
    parts += norm("post_layernorm", width, bias=True)
    parts += _projector(outer, width, hidden)
    return tuple(
        Tensor(f"vision.{part.name}", "vision", part.rows, part.columns, "none", part.count) for part in parts
    )


def _projector(outer: Keys, width: int, hidden: int) -> tuple[Tensor, ...]:
    if str(outer.get("model_type")).startswith("gemma3"):
        return (Tensor("projection", "vision", width, hidden), *norm("soft_emb_norm", width))
    return (
        Tensor("linear_1", "vision", hidden, width),
        Tensor("linear_1.bias", "vision", hidden),
        Tensor("linear_2", "vision", hidden, hidden),
        Tensor("linear_2.bias", "vision", hidden),
    )
