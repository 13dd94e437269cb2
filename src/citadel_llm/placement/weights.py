"""What a model's weights take: in all, and on each rank of a layout.

Splits are vLLM 0.33's: matrices by their outputs or inputs (`layers/linear.py`), the vocabulary padded to a
multiple of 64 (`layers/vocab_parallel_embedding.py`), keys and values copied where there are more ranks
than heads, norms, routers and the latent attention's compressing matrices on every rank; the layers dealt
out over the stages of pipeline parallelism as `distributed/utils.py` (get_pp_indices) does.
"""

import math
from dataclasses import dataclass

from .architecture import Architecture, LatentCache, Tensor
from .numbers import Numbers
from .terms import Layout
from .weights_quantization import Scheme

_VOCABULARY_PADDING = 64
# Number types of the files that become the engine's type when it loads unquantized weights.
_FLOATS = ("F64", "F32", "F16", "BF16")


def stages(layers: int, pipeline_parallel: int) -> list[range]:
    """Which layers each stage of pipeline parallelism holds.

    What does not divide goes to the stages before the last, one layer each, from the back.
    """
    counts = [layers // pipeline_parallel] * pipeline_parallel
    for extra in range(layers % pipeline_parallel):
        counts[-(extra + 2)] += 1
    starts = [sum(counts[:stage]) for stage in range(pipeline_parallel)]
    return [range(start, start + count) for start, count in zip(starts, counts, strict=True)]


@dataclass(frozen=True)
class Weights:
    """The weights of a model, as an engine holds them.

    Attributes:
        architecture: What they are made of.
        scheme: How they are stored.
        total: All of them, each once, in bytes.
        layer_bytes: Of each layer, in bytes; the rest of `total` stands outside the layers.
        source: Where the total comes from, for people.
    """

    architecture: Architecture
    scheme: Scheme
    total: int
    layer_bytes: tuple[float, ...]
    source: str

    def on_rank(self, layout: Layout, stage: int) -> int:
        """What one worker of a stage holds, in bytes. The workers of a stage hold the same."""
        tp = layout.tensor_parallel
        held = 0.0
        for index in stages(len(self.architecture.layers), layout.pipeline_parallel)[stage]:
            held += self.layer_bytes[index] * self._layer_share(index, tp)
        whole = self._outside_bytes()
        left_over = self.total - sum(self.layer_bytes) - whole
        # What the formula does not know, such as a vision tower of another kind, is on the first stage.
        known = 1.0 if left_over > 0 or not whole else 1 + left_over / whole
        held += self._outside_bytes(tp, stage, layout.pipeline_parallel) * known
        if stage == 0:
            held += max(left_over, 0)
        return math.ceil(held)

    def absorbed_on_rank(self, layout: Layout, stage: int) -> int:
        """What latent attention makes of its expanding matrix after loading, beside it, in the engine's type.

        vLLM 0.33 (`layers/attention/mla_attention.py`, process_weights_after_loading) keeps W_UK and W_UV.
        """
        made = 0
        for index in stages(len(self.architecture.layers), layout.pipeline_parallel)[stage]:
            layer = self.architecture.layers[index]
            if isinstance(layer.cache, LatentCache):
                made += sum(tensor.elements for tensor in layer.tensors if tensor.name == "kv_b_proj")
        return math.ceil(made * self.scheme.dtype_bytes / layout.tensor_parallel)

    def packed_tables(self) -> int:
        """What vLLM for CPUs keeps of embedding and head a second time, packed for its matrix products.

        Other matrices are replaced by their packed form, these are not (0.32, vocab_parallel_embedding.py:
        dispatch_cpu_unquantized_gemm with remove_weight=False).
        """
        tables = (t for t in (*self.architecture.first, *self.architecture.last) if t.split == "vocabulary")
        return math.ceil(sum(self.scheme.bytes_of(table) for table in tables if table.columns > 1))

    def _layer_share(self, index: int, tensor_parallel: int) -> float:
        """What a rank holds of a layer, by its stored size."""
        whole = held = 0.0
        for tensor in self.architecture.layers[index].tensors:
            size = self.scheme.bytes_of(tensor, index)
            share = _share(tensor, tensor_parallel, self.architecture.kv_heads)
            whole += size
            held += size * share * self.scheme.held(tensor, self.architecture.hidden, index)
        return held / whole if whole else 0.0

    def _outside_bytes(self, tensor_parallel: int = 1, stage: int | None = None, of: int = 1) -> float:
        """What stands outside the layers, by its shape: of the whole model, or on a rank of one stage."""
        whole = self.architecture
        first, last = stage in {None, 0}, stage in {None, of - 1}
        tensors = (*(whole.first + whole.tower if first else ()), *(whole.last if last else ()))
        if whole.tied and last and not first:
            # The embedding is the head: the last stage holds a copy.
            tensors += tuple(tensor for tensor in whole.first if tensor.split == "vocabulary")
        sizes = (
            self.scheme.bytes_of(tensor)
            * (1.0 if stage is None else _share(tensor, tensor_parallel, whole.kv_heads))
            for tensor in tensors
        )
        return sum(sizes)


def weights_of(architecture: Architecture, numbers: Numbers, *, loaded: Scheme, stored: Scheme) -> Weights:
    """The weights as an engine holds them.

    Args:
        architecture: What they are made of.
        numbers: What is known of the files.
        loaded: How the engine holds them.
        stored: How the files hold them.
    """
    weight_bytes, tensors, origin = numbers.weight_bytes, numbers.tensors, numbers.origin
    formula, by_layer = _computed(architecture, loaded)
    if weight_bytes is None:
        source = f"{architecture.parameters:,} parameters of {origin} as {loaded.name}"
        return Weights(architecture, loaded, math.ceil(formula), by_layer, source)
    told = float(weight_bytes)
    dtypes = tensors["dtypes"] if tensors else {}
    if tensors and not stored.bits:
        told -= sum(kind["bytes"] for name, kind in dtypes.items() if name in _FLOATS)
        told += (
            sum(kind["parameters"] for name, kind in dtypes.items() if name in _FLOATS) * stored.dtype_bytes
        )
    factor = told / weight_bytes
    # A size may be that of the files, or of what the engine makes of them: whichever the formula is nearer
    # to.
    as_stored, _ = _computed(architecture, stored)
    if loaded != stored and abs(told - as_stored) < abs(told - formula):
        told *= formula / as_stored
        source = f"{origin}, {weight_bytes:,} bytes as {stored.name}, made {loaded.name} while loading"
    else:
        source = f"{origin}, {weight_bytes:,} bytes as {loaded.name}"
    known = tensors["layers"] if tensors else {}
    if loaded == stored and all(str(index) in known for index in range(len(architecture.layers))):
        by_layer = tuple(known[str(index)] * factor for index in range(len(architecture.layers)))
        # Further layers, such as DeepSeek-V3's that predicts the token after next, stay unloaded.
        told -= factor * sum(size for index, size in known.items() if int(index) >= len(by_layer))
    else:
        by_layer = tuple(size * told / formula for size in by_layer)
    return Weights(architecture, loaded, math.ceil(told), by_layer, source)


def _computed(architecture: Architecture, scheme: Scheme) -> tuple[float, tuple[float, ...]]:
    by_layer = tuple(
        sum(scheme.bytes_of(tensor, index) for tensor in layer.tensors)
        for index, layer in enumerate(architecture.layers)
    )
    outside = (*architecture.first, *architecture.last, *architecture.tower)
    return sum(by_layer) + sum(scheme.bytes_of(tensor) for tensor in outside), by_layer


def _share(tensor: Tensor, tp: int, kv_heads: int) -> float:
    """The part of a tensor that one rank holds."""
    if tensor.split == "none":
        return 1.0
    if tensor.split == "kv heads":
        return 1 / min(tp, kv_heads)
    if tensor.split == "vocabulary":
        padded = math.ceil(tensor.rows / _VOCABULARY_PADDING) * _VOCABULARY_PADDING
        return math.ceil(padded / tp) / tensor.rows
    return math.ceil(tensor.rows / tp) / tensor.rows if tensor.rows >= tp else 1.0
