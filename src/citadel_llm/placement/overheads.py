"""What an engine takes besides weights and KV cache, term by term, each with its source.

Estimates, on the safe side: what an engine really took, its host keeps for the next plan (`calibration`).
Where they come from, and how they stand beside what others measured: docs/placement-arithmetic.md.
"""

import math
from dataclasses import dataclass

from .architecture import Architecture
from .terms import GIB, MIB, Device, Layout, Term

# vLLM 0.33, engine/arg_utils.py, get_batch_defaults.
_LARGE_GPU = 70 * GIB
_LARGEST_GPU = 160 * GIB
_DGX_SPARK = (12, 1)

# Activation. Measured by llm-d's planner with vLLM 0.19 on H100, divided by requests x vocabulary x 4
# bytes: 3.9 for Llama, Qwen 2 and 3, 3.7 to 3.9 for Gemma, 4.0 for Phi-4: four times the logits in float32,
# and once as they come.
_LOGIT_COPIES = 4
# Inside a layer: the stream, its normalized copy, the attention's output and the feed-forward network's;
_STREAM_COPIES = 4
# gate, up, and their product;
_FORWARD_COPIES = 3
# and what PyTorch's allocator rounds up: so that Mixtral comes out at no less than measured.
_ALLOCATOR = 1.25
# What goes on from the last layer to the logits: its output, normalized and not.
_KEPT_COPIES = 2
_WORKSPACE = 128 * MIB
# VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE; FlashInfer is the first choice on compute capability 10 alone.
_FLASHINFER_WORKSPACE = 394 * MIB
_FLASHINFER_MAJOR = 10

# CUDA graphs. Measured on H100 with vLLM 0.11: 0.6 GiB for Llama 70B (80 layers), 0.1 for Qwen3-0.6B (28),
# 0.4 for gpt-oss-20b (24 layers of experts), 1.0 for gpt-oss-120b (36); with 0.27, 0.7 for a Qwen 3.5 of
# experts.
_GRAPHS = 128 * MIB
_GRAPHS_OF_LAYER = 12 * MIB
_GRAPHS_OF_EXPERTS = 256 * MIB
_GRAPHS_OF_EXPERT_LAYER = 24 * MIB

# CUDA's context: an H100 of 79.18 GiB has 78.57 free when vLLM looks first.
_CONTEXT = int(0.61 * GIB)
# Outside PyTorch's allocator, by llm-d's planner: with one GPU, with tensor parallel, with pipeline
# parallel.
_OUTSIDE = int(0.27 * GIB)
_OUTSIDE_TENSOR = int(2.1 * GIB)
_OUTSIDE_PIPELINE = int(0.07 * GIB)
# What NCCL may take for sending and receiving between two GPUs: 32 channels of 4 MiB each way
# (NCCL_BUFFSIZE, NCCL_MAX_NCHANNELS). llm-d's figure for pipeline parallel leaves out what is taken before
# vLLM looks first.
_NCCL = 2 * 32 * 4 * MIB

# The CPU build with SmolLM2-135M and 1 GiB of KV cache: API server 0.7 GB, core 0.6, worker 2.1. What the
# worker has without its cache, its weights and their packed table is PyTorch and vLLM themselves.
_CPU_API = int(0.7e9)
_CPU_CORE = int(0.6e9)
_CPU_WORKER = int(2.1e9) - 1 * GIB - 269_030_016 - 49_152 * 576 * 2


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
    """What vLLM 0.33 takes for its API server, by the device's memory."""
    if device.kind == "cpu":
        return Batch(2048 * layout.devices, 128 * layout.devices)
    if device.memory >= _LARGEST_GPU:
        return Batch(16384, 1024)
    slow = "a100" in device.name.lower() or device.compute_capability == _DGX_SPARK
    if device.memory >= _LARGE_GPU and not slow:
        return Batch(8192, 1024)
    return Batch(2048, 256)


def tokens_in_flight(batch: Batch, layout: Layout) -> int:
    """Tokens scheduled and not yet settled: a batch for each stage and one more (`config/vllm.py`)."""
    return (layout.pipeline_parallel + 1) * batch.tokens


