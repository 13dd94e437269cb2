"""The blocks that models are built of, as lists of tensors.

Names and shapes are those of transformers' modules (5.19); how each is split over ranks is read in vLLM 0.33:
`ColumnParallelLinear`, `RowParallelLinear`, `QKVParallelLinear`, `ReplicatedLinear`, `FusedMoE`.
"""

from dataclasses import dataclass

from .architecture import AttentionCache, LatentCache, Role, Split, StateCache, Tensor


def linear(
    name: str, role: Role, rows: int, columns: int, split: Split, *, bias: bool = False
) -> tuple[Tensor, ...]:
    """A matrix and, where it has one, its bias.

    A matrix that is split by its columns (`o_proj`, `down_proj`) adds its whole bias on every rank.
    """
    weight = Tensor(name, role, rows, columns, split)
    if not bias:
        return (weight,)
    whole = name in {"o_proj", "down_proj", "out_proj", "fc2"}
    return (weight, Tensor(f"{name}.bias", "small", rows, 1, "none" if whole else split))


def norm(name: str, width: int, *, bias: bool = False) -> tuple[Tensor, ...]:
    """A normalization: one weight for each feature, perhaps a bias."""
    weight = Tensor(name, "small", width)
    return (weight, Tensor(f"{name}.bias", "small", width)) if bias else (weight,)


