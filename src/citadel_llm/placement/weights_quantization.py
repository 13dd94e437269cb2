"""How weights are stored: which of them are quantized, and what one of them then takes."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .architecture import Role, Tensor
from .terms import PlacementError

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_LINEAR: frozenset[Role] = frozenset({"attention", "feed-forward", "experts", "state space"})
_HEAD: frozenset[Role] = frozenset({"head"})
# Where a module stands in published checkpoints, for the lists of modules that are not quantized.
_PATHS: dict[Role, str] = {
    "attention": "self_attn",
    "feed-forward": "mlp",
    "experts": "mlp",
    "state space": "mamba",
}
# Other names of the same formats in vLLM 0.33 (model_executor/layers/quantization/__init__.py).
_ALIASES = {
    "awq_marlin": "awq",
    "auto_awq": "awq",
    "gptq_marlin": "gptq",
    "auto_gptq": "gptq",
    "auto-round": "gptq",
    "fp8_per_tensor": "fp8",
    "fp8_per_block": "fp8",
    "gpt_oss_mxfp4": "mxfp4",
    "modelopt_fp4": "modelopt",
}
# Formats that are published and that vLLM 0.33 refuses to load (the same file; config/model.py,
# _verify_quantization).
_REFUSED = ("bitsandbytes", "fbgemm_fp8", "fp_quant", "gguf")
# What vLLM can make of unquantized files while loading them.
AT_LOADING = ("fp8",)
# Names of vLLM 0.33's option for this alone: beside files that are fp8 already they contradict them.
ONLY_AT_LOADING = ("fp8_per_tensor", "fp8_per_block")
# All names of vLLM 0.33's option for the formats that are known here.
OPTIONS = (
    *("awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "fp8", *ONLY_AT_LOADING),
    *("compressed-tensors", "modelopt", "modelopt_fp4", "mxfp4", "gpt_oss_mxfp4"),
)


@dataclass(frozen=True)
class Scheme:
    """A format of weights.

    Attributes:
        name: Such as bf16, fp8, awq, gptq.
        dtype_bytes: Bytes of a number that is not quantized, and of a scale unless said otherwise.
        bits: Bits of a quantized number; 0 when nothing is quantized.
        group: Inputs that share a scale; 0 for one scale for each output, -1 for one for the whole matrix.
        block_rows: Outputs that share a scale where scales stand for blocks; else 1.
        scale_bytes: Bytes of a scale.
        zeros: Whether each scale has a zero point of `bits`.
        index: Whether each input has a 4-byte index of its group (GPTQ).
        padding: To multiples of what vLLM pads stream and inner width of quantized matrices on the device.
        roles: Which tensors are quantized.
        skipped: Names or patterns (`re:`) of modules that are not.
    """

    name: str
    dtype_bytes: int
    bits: int = 0
    group: int = 0
    block_rows: int = 1
    scale_bytes: float = 2
    zeros: bool = False
    index: bool = False
    padding: tuple[int, int] = (1, 1)
    roles: frozenset[Role] = _LINEAR
    skipped: tuple[str, ...] = ()

    def quantizes(self, tensor: Tensor, layer: int | None = None) -> bool:
        """Whether it applies to a tensor."""
        if not self.bits or tensor.role not in self.roles:
            return False
        if tensor.role == "head":
            return True
        place = _PATHS.get(tensor.role, "")
        path = f"model.layers.{layer}.{place}.{tensor.name}"
        return not any(_matches(pattern, path) for pattern in self.skipped)

    def bytes_of(self, tensor: Tensor, layer: int | None = None) -> float:
        """What a tensor takes, all its copies together."""
        if not self.quantizes(tensor, layer):
            return tensor.elements * self.dtype_bytes
        rows, columns = tensor.rows, tensor.columns
        if self.group > 0:
            scales = math.ceil(rows / self.block_rows) * math.ceil(columns / self.group)
        else:
            scales = rows if self.group == 0 else 1
        each = rows * columns * self.bits / 8 + scales * self.scale_bytes
        if self.zeros:
            each += scales * self.bits / 8
        if self.index:
            each += columns * 4
        return each * tensor.count

    def held(self, tensor: Tensor, hidden: int, layer: int | None = None) -> float:
        """How many times its stored size a tensor takes on the device, where it is padded."""
        if self.padding == (1, 1) or not self.quantizes(tensor, layer):
            return 1.0
        wide = tensor.columns if tensor.rows == hidden else tensor.rows
        return math.prod(
            math.ceil(side / multiple) * multiple / side
            for side, multiple in zip((hidden, wide), self.padding, strict=True)
        )


def plain(dtype: str) -> Scheme:
    """Weights that are not quantized."""
    return Scheme(_SHORT[dtype], DTYPE_BYTES[dtype])


def scheme_of_config(config: Mapping[str, Any], dtype: str, entry: str) -> Scheme | None:
    """The format that config.json's `quantization_config` (or `compression_config`) describes; none without.

    Raises:
        PlacementError: It is not one that is known.
    """
    found = _described_in(config)
    if found is None:
        return None
    key, described = found
    if not isinstance(described, Mapping):
        message = f"must be an object, not {described!r}"
        raise PlacementError(f"{entry}.{key}", message, "take it from config.json")
    return _scheme(described, dtype, f"{entry}.{key}")


def _described_in(config: Mapping[str, Any]) -> tuple[str, Any] | None:
    """What config.json says of the format, and under which key."""
    for owner in (config, config.get("text_config")):
        for key in ("quantization_config", "compression_config"):
            if isinstance(owner, Mapping) and owner.get(key) is not None:
                return key, owner[key]
    return None


def scheme_by_name(name: str, dtype: str, entry: str) -> Scheme:
    """The format that vLLM's option names, with the settings that such weights mostly have.

    Raises:
        PlacementError: It is not one that is known.
    """
    method = method_of(name)
    usual: dict[str, Mapping[str, Any]] = {
        "awq": {"bits": 4, "group_size": 128, "zero_point": True},
        "gptq": {"bits": 4, "group_size": 128},
    }
    return _scheme({"quant_method": method, **usual.get(method, {})}, dtype, entry)


def method_of_config(config: Mapping[str, Any]) -> str | None:
    """The format's own name in config.json; none without one."""
    _, described = _described_in(config) or ("", None)
    return method_of(str(described.get("quant_method", ""))) if isinstance(described, Mapping) else None