def overheads(
    architecture: Architecture, layout: Layout, device: Device, dtype_bytes: int, *, stage: int, eager: bool
) -> tuple[Term, ...]:
    """What one worker of a stage takes besides weights and KV cache, when awake."""
    last = stage == layout.pipeline_parallel - 1
    terms = [_activation(architecture, layout, device, dtype_bytes, last=last)]
    if device.kind == "cpu":
        return (*terms, _cpu_runtime(layout))
    if not eager and architecture.keeps_cache:
        terms.append(_graphs(architecture, layout))
    if layout.devices > 1:
        terms.append(_communication(layout))
    return (*terms, _runtime())


def asleep(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """What of that stays on a GPU at vLLM's sleep level 1, which frees weights and KV cache, and activations.

    A model of 0.67 GiB held 1.27 GiB asleep on an H100 (llm-d-fast-model-actuation#746), Qwen3 30B over four
    RTX 3090 1.14 GB on each (vllm#32714), Kimi K2 over eight GB200 7 GB on each (vllm#47654); graphs stay
    (vllm#56373).
    """
    return tuple(term for term in terms if term.name in {"CUDA graphs", "communication", "runtime"})


def _activation(
    architecture: Architecture, layout: Layout, device: Device, dtype_bytes: int, *, last: bool
) -> Term:
    """The peak of the largest batch: inside the widest layer, or when sampling, for they do not coincide."""
    batch = default_batch(device, layout)
    tp = layout.tensor_parallel
    token = (
        _STREAM_COPIES * architecture.hidden
        + architecture.attention_width / tp
        + _FORWARD_COPIES * architecture.widest / tp
        + architecture.experts_per_token * architecture.hidden
    )
    inside = batch.tokens * token * dtype_bytes * _ALLOCATOR
    # Only the last stage of pipeline parallelism samples; with tensor parallelism each rank gets all logits.
    samples = last and architecture.keeps_cache
    logits = batch.sequences * architecture.vocabulary * (dtype_bytes + _LOGIT_COPIES * 4) if samples else 0
    kept = batch.tokens * _KEPT_COPIES * architecture.hidden * dtype_bytes
    workspace = _WORKSPACE
    if device.compute_capability is not None and device.compute_capability[0] == _FLASHINFER_MAJOR:
        workspace += _FLASHINFER_WORKSPACE
    if logits > inside:
        peak = f"the logits of {batch.sequences} requests over {architecture.vocabulary} tokens"
    else:
        peak = f"{batch.tokens} tokens inside the widest layer"
    return Term(
        "activation",
        math.ceil(max(inside, logits) + kept) + workspace,
        f"{peak}, at vLLM 0.33's defaults for this device; calibrated on llm-d's measurements",
    )


def _graphs(architecture: Architecture, layout: Layout) -> Term:
    layers = math.ceil(len(architecture.layers) / layout.pipeline_parallel)
    if architecture.has_experts:
        size = _GRAPHS_OF_EXPERTS + layers * _GRAPHS_OF_EXPERT_LAYER
    else:
        size = _GRAPHS + layers * _GRAPHS_OF_LAYER
    kind = "layers of experts" if architecture.has_experts else "layers"
    return Term("CUDA graphs", size, f"{layers} {kind}: above what llm-d measured for models of known depth")


def _communication(layout: Layout) -> Term:
    if layout.tensor_parallel > 1:
        source = "tensor parallel: 2.1 GiB outside PyTorch where one GPU has 0.27, by llm-d's planner on H100"
        return Term("communication", _OUTSIDE_TENSOR - _OUTSIDE, source)
    source = (
        "pipeline parallel: 0.07 GiB by llm-d's planner, and NCCL's buffers, 32 channels of 4 MiB each way"
    )
    return Term("communication", _OUTSIDE_PIPELINE + _NCCL, source)


def _runtime() -> Term:
    source = "CUDA's context, 0.61 GiB on H100, and 0.27 GiB outside PyTorch's allocator, by llm-d's planner"
    return Term("runtime", _CONTEXT + _OUTSIDE, source)


def _cpu_runtime(layout: Layout) -> Term:
    """A worker's own, and its share of the two processes that an engine has once."""
    size = _CPU_WORKER + math.ceil((_CPU_API + _CPU_CORE) / layout.devices)
    return Term(
        "runtime", size, "API server, core and worker of vLLM 0.32 for CPUs, measured with SmolLM2-135M"
    )