@dataclass(frozen=True)
class Attention:
    """Multi-head, grouped or multi-query attention.

    Attributes:
        hidden: Width of the stream.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        qkv_bias: Whether q, k and v have a bias.
        out_bias: Whether the output has one.
        qk_norm: Whether queries and keys are normalized: not, each head's width, or the width of all heads.
        gated: Whether the query's matrix also makes a gate of its size.
        sinks: Whether each head has a learned sink.
    """

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: str = ""
    gated: bool = False
    sinks: bool = False

    @property
    def kind(self) -> str:
        """Its name in the field."""
        if self.kv_heads == 1 < self.heads:
            return "multi-query attention"
        return "multi-head attention" if self.kv_heads == self.heads else "grouped attention"

    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""
        queries = self.heads * self.head_dim * (2 if self.gated else 1)
        keys = self.kv_heads * self.head_dim
        parts = [
            *linear("q_proj", "attention", queries, self.hidden, "heads", bias=self.qkv_bias),
            *linear("k_proj", "attention", keys, self.hidden, "kv heads", bias=self.qkv_bias),
            *linear("v_proj", "attention", keys, self.hidden, "kv heads", bias=self.qkv_bias),
            *linear(
                "o_proj", "attention", self.hidden, self.heads * self.head_dim, "heads", bias=self.out_bias
            ),
        ]
        if self.qk_norm == "head":
            parts += [*norm("q_norm", self.head_dim), *norm("k_norm", self.head_dim)]
        if self.qk_norm == "all heads":
            parts += [*norm("q_norm", self.heads * self.head_dim), *norm("k_norm", keys)]
        if self.sinks:
            parts.append(Tensor("sinks", "small", self.heads, 1, "heads"))
        return tuple(parts)

    def cache(self, window: int | None = None) -> AttentionCache:
        """What it keeps of a token."""
        return AttentionCache(self.kv_heads, 2 * self.head_dim, window)


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention, as of DeepSeek-V2 (arXiv 2405.04434).

    Attributes:
        hidden: Width of the stream.
        heads: Heads.
        query_rank: Width of the compressed query; none when queries are not compressed.
        kv_rank: Width of the compressed keys and values.
        nope: Width of a head's part without position.
        rope: Width of its part with position, which all heads share.
        value: Width of a head's value.
        bias: Whether the compressing and the output matrices have a bias.
    """

    hidden: int
    heads: int
    query_rank: int | None
    kv_rank: int
    nope: int
    rope: int
    value: int
    bias: bool = False

    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""
        queries = self.heads * (self.nope + self.rope)
        if self.query_rank is None:
            parts = [*linear("q_proj", "attention", queries, self.hidden, "heads")]
        else:
            parts = [
                *linear("q_a_proj", "attention", self.query_rank, self.hidden, "none", bias=self.bias),
                *norm("q_a_layernorm", self.query_rank),
                *linear("q_b_proj", "attention", queries, self.query_rank, "heads"),
            ]
        compressed = self.kv_rank + self.rope
        expanded = self.heads * (self.nope + self.value)
        return (
            *parts,
            *linear("kv_a_proj_with_mqa", "attention", compressed, self.hidden, "none", bias=self.bias),
            *norm("kv_a_layernorm", self.kv_rank),
            *linear("kv_b_proj", "attention", expanded, self.kv_rank, "heads"),
            *linear("o_proj", "attention", self.hidden, self.heads * self.value, "heads", bias=self.bias),
        )

    def cache(self) -> LatentCache:
        """What it keeps of a token."""
        return LatentCache(self.kv_rank + self.rope)


def dense(
    hidden: int, inner: int, *, gated: bool = True, bias: bool = False, prefix: str = ""
) -> tuple[Tensor, ...]:
    """A feed-forward network."""
    gate = linear(f"{prefix}gate_proj", "feed-forward", inner, hidden, "even", bias=bias) if gated else ()
    return (
        *gate,
        *linear(f"{prefix}up_proj", "feed-forward", inner, hidden, "even", bias=bias),
        *linear(f"{prefix}down_proj", "feed-forward", hidden, inner, "even", bias=bias),
    )


@dataclass(frozen=True)
class Experts:
    """A mixture of experts.

    Attributes:
        count: Routed experts.
        inner: Inner width of each.
        shared: Inner width of all shared experts together; 0 without.
        shared_gate: Whether a gate weighs the shared expert.
        router_bias: Whether the router has a bias.
        bias: Whether the experts have biases.
        gated: Whether they have a gate's matrix besides up and down.
    """

    count: int
    inner: int
    shared: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    bias: bool = False
    gated: bool = True

    def tensors(self, hidden: int) -> tuple[Tensor, ...]:
        """What it holds."""
        names = ("gate_proj", "up_proj") if self.gated else ("up_proj",)
        parts = [Tensor("router", "router", self.count, hidden)]
        if self.router_bias:
            parts.append(Tensor("router.bias", "small", self.count))
        parts += [
            Tensor(f"experts.{name}", "experts", self.inner, hidden, "even", self.count) for name in names
        ]
        parts.append(Tensor("experts.down_proj", "experts", hidden, self.inner, "even", self.count))
        if self.bias:
            parts += [
                Tensor(f"experts.{name}.bias", "small", self.inner, 1, "even", self.count) for name in names
            ]
            parts.append(Tensor("experts.down_proj.bias", "small", hidden, 1, "none", self.count))
        if self.shared:
            parts += dense(hidden, self.shared, gated=self.gated, prefix="shared_experts.")
        if self.shared_gate:
            parts.append(Tensor("shared_expert_gate", "router", 1, hidden))
        return tuple(parts)


@dataclass(frozen=True)
class Mamba2:
    """A state-space mixer (arXiv 2405.21060).

    Attributes:
        hidden: Width of the stream.
        heads: Its heads.
        head_dim: Width of a head.
        groups: Groups that share the state's input and output.
        state: Numbers of state for each feature.
        kernel: Tokens that the convolution sees.
        bias: Whether its matrices have a bias.
        conv_bias: Whether the convolution has one.
    """

    hidden: int
    heads: int
    head_dim: int
    groups: int
    state: int
    kernel: int
    bias: bool = False
    conv_bias: bool = True

    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""
        inner = self.heads * self.head_dim
        mixed = inner + 2 * self.groups * self.state
        return (
            *linear(
                "in_proj", "state space", inner + mixed + self.heads, self.hidden, "even", bias=self.bias
            ),
            *linear("conv1d", "small", mixed, self.kernel, "even", bias=self.conv_bias),
            Tensor("A_log", "small", self.heads, 1, "even"),
            Tensor("D", "small", self.heads, 1, "even"),
            Tensor("dt_bias", "small", self.heads, 1, "even"),
            Tensor("norm", "small", inner, 1, "even"),
            *linear("out_proj", "state space", self.hidden, inner, "even", bias=self.bias),
        )

    def cache(self) -> StateCache:
        """What it keeps of a sequence."""
        inner = self.heads * self.head_dim
        return StateCache((inner + 2 * self.groups * self.state) * (self.kernel - 1), inner * self.state)


@dataclass(frozen=True)
class Mamba:
    """Jamba's state-space mixer: Mamba (arXiv 2312.00752) with three norms of its own.

    Attributes:
        hidden: Width of the stream.
        inner: Inner width.
        state: Numbers of state for each inner feature.
        kernel: Tokens that the convolution sees.
        rank: Width of the compressed time step.
        bias: Whether its matrices have a bias.
        conv_bias: Whether the convolution has one.
    """

    hidden: int
    inner: int
    state: int
    kernel: int
    rank: int
    bias: bool = False
    conv_bias: bool = True

    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""
        return (
            *linear("in_proj", "state space", 2 * self.inner, self.hidden, "even", bias=self.bias),
            *linear("conv1d", "small", self.inner, self.kernel, "even", bias=self.conv_bias),
            *linear("x_proj", "state space", self.rank + 2 * self.state, self.inner, "even"),
            *linear("dt_proj", "state space", self.inner, self.rank, "even", bias=True),
            Tensor("A_log", "small", self.inner, self.state, "even"),
            Tensor("D", "small", self.inner, 1, "even"),
            *norm("dt_layernorm", self.rank),
            *norm("b_layernorm", self.state),
            *norm("c_layernorm", self.state),
            *linear("out_proj", "state space", self.hidden, self.inner, "even", bias=self.bias),
        )

    def cache(self) -> StateCache:
        """What it keeps of a sequence."""
        return StateCache(self.inner * (self.kernel - 1), self.inner * self.state)


@dataclass(frozen=True)
class DeltaNet:
    """Gated delta net, the linear attention of Qwen3-Next (arXiv 2412.06464).

    Attributes:
        hidden: Width of the stream.
        key_heads: Heads of queries and keys.
        value_heads: Heads of values.
        key_dim: Width of a key's head.
        value_dim: Width of a value's head.
        kernel: Tokens that the convolution sees.
    """

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        return (
            *linear("in_proj_qkvz", "state space", 2 * keys + 2 * values, self.hidden, "even"),
            *linear("in_proj_ba", "state space", 2 * self.value_heads, self.hidden, "even"),
            Tensor("conv1d", "small", 2 * keys + values, self.kernel, "even"),
            Tensor("dt_bias", "small", self.value_heads, 1, "even"),
            Tensor("A_log", "small", self.value_heads, 1, "even"),
            *norm("norm", self.value_dim),
            *linear("out_proj", "state space", self.hidden, values, "even"),
        )

    def cache(self) -> StateCache:
        """What it keeps of a sequence."""
        mixed = 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
        return StateCache(mixed * (self.kernel - 1), self.value_heads * self.value_dim * self.key_dim)