def method_of(name: str) -> str:
    """The format's own name for a name of vLLM's option."""
    return _ALIASES.get(name, name)


@dataclass(frozen=True)
class _Described:
    """What config.json says of a format, as the builders below need it."""

    method: str
    keys: Mapping[str, Any]
    size: int
    skipped: tuple[str, ...]
    entry: str

    def number(self, key: str, default: int, *, old_key: str = "") -> int:
        value = self.keys.get(key, self.keys.get(old_key, default))
        if type(value) is not int or (value < 1 and not (key == "group_size" and value == -1)):
            raise PlacementError(
                f"{self.entry}.{key}",
                f"must be a whole number above 0, not {value!r}",
                "take it from config.json",
            )
        return value


def _scheme(described: Mapping[str, Any], dtype: str, entry: str) -> Scheme:
    method = method_of(str(described.get("quant_method", "")))
    builder = _BUILDERS.get(method)
    if method in _REFUSED:
        raise PlacementError(
            entry,
            f"is {method!r}, a format that vLLM 0.33 does not load",
            f"take another build of the model ({', '.join(_BUILDERS)}), or its unquantized files",
        )
    if builder is None:
        raise PlacementError(
            entry,
            f"is {method!r}, a format of weights that is not known",
            f"use one of {', '.join(_BUILDERS)}, or set weight_bytes and leave it out",
        )
    return builder(_Described(method, described, DTYPE_BYTES[dtype], _skipped(described), entry))


