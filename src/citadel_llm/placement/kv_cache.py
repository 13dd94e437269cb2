"""What the cache of keys, values and states costs, as vLLM 0.33 allocates it.

One pool of blocks serves all layers. Layers of the same kind share block tables (a group); where kinds mix,
groups are made equally large, and a block has room for the largest of them
(`v1/core/kv_cache_planning.py`). A sequence takes from each group as many blocks as its kind says
(`v1/kv_cache_interface.py`, max_memory_usage_bytes), and one block of the pool stays empty for good.
"""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import islice

from .architecture import AttentionCache, Cache, LatentCache, StateCache

# With prefix caching a state-space layer keeps a checkpoint beside the state it works on (mode "align").
_STATES_PER_SEQUENCE = 2
# Up to this ratio of layer counts, groups take the size of the larger kind.
_NEARLY_EQUAL = 1.5


@dataclass(frozen=True)
class Kind:
    """What the layers of one kind keep on one rank.

    Attributes:
        token_bytes: Bytes of a token in one layer; 0 for states.
        state_bytes: Bytes of a sequence's state in one layer; 0 for attention.
        window: How many tokens are looked back at; all when none.
    """

    token_bytes: int = 0
    state_bytes: int = 0
    window: int | None = None


@dataclass(frozen=True)
class Group:
    """Layers that share block tables.

    Attributes:
        kind: What they keep.
        block_tokens: Tokens of a block.
        block_bytes: What this rank's layers of the group take of one block.
    """

    kind: Kind
    block_tokens: int
    block_bytes: int

    def blocks(self, context: int, in_flight: int) -> int:
        """How many blocks a sequence of so many tokens takes."""
        if self.kind.state_bytes:
            return _STATES_PER_SEQUENCE
        if self.kind.window is None:
            return math.ceil(context / self.block_tokens)
        # What is in the batches at work is kept until they are done, and a window may begin in mid-block.
        kept = min(self.kind.window - 1 + in_flight, context)
        return math.ceil(kept / self.block_tokens) + 1


@dataclass(frozen=True)
class BlockPool:
    """The KV cache of one rank: what it costs to hold sequences.

    Attributes:
        groups: The groups of the whole model; each takes blocks of the one pool, whether or not this rank has
            layers of it.
        in_flight: Tokens that may be in batches at work.
    """

    groups: tuple[Group, ...]
    in_flight: int

    @property
    def block_bytes(self) -> int:
        """What a block takes on this rank."""
        return max((group.block_bytes for group in self.groups), default=0)

    def bytes_for(self, context: int, sequences: int = 1) -> int:
        """What so many sequences of so many tokens take, with the block that stays empty."""
        if not self.groups:
            return 0
        blocks = sum(group.blocks(context, self.in_flight) for group in self.groups)
        return (sequences * blocks + 1) * self.block_bytes


def token_bytes(cache: Cache | None, number_bytes: int, tensor_parallel: int = 1) -> int:
    """Bytes that one layer keeps of each token on one rank, within its window; 0 for states."""
    if isinstance(cache, AttentionCache):
        return max(1, cache.kv_heads // tensor_parallel) * cache.width * number_bytes
    if isinstance(cache, LatentCache):
        return cache.width * number_bytes
    return 0


def pools(
    caches: tuple[Cache | None, ...],
    stages: list[range],
    *,
    tensor_parallel: int,
    block_tokens: int,
    number_bytes: int,
    model_bytes: int,
    in_flight: int,
) -> tuple[BlockPool, ...]:
    """The pool of each stage of pipeline parallelism; the ranks of a stage have the same.

    Args:
        caches: What each layer keeps.
        stages: Which layers each stage holds.
        tensor_parallel: Over how many ranks a layer is split.
        block_tokens: Tokens of a block, as the attention backend wants it.
        number_bytes: Bytes of one number of keys and values.
        model_bytes: Bytes of one number of the model's own type, in which states are kept.
        in_flight: Tokens that may be in batches at work.
    """
    kinds = {
        index: _kind(cache, tensor_parallel, number_bytes, model_bytes)
        for index, cache in enumerate(caches)
        if cache is not None
    }
    if not kinds:
        return tuple(BlockPool((), in_flight) for _ in stages)
    pages = _pages(set(kinds.values()), block_tokens)
    members = _groups(kinds)
    return tuple(
        BlockPool(
            tuple(
                Group(
                    kinds[group[0]],
                    pages[kinds[group[0]]][0],
                    sum(pages[kinds[index]][1] for index in group if index in stage),
                )
                for group in members
            ),
            in_flight,
        )
        for stage in stages
    )


def _kind(cache: Cache, tensor_parallel: int, number_bytes: int, model_bytes: int) -> Kind:
    if isinstance(cache, StateCache):
        recurrent = cache.recurrent * (4 if cache.recurrent_float32 else model_bytes)
        return Kind(state_bytes=math.ceil((cache.convolution * model_bytes + recurrent) / tensor_parallel))
    window = cache.window if isinstance(cache, AttentionCache) else None
    return Kind(token_bytes=token_bytes(cache, number_bytes, tensor_parallel), window=window)


def _pages(kinds: set[Kind], block_tokens: int) -> dict[Kind, tuple[int, int]]:
    """Tokens and bytes of a block of each kind, for one layer.

    Where kinds mix, blocks take equal bytes: attention's grow until a state fits (`platforms/interface.py`,
    _align_hybrid_block_size), smaller ones get more tokens or are padded (unify_kv_cache_spec_page_size).
    Layers that all look at everything form one group and may differ.
    """
    attention = [kind for kind in kinds if kind.token_bytes]
    states = [kind.state_bytes for kind in kinds if kind.state_bytes]
    if states and attention:
        smallest = min(kind.token_bytes for kind in attention)
        block_tokens *= math.ceil(max(states) / (block_tokens * smallest))
    if not states and len({kind.window for kind in kinds}) == 1:
        return {kind: (block_tokens, block_tokens * kind.token_bytes) for kind in kinds}
    page = max([block_tokens * kind.token_bytes for kind in attention] + states)
    sizes = {}
    for kind in kinds:
        own = block_tokens * kind.token_bytes
        more = page // own if own and page % own == 0 else 1
        sizes[kind] = (block_tokens * more, page)
    return sizes


def _groups(kinds: dict[int, Kind]) -> list[list[int]]:
    """The layers of each group."""
    if len({(kind.window, bool(kind.state_bytes)) for kind in kinds.values()}) == 1:
        return [list(kinds)]
    counts = Counter(kinds.values())
    size = min(counts.values())
    if max(counts.values()) < size * _NEARLY_EQUAL:
        size = max(counts.values())
    groups = []
    for kind, count in counts.items():
        layers = [index for index, other in kinds.items() if other == kind]
        number = math.ceil(count / size)
        groups += [list(islice(layers, start, None, number)) for start in range(number)]
    return groups
