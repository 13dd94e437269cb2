"""What the driver says of a GPU."""

import re
from xml.etree import ElementTree

from citadel_llm.config.health import GpuLimits
from citadel_llm.health_checks.probes.commands import run
from citadel_llm.health_checks.probes.look import Probe
from citadel_llm.health_checks.states import Reading

NVIDIA_SMI = "/usr/bin/nvidia-smi"


def gpu(index: int, limits: GpuLimits, tool: str = NVIDIA_SMI) -> Probe:
    """A GPU answers, and has none of the faults from which it does not come back by itself."""

    async def probe() -> Reading:
        try:
            ended = await run([tool, "-q", "-x", f"--id={index}"], keep=1 << 20)
        except OSError as error:
            return Reading("failed", f"{tool} cannot be run: {error.strerror}")
        if ended.code != 0:
            return Reading("failed", ended.line or f"{tool} ended with code {ended.code}")
        return judge(ended.output, limits)

    return probe


def judge(output: str, limits: GpuLimits) -> Reading:
    """What `nvidia-smi -q -x` says of one GPU."""
    try:
        # Warnings may stand before it. It comes from root's own program.
        tree = ElementTree.fromstring(output[max(output.find("<?xml"), 0) :])  # noqa: S314
    except ElementTree.ParseError:
        return Reading("failed", "nvidia-smi's answer cannot be read")
    found = tree.find("gpu")
    if found is None or _number(found.findtext("fb_memory_usage/total")) is None:
        return Reading("failed", "the GPU does not answer")
    celsius = _number(found.findtext("temperature/gpu_temp"))
    errors = sum(
        _number(each.text) or 0 for each in found.iterfind("ecc_errors/volatile/*") if _is_lasting(each)
    )
    faults = [
        f"{errors:.0f} uncorrectable memory errors since it was reset" if errors else "",
        "no row is left to remap" if _says(found, "remapped_rows/remapped_row_failure") else "",
        f"{celsius:.0f} °C" if celsius is not None and celsius >= limits.fail_celsius else "",
    ]
    cares = [
        "rows are remapped at its next reset" if _says(found, "remapped_rows/remapped_row_pending") else "",
        "pages are retired at its next reset" if _says(found, "retired_pages/pending_retirement") else "",
        "slowed down by its heat or its power" if _slowed(found) else "",
    ]
    if any(faults):
        return Reading("failed", ", ".join(filter(None, [*faults, *cares])))
    if any(cares):
        return Reading("warning", ", ".join(filter(None, cares)))
    return Reading("ok", "well" if celsius is None else f"{celsius:.0f} °C")


def _is_lasting(counter: ElementTree.Element) -> bool:
    # dram_uncorrectable, sram_uncorrectable_parity, …; where a threshold is told, it is no count.
    return "uncorrectable" in counter.tag


def _slowed(found: ElementTree.Element) -> bool:
    """Whether the hardware itself has cut its clocks; drivers before 535 say throttle."""
    return any(
        _says(found, f"clocks_{kind}_reasons/clocks_{kind}_reason_hw_slowdown")
        for kind in ("event", "throttle")
    )


def _says(found: ElementTree.Element, path: str) -> bool:
    return found.findtext(path, "").strip() in {"Yes", "Active"}


def _number(text: str | None) -> float | None:
    match = re.match(r"\s*(\d+(?:\.\d+)?)", text or "")
    return float(match[1]) if match else None
