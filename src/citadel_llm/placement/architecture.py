"""What a model is made of: its tensors and its caches, layer by layer. Shapes are in elements."""

from dataclasses import dataclass
from typing import Literal

# How vLLM lays a tensor over the ranks of tensor parallelism.
Split = Literal["even", "heads", "kv heads", "vocabulary", "none"]

Role = Literal[
    "embedding", "head", "attention", "feed-forward", "experts", "router", "small", "state space", "vision"
]


@dataclass(frozen=True)
class Tensor:
    """One tensor, or `count` equal ones.

    Attributes:
        name: As checkpoints of its family call it, without the layer.
        role: What it is for; quantization goes by it.
        rows: Output features; of a vector, its length.
        columns: Input features; 1 for a vector.
        split: Which part of it each rank of tensor parallelism holds.
        count: How many of them there are in a layer (experts).
    """

    name: str
    role: Role
    rows: int
    columns: int = 1
    split: Split = "none"
    count: int = 1

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return self.rows * self.columns * self.count


@dataclass(frozen=True)
class AttentionCache:
    """Keys and values of each token, for multi-head, grouped and multi-query attention.

    Attributes:
        kv_heads: Heads that are kept.
        width: Numbers of key and value of one head together.
        window: How many tokens it looks back; all when none.
    """

    kv_heads: int
    width: int
    window: int | None = None


@dataclass(frozen=True)
class LatentCache:
    """One compressed vector of each token, for multi-head latent attention. Every rank holds all of it.

    Attributes:
        width: Its numbers: kv_lora_rank + qk_rope_head_dim.
        index_width: Numbers that a sparse model's indexer keeps besides, of one byte each.
    """

    width: int
    index_width: int = 0


@dataclass(frozen=True)
class StateCache:
    """A state of fixed size for each sequence, for state-space models and linear attention.

    Attributes:
        convolution: Numbers of the convolution's state.
        recurrent: Numbers of the recurrent state.
        recurrent_float32: Whether the recurrent state is kept in float32 whatever the model's type is.
    """

    convolution: int
    recurrent: int
    recurrent_float32: bool = False


Cache = AttentionCache | LatentCache | StateCache


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        mixer: How tokens meet, such as `grouped attention` or `mamba2`; empty where they do not.
        feed_forward: `dense`, `experts`, or empty.
        tensors: What it holds.
        cache: What it keeps of the tokens it has seen; none for encoders and layers without a mixer.
    """

    mixer: str
    feed_forward: str
    tensors: tuple[Tensor, ...]
    cache: Cache | None


@dataclass(frozen=True)
class Architecture:
    """A whole model.

    Attributes:
        model_type: Its family, as config.json names it.
        names: The class names of config.json's `architectures`.
        layers: The stack, first to last.
        first: What stands before the stack: embeddings.
        last: What stands behind it: norm and head.
        tower: What stands beside it: a vision tower and its projector.
        hidden: Width of the stream between layers.
        heads: Query heads; 0 without attention.
        kv_heads: Heads whose keys and values are kept; 0 without attention.
        vocabulary: Tokens it knows.
        widest: Inner numbers that a token makes in the widest feed-forward network, all its experts together.
        experts_per_token: To how many experts a token is sent; 0 without experts.
        max_context: The longest context it was made for, in tokens.
        dtype: Number type of its weights as published: bfloat16, float16 or float32.
        tied: Whether the head is the embedding.
        generic: Whether its family is not known and its layers are guessed from the common keys.
    """

    model_type: str
    names: tuple[str, ...]
    layers: tuple[Layer, ...]
    first: tuple[Tensor, ...]
    last: tuple[Tensor, ...]
    tower: tuple[Tensor, ...]
    hidden: int
    heads: int
    kv_heads: int
    vocabulary: int
    widest: int
    experts_per_token: int
    max_context: int
    dtype: str
    tied: bool
    generic: bool = False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All its tensors, each stored once."""
        inner = tuple(tensor for layer in self.layers for tensor in layer.tensors)
        return (*self.first, *inner, *self.last, *self.tower)

    @property
    def parameters(self) -> int:
        """How many parameters it has; a head that is the embedding counts once."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def has_experts(self) -> bool:
        """Whether any layer is a mixture of experts."""
        return any(layer.feed_forward == "experts" for layer in self.layers)

    @property
    def attention_width(self) -> int:
        """Numbers of queries, keys and values that a token makes in the widest layer."""
        made = ("q_proj", "q_b_proj", "k_proj", "v_proj", "kv_b_proj", "in_proj", "in_proj_qkvz")
        return max(
            sum(tensor.rows for tensor in layer.tensors if tensor.name in made) for layer in self.layers
        )

    @property
    def keeps_cache(self) -> bool:
        """Whether it keeps anything of the tokens it has seen: all do, but encoders."""
        return any(layer.cache is not None for layer in self.layers)
