"""What an engine takes besides weights and KV cache, term by term, each with its source.

Estimates, on the safe side: vLLM measures the true figures when it starts, and calibration replaces these
by them.
"""

import math
from dataclasses import dataclass

from .architecture import Architecture
from .terms import GIB, MIB, Device, Layout, Term

_LARGE_GPU = 70 * GIB
_LARGEST_GPU = 160 * GIB
# The stream, its normalized copy, the attention's output and the feed-forward network's.
_STREAM_COPIES = 4
# Gate, up, and their product.
_FORWARD_COPIES = 3
# The logits in float32, and what sampling makes of them.
_LOGIT_COPIES = 3
_WORKSPACE = 128 * MIB
_GRAPH_BASE = 64 * MIB
_GRAPH_LAYER = 16 * MIB
_OUTSIDE_ONE_GPU = int(0.27 * GIB)
_OUTSIDE_TENSOR_PARALLEL = int(2.1 * GIB)
_PIPELINE = int(0.07 * GIB)
_CUDA_CONTEXT = int(0.5 * GIB)
_CPU_PROCESSES = int(1.8 * GIB)


@dataclass(frozen=True)
class Batch:
    """How much an engine does at once when nothing else is said.

    Attributes:
        tokens: `max_num_batched_tokens`.
        sequences: `max_num_seqs`.
    """

    tokens: int
    sequences: int


def default_batch(device: Device, layout: Layout) -> Batch:
    """What vLLM 0.33 takes for its API server (`engine/arg_utils.py`, get_batch_defaults)."""
    if device.kind == "cpu":
        return Batch(2048 * layout.devices, 128 * layout.devices)
    # The driver counts a card's memory a little below its name: 141 GB are 139.8 GiB.
    if device.memory >= _LARGEST_GPU:
        return Batch(16384, 1024)
    slow = "a100" in device.name.lower() or device.compute_capability == (12, 1)
    if device.memory >= _LARGE_GPU and not slow:
        return Batch(8192, 1024)
    return Batch(2048, 256)


def tokens_in_flight(batch: Batch, layout: Layout) -> int:
    """Tokens scheduled and not yet settled: a batch for each stage and one more (`config/vllm.py`)."""
    return (layout.pipeline_parallel + 1) * batch.tokens


def cuda_overheads(
    architecture: Architecture, layout: Layout, batch: Batch, dtype_bytes: int, *, eager: bool
) -> tuple[Term, ...]:
    """What one worker takes on a GPU: activation, CUDA graphs, communication, runtime."""
    terms = [_activation(architecture, layout, batch, dtype_bytes)]
    if not eager and architecture.keeps_cache:
        terms.append(_graphs(architecture, layout))
    if layout.devices > 1:
        terms.append(_communication(layout))
    terms.append(_runtime(layout))
    return tuple(terms)


def cuda_asleep(layout: Layout, graphs: Term | None) -> tuple[Term, ...]:
    """What stays on the GPU at vLLM's sleep level 1, which frees weights and KV cache alone."""
    terms = [_runtime(layout)]
    if graphs is not None:
        terms.append(graphs)
    if layout.devices > 1:
        terms.append(_communication(layout))
    return tuple(terms)


def cpu_overheads(
    architecture: Architecture, layout: Layout, batch: Batch, dtype_bytes: int
) -> tuple[Term, ...]:
    """What an engine of the CPU build takes besides weights and KV cache."""
    activation = _activation(architecture, layout, batch, dtype_bytes)
    return (activation, _cpu_runtime())


def _activation(architecture: Architecture, layout: Layout, batch: Batch, dtype_bytes: int) -> Term:
    """What is alive at the peak of the largest batch: one layer's inside, and the logits when sampling."""
    tp = layout.tensor_parallel
    token: float = _STREAM_COPIES * architecture.hidden
    token += architecture.attention_width / tp
    token += _FORWARD_COPIES * architecture.widest / tp
    token += architecture.experts_per_token * architecture.hidden
    inside = batch.tokens * token * dtype_bytes
    logits = 0
    if architecture.keeps_cache:
        logits = batch.sequences * architecture.vocabulary * (dtype_bytes + _LOGIT_COPIES * 4)
    source = (
        f"{batch.tokens} tokens through the widest layer and {batch.sequences} requests' logits over a "
        f"vocabulary of {architecture.vocabulary}"
    )
    return Term("activation", math.ceil(inside + logits) + _WORKSPACE, source)


def _graphs(architecture: Architecture, layout: Layout) -> Term:
    layers = math.ceil(len(architecture.layers) / layout.pipeline_parallel)
    size = _GRAPH_BASE + layers * _GRAPH_LAYER
    return Term(
        "CUDA graphs", size, f"{layers} layers, as measured by vLLM's users for models of known depth"
    )


def _communication(layout: Layout) -> Term:
    if layout.tensor_parallel > 1:
        size = _OUTSIDE_TENSOR_PARALLEL - _OUTSIDE_ONE_GPU
        return Term(
            "communication", size, "NCCL's buffers, tensor parallel: llm-d's planner, measured on H100"
        )
    return Term(
        "communication", _PIPELINE, "NCCL's buffers, pipeline parallel: llm-d's planner, measured on H100"
    )


def _runtime(_: Layout) -> Term:
    size = _CUDA_CONTEXT + _OUTSIDE_ONE_GPU
    return Term("runtime", size, "CUDA's context and its libraries: outside PyTorch's allocator")


def _cpu_runtime() -> Term:
    return Term("runtime", _CPU_PROCESSES, "the engine's three processes, measured with SmolLM2-135M")
