"""A model's need of memory: architecture, weights, KV cache and overheads put together."""

from dataclasses import dataclass, replace
from typing import Literal

from citadel_llm.config.schema import Model

from .architecture import Architecture
from .architecture_reading import read_architecture
from .kv_cache import pools
from .numbers import Numbers
from .overheads import asleep, default_batch, overheads, tokens_in_flight
from .terms import Device, Layout, ModelMemory, PlacementError, RankNeed, Term
from .weights import Weights, stages, weights_of
from .weights_quantization import (
    AT_LOADING,
    DTYPE_BYTES,
    ONLY_AT_LOADING,
    OPTIONS,
    Scheme,
    method_of,
    method_of_config,
    plain,
    scheme_by_name,
    scheme_of_config,
)

# Tokens of a block that the attention backends of a build want: `get_supported_kernel_block_sizes` of vLLM
# 0.33.
_BLOCK_TOKENS = {"cuda": 16, "cpu": 128}
_LATENT_BLOCK_TOKENS = {"cuda": 128, "cpu": 16}


@dataclass(frozen=True)
class EngineMemory:
    """What one model's engine needs. See `terms.ModelMemory` for what each member gives.

    Attributes:
        name: The model's name in the catalogue.
        architecture: What the model is made of.
        weights: Its weights, as the engine holds them.
        dtype_bytes: Bytes of one number of its activations.
        kv_number_bytes: Bytes of one number of its KV cache.
        eager: Whether it runs without CUDA graphs.
        build: The build of vLLM that serves it.
    """

    name: str
    architecture: Architecture
    weights: Weights
    dtype_bytes: int
    kv_number_bytes: int
    eager: bool
    build: Literal["cuda", "cpu"]

    @property
    def parameters(self) -> int:
        """How many parameters it has."""
        return self.architecture.parameters

    @property
    def weight_bytes(self) -> int:
        """Its weights, each stored once, in bytes."""
        return self.weights.total

    @property
    def quantization(self) -> str:
        """How its weights are stored."""
        return self.weights.scheme.name

    @property
    def max_context(self) -> int:
        """The longest context that it was made for, in tokens."""
        return self.architecture.max_context

    def layouts(self, devices: int) -> tuple[Layout, ...]:
        """The layouts over exactly so many devices that its shape allows. To the CPU build, a host is one."""
        if self.build == "cpu" and devices > 1:
            return ()
        found = []
        for tensor in range(1, devices + 1):
            pipeline = devices // tensor
            if devices % tensor == 0 and self._splits(tensor) and pipeline <= len(self.architecture.layers):
                found.append(Layout(tensor, pipeline))
        return tuple(found)

    def on(self, layout: Layout, device: Device) -> tuple[RankNeed, ...]:
        """What each worker needs; worker `p * tensor_parallel + t` holds stage p's part t."""
        batch = default_batch(device, layout)
        dealt = stages(len(self.architecture.layers), layout.pipeline_parallel)
        latent = any(layer.mixer == "latent attention" for layer in self.architecture.layers)
        kept = pools(
            tuple(layer.cache for layer in self.architecture.layers),
            dealt,
            tensor_parallel=layout.tensor_parallel,
            block_tokens=(_LATENT_BLOCK_TOKENS if latent else _BLOCK_TOKENS)[device.kind],
            number_bytes=self.kv_number_bytes,
            model_bytes=self.dtype_bytes,
            in_flight=tokens_in_flight(batch, layout),
        )
        needs = []
        for stage, kv in enumerate(kept):
            terms = overheads(
                self.architecture, layout, device, self.dtype_bytes, stage=stage, eager=self.eager
            )
            stays = asleep(terms) if device.kind == "cuda" else ()
            need = RankNeed((self._weights_term(layout, stage, device), *terms), stays, kv)
            needs += [need] * layout.tensor_parallel
        return tuple(needs)

    def _weights_term(self, layout: Layout, stage: int, device: Device) -> Term:
        size = self.weights.on_rank(layout, stage)
        source = self.weights.source
        if layout.devices > 1:
            source += f", this worker's part of {layout.tensor_parallel} x {layout.pipeline_parallel}"
        absorbed = self.weights.absorbed_on_rank(layout, stage)
        if absorbed:
            source += "; with the matrices that latent attention makes of them"
        packed = self.weights.packed_tables() if device.kind == "cpu" else 0
        if packed:
            source += "; with the vocabulary's tables packed for the CPU, beside themselves"
        return Term("weights", size + absorbed + packed, source)

    def _splits(self, tensor_parallel: int) -> bool:
        whole = self.architecture
        heads, kv_heads = whole.heads, whole.kv_heads
        if heads % tensor_parallel:
            return False
        return kv_heads % tensor_parallel == 0 or tensor_parallel % kv_heads == 0


def memory_of(model: Model, numbers: Numbers, build: Literal["cuda", "cpu"], entry: str) -> ModelMemory:
    """What a model of the catalogue needs.

    Args:
        model: Its entry.
        numbers: What is known of its files.
        build: The build of vLLM that is to serve it.
        entry: How it is called in messages, such as `models[2]`.

    Raises:
        PlacementError: A number is missing or wrong, or a format is not known; the error names the entry.
    """
    known = numbers.weight_bytes is not None
    architecture = read_architecture(numbers.config, numbers.entry, weights_known=known)
    dtype = _engine_dtype(model, architecture)
    stored = scheme_of_config(numbers.config, dtype, numbers.entry)
    loaded = _loaded(model, numbers, stored, dtype, entry)
    weights = weights_of(
        architecture,
        numbers,
        loaded=loaded,
        stored=stored
        or (plain(dtype) if model.engine.quantization is None or _at_loading(model) else loaded),
    )
    if architecture.generic:
        weights = replace(
            weights, source=f"{weights.source}; its family is not known, its layers are guessed"
        )
    return EngineMemory(
        name=model.name,
        architecture=architecture,
        weights=weights,
        dtype_bytes=DTYPE_BYTES[dtype],
        kv_number_bytes=1 if model.engine.kv_cache_dtype == "fp8" else DTYPE_BYTES[dtype],
        eager=model.engine.enforce_eager,
        build=build,
    )


def _engine_dtype(model: Model, architecture: Architecture) -> str:
    """The type that the engine computes in: with `auto`, vLLM takes float32 models in half the size."""
    if model.engine.dtype != "auto":
        return model.engine.dtype
    return "bfloat16" if architecture.dtype == "float32" else architecture.dtype


def _at_loading(model: Model) -> bool:
    return method_of(model.engine.quantization or "") in AT_LOADING


def _loaded(model: Model, numbers: Numbers, stored: Scheme | None, dtype: str, entry: str) -> Scheme:
    wanted = model.engine.quantization
    where = f"{entry}.engine.quantization"
    if wanted is not None and wanted not in OPTIONS:
        message = f"is {wanted!r}, none of the formats that vLLM 0.33 takes by name and that are known here"
        raise PlacementError(where, message, f"use one of {', '.join(OPTIONS)}, or leave it out")
    if stored is None:
        return plain(dtype) if wanted is None else scheme_by_name(wanted, dtype, where)
    method = method_of_config(numbers.config)
    if wanted is not None and (method_of(wanted) != method or wanted in ONLY_AT_LOADING):
        raise PlacementError(
            where,
            f"is {wanted}, the model's own files are {method}",
            "leave it out, or take other files",
        )
    return stored


__all__ = ["EngineMemory", "memory_of"]
