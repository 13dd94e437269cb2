"""What a GPU's compute capability allows: number types and quantizations."""

import re
from dataclasses import dataclass

from citadel_llm.placement.terms import Device

Capability = tuple[int, int]

# NVIDIA, "CUDA GPU Compute Capability". For cards told by name only: the driver says it of real ones.
_BY_NAME: tuple[tuple[str, Capability], ...] = (
    (r"\b(B300|GB300)\b", (10, 3)),
    (r"\b(B100|B200|GB200)\b", (10, 0)),
    (r"\b(H100|H200|H800|H20|GH200)\b", (9, 0)),
    (r"RTX (PRO )?50[5-9]0|RTX PRO [2-6][05]00", (12, 0)),
    (r"RTX 40[5-9]0|\b(L4|L40S?)\b|RTX [2-6][05]00 Ada", (8, 9)),
    (r"RTX 30[5-9]0|\b(A2|A10|A16|A40)\b|RTX A[2-6][05]00", (8, 6)),
    (r"\b(A100|A30|A800)\b", (8, 0)),
    (r"RTX 20[6-8]0|GTX 16[5-6]0|\bT4\b|Quadro RTX", (7, 5)),
    (r"\bV100\b|Titan V", (7, 0)),
    (r"GTX 10[5-8]0|\b(P4|P40)\b", (6, 1)),
    (r"\bP100\b", (6, 0)),
)

# vLLM's documentation, "Quantization" (table of supported hardware) and "FP8 W8A8"; bfloat16: CUDA C++
# Programming Guide, "Features and Technical Specifications". The least capability for each.
LEAST: dict[str, Capability] = {
    "bf16": (8, 0),
    "awq": (7, 5),
    "gptq": (7, 5),
    "fp8": (7, 5),
    "int8": (7, 5),
    # vLLM 0.33, quantization/mxfp4.py, get_min_capability.
    "mxfp4": (8, 0),
}
# Below this, fp8 weights are multiplied in 16 bits: they save memory and not time.
FP8_HARDWARE: Capability = (8, 9)
# vLLM's documentation, "GPU", its requirements for NVIDIA CUDA.
LEAST_OF_ALL: Capability = (7, 5)
# vLLM 0.33, config/model.py, _FLOAT16_NOT_SUPPORTED_MODELS: numerically unstable in it.
_NO_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4"})
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True)
class Verdict:
    """What a GPU makes of a model's number types: refused with a reason and a remedy, or with a warning."""

    refused: str = ""
    remedy: str = ""
    warning: str = ""


def capability_of(name: str) -> Capability | None:
    """The compute capability of a card by its name, when it is a known one."""
    return next((value for pattern, value in _BY_NAME if re.search(pattern, name, re.IGNORECASE)), None)


def judge(
    device: Device, quantization: str, dtype: str, kv_cache_dtype: str, model_type: str = ""
) -> Verdict:
    """Whether a GPU can compute with a model as it is stored.

    Args:
        device: The GPU; one of unknown capability is not judged.
        quantization: How the weights are stored, such as bf16, fp8, awq.
        dtype: `engine.dtype`, which wins over what unquantized weights are stored in.
        kv_cache_dtype: `engine.kv_cache_dtype`.
        model_type: The model's own type, as its config.json says.
    """
    capability = device.compute_capability
    if capability is None:
        return Verdict()
    stored = quantization.lower()
    if stored in ("bf16", "fp16", "fp32"):
        stored = _DTYPES.get(dtype, stored)
    word = f"compute capability {capability[0]}.{capability[1]} of {device.name}"
    warning = ""
    if capability < LEAST["bf16"] and dtype != "float32":
        if model_type in _NO_FLOAT16:
            return Verdict(
                f"{model_type} is not computed in float16, and bf16 needs 8.0, above the {word}",
                "it wants a GPU of 8.0 or newer",
            )
        if dtype == "bfloat16":
            stored = "bf16"
        elif stored == "bf16":
            # With `auto`, vLLM 0.33 takes what there is (config/model.py, _resolve_auto_dtype).
            stored = "fp16"
            warning = f"computed in float16 instead of bf16, which the {word} has not (8.0 has)"
    family = next((name for name in LEAST if stored.startswith(name)), stored)
    least = max(LEAST.get(family, LEAST_OF_ALL), LEAST_OF_ALL)
    if capability < least:
        remedy = "engine.dtype: float16 would do" if family == "bf16" and capability >= LEAST_OF_ALL else ""
        remedy = remedy or f"it wants a GPU of {least[0]}.{least[1]} or newer"
        return Verdict(f"{stored} needs {least[0]}.{least[1]}, above the {word}", remedy)
    if not warning and family == "fp8" and capability < FP8_HARDWARE:
        warning = f"fp8 saves memory here, not time: the {word} has no fp8 arithmetic (8.9 has)"
    elif not warning and kv_cache_dtype == "fp8" and capability < FP8_HARDWARE:
        warning = f"an fp8 KV cache may be slower here: the {word} has no fp8 arithmetic (8.9 has)"
    return Verdict(warning=warning)
