"""The lines are vLLM's own: of 0.32 on a lab host (CPU), and of 0.33's source for what only GPUs write.

What the latter leave unproven: that a GPU's engine still writes them so.
"""

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from citadel_llm.services.engine.measured import StartLog, in_host_memory, on_gpus, parse_rows

GIB = 1024**3
CPU = (
    "Initializing a V1 LLM engine (v0.32.0) with config: model='/models/m', speculative_config=None",
    "Loading weights took 1.08 seconds",
    "CPU KV cache size: 46,592 tokens, Maximum concurrency for 2,048 tokens per request: 22.75x",
)
GPU = (
    "Initializing a V1 LLM engine (v0.33.0) with config: model='/models/m'",
    "Model loading took 7.12 GiB memory and 3.402311 seconds",
    "Model loading took 7.40 GiB memory and 3.402311 seconds",
    "GPU KV cache size: 13,120 tokens, Maximum concurrency for 4,096 tokens per request: 3.20x",
    "GPU KV cache size: 13,000 tokens, Maximum concurrency for 4,096 tokens per request: 3.17x",
    "Graph capturing finished in 12 secs, took 0.31 GiB",
)


def taken(lines: tuple[str, ...]) -> StartLog:
    log = StartLog()
    for line in lines:
        log.take(line)
    return log


def test_a_start_on_the_cpu() -> None:
    log = taken(CPU)
    assert (log.version, log.kv_cache_tokens) == ("0.32.0", 46592)
    assert log.weights is None
    assert log.cuda_graphs is None


def test_a_start_on_gpus_by_the_worker_that_took_the_most() -> None:
    log = taken(GPU)
    assert (log.version, log.kv_cache_tokens) == ("0.33.0", 13000)
    # Two digits are written: what they hide counts as there.
    assert log.weights == pytest.approx(7.405 * GIB, abs=1)
    assert log.cuda_graphs == pytest.approx(0.315 * GIB, abs=1)


def test_memory_that_is_shared_is_not_counted_twice() -> None:
    me = psutil.Process(os.getpid())
    held = in_host_memory([me])
    assert held is not None
    assert 0 < held <= me.memory_info().rss


def test_processes_that_are_gone_have_no_sum() -> None:
    class Gone(psutil.Process):
        def memory_full_info(self) -> Any:
            raise psutil.NoSuchProcess(self.pid)

    assert in_host_memory([Gone(os.getpid())]) is None


def test_rows_of_the_drivers_tool() -> None:
    assert parse_rows("GPU-1, NVIDIA GeForce RTX 5060 Ti\n\n") == [["GPU-1", "NVIDIA GeForce RTX 5060 Ti"]]


SMI = """\
#!/bin/sh
case "$1" in
    --query-gpu=*) printf 'GPU-1, NVIDIA L4\\nGPU-2, NVIDIA L40S\\n' ;;
    *) printf '%s' '{used}' ;;
esac
"""


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ("GPU-1, 7, 100\nGPU-2, 8, 300\nGPU-2, 9, 9000\n", ("NVIDIA L40S", 300 * 1024**2)),
        ("GPU-1, 7, 100\nGPU-1, 8, 50\nGPU-2, 8, 120\n", ("NVIDIA L4", 150 * 1024**2)),
        ("GPU-1, 9, 100\n", None),
        ("GPU-1, 7, [N/A]\n", None),
        ("No running processes found\n", None),
    ],
)
async def test_what_processes_hold_on_gpus(
    used: str, expected: tuple[str, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(SMI.replace("{used}", used))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert await on_gpus({7, 8}) == expected


async def test_without_the_drivers_tool_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert await on_gpus({7}) is None