def _packed(told: _Described) -> Scheme:
    """AWQ and GPTQ: whole numbers of few bits, packed in int32."""
    group = told.number("group_size", 128, old_key="q_group_size")
    roles: frozenset[Role] = _LINEAR | _HEAD if told.keys.get("lm_head") is True else _LINEAR
    bits = told.number("bits", 4, old_key="w_bit")
    index = told.method == "gptq"
    return Scheme(
        told.method,
        told.size,
        bits,
        max(group, 0),
        zeros=True,
        index=index,
        roles=roles,
        skipped=told.skipped,
    )


def _fp8(told: _Described) -> Scheme:
    """One float32 scale for a matrix, or for each block of it."""
    block = told.keys.get("weight_block_size")
    if block is None:
        return Scheme("fp8", told.size, 8, -1, scale_bytes=4, skipped=told.skipped)
    match block:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return Scheme("fp8", told.size, 8, columns, rows, scale_bytes=4, skipped=told.skipped)
    raise PlacementError(
        f"{told.entry}.weight_block_size",
        f"must be two whole numbers above 0, not {block!r}",
        "such as [128, 128], as config.json says",
    )


def _mxfp4(told: _Described) -> Scheme:
    """The experts of gpt-oss: 4-bit floats, one exponent of a byte for 32 of them (OCP MX).

    vLLM 0.33 pads them (layers/fused_moe/oracle/mxfp4.py, mxfp4_round_up_hidden_size_and_intermediate_size).
    """
    experts: frozenset[Role] = frozenset({"experts"})
    return Scheme(
        "mxfp4", told.size, 4, 32, scale_bytes=1, padding=(256, 128), roles=experts, skipped=told.skipped
    )


def _modelopt(told: _Described) -> Scheme:
    """NVIDIA's tool: fp8, or 4-bit floats with an fp8 scale for 16 of them."""
    if "FP4" in str(told.keys.get("quant_algo", "FP4")):
        return Scheme("nvfp4", told.size, 4, 16, scale_bytes=1, skipped=told.skipped)
    return Scheme("fp8", told.size, 8, -1, scale_bytes=4, skipped=told.skipped)


def _compressed(told: _Described) -> Scheme:
    """What llm-compressor writes, by the first group of its scheme; mixed ones are read from the files."""
    groups = told.keys.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        raise PlacementError(
            f"{told.entry}.config_groups",
            f"must describe the weights, not {groups!r}",
            "take it from config.json",
        )
    inner = replace(told, keys=weights, entry=f"{told.entry}.config_groups.weights")
    bits = inner.number("num_bits", 8)
    zeros = weights.get("symmetric") is False
    strategy = str(weights.get("strategy") or ("group" if weights.get("group_size") else "tensor"))
    if strategy == "block":
        return replace(
            _fp8(replace(inner, keys={"weight_block_size": weights.get("block_structure")})), bits=bits
        )
    group = {"tensor": -1, "channel": 0}.get(strategy)
    if group is None:
        group = inner.number("group_size", 128)
    # 4-bit floats have fp8 scales, all else the model's own type.
    scale = 1 if bits == 4 and weights.get("type") == "float" else told.size  # noqa: PLR2004 - bits
    return Scheme("compressed-tensors", told.size, bits, group, 1, scale, zeros, skipped=told.skipped)


_BUILDERS: dict[str, Callable[[_Described], Scheme]] = {
    "awq": _packed,
    "gptq": _packed,
    "fp8": _fp8,
    "compressed-tensors": _compressed,
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
}


def _skipped(described: Mapping[str, Any]) -> tuple[str, ...]:
    for key in (
        "modules_to_not_convert",
        "ignore",
        "ignored_layers",
        "llm_int8_skip_modules",
        "exclude_modules",
    ):
        value = described.get(key)
        if isinstance(value, list | tuple):
            return tuple(str(name) for name in value)
    return ()


def _matches(pattern: str, path: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], path) is not None
        except re.error:
            return False
    if "*" in pattern:
        return re.search(re.escape(pattern).replace(r"\*", ".*"), path) is not None
    return path == pattern or path.endswith(f".{pattern}") or f"{pattern}." in f"{path}."
