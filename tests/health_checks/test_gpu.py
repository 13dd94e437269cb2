"""GPUs, by what nvidia-smi says; the recordings are those of the roles' tests, where their origin is told.

What is left unproven: that a real GPU with a fault says so in these words. The program is a stand-in that
prints the recording, and refuses any other question than the probe's.
"""

import re
from pathlib import Path

import pytest

from citadel_llm.config.health import GpuLimits
from citadel_llm.health_checks import probes
from citadel_llm.health_checks.probes.gpu import judge

RECORDINGS = Path(__file__).parents[1] / "roles/recordings"
HEALTHY = (RECORDINGS / "driver-590-hgx/query.xml").read_text()
LAYOUTS = sorted(path.parent.name for path in RECORDINGS.glob("driver-*/query.xml"))


def changed(pattern: str, text: str) -> str:
    """The healthy recording with one thing in another state."""
    made = re.sub(pattern, text, HEALTHY, count=1)
    assert made != HEALTHY
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gpu_that_is_well(layout: str) -> None:
    reading = judge((RECORDINGS / layout / "query.xml").read_text(), GpuLimits())
    assert reading.verdict == "ok"
    assert reading.detail.endswith("°C")


@pytest.mark.parametrize(
    ("output", "verdict", "says"),
    [
        (changed("<dram_uncorrectable>N/A<", "<dram_uncorrectable>2<"), "failed", "2 uncorrectable"),
        (changed("<dram_correctable>N/A<", "<dram_correctable>2<"), "ok", "30"),
        (changed("<gpu_temp>30 C<", "<gpu_temp>97 C<"), "failed", "97 °C"),
        (
            changed(
                "<remapped_rows>N/A<",
                "<remapped_rows><remapped_row_failure>Yes</remapped_row_failure><",
            ),
            "failed",
            "no row is left",
        ),
        (
            changed(
                "<remapped_rows>N/A<",
                "<remapped_rows><remapped_row_pending>Yes</remapped_row_pending><",
            ),
            "warning",
            "next reset",
        ),
        (
            changed("hw_slowdown>Not Active<", "hw_slowdown>Active<"),
            "warning",
            "slowed down",
        ),
        (changed("<total>[^<]*<", "<total>GPU is lost<"), "failed", "does not answer"),
        (f"WARNING: infoROM is corrupted\n{HEALTHY}", "ok", "30"),
        ("<?xml version='1.0'?><nvidia_smi_log/>", "failed", "does not answer"),
        ("Segmentation fault", "failed", "cannot be read"),
    ],
)
def test_what_is_wrong(output: str, verdict: str, says: str) -> None:
    reading = judge(output, GpuLimits())
    assert reading.verdict == verdict
    assert says in reading.detail


async def test_the_tool_is_asked_for_one(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    assert (await probes.gpu(3, GpuLimits(), str(tool))()).verdict == "failed", "no driver"
    recording = RECORDINGS / "driver-590-hgx/query.xml"
    tool.write_text(f'#!/bin/sh\n[ "$*" = "-q -x --id=3" ] && exec cat {recording}\necho "$*"; exit 2\n')
    tool.chmod(0o755)
    assert (await probes.gpu(3, GpuLimits(), str(tool))()).verdict == "ok"
    lost = "Unable to determine the device handle for GPU0000:41:00.0: Unknown Error"
    tool.write_text(f"#!/bin/sh\necho '{lost}'; exit 15\n")
    reading = await probes.gpu(3, GpuLimits(), str(tool))()
    assert (reading.verdict, reading.detail) == ("failed", lost)
