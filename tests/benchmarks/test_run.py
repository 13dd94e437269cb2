"""The benchmark with all that it starts: that each contender does the work, and that nothing stays."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from bench import peers
from bench.figures import DIRECT, WORKERS
from bench.measures import Plan
from bench.runner import Bench, raise_limits

pytestmark = pytest.mark.lab
TINY = Plan(rounds=1, warm=0.1, requests=0.2, back_to_back=1, paced=0.3, latency=0.3, streams=20)
PROJECT = Path(__file__).parents[2]


def test_a_tiny_round_measures_every_contender() -> None:
    raise_limits()
    said: list[str] = []
    bench = Bench(TINY, peers.get(said.append), set(), said.append)
    run = asyncio.run(bench.go())
    assert run.left_out == {}, "\n".join(said)
    assert run.errors == {}
    names = {"citadel", "nginx", "HAProxy", "sglang-router", "vllm-router", "FastAPI with httpx"}
    assert set(run.figures) == {DIRECT, *names, *WORKERS.values()}
    for name in names:
        assert run.figures[name]["requests 0.7 KB"]["cpu"][0] > 0
        assert run.figures[name]["events back to back"]["cpu"][0] > 0
        assert run.figures[name]["memory"]["streams"] == [20]
    for name in WORKERS.values():
        assert run.figures[name]["workers"]["cpu"][0] > 0
    assert psutil.Process().children(recursive=True) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_it(how: signal.Signals) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--only", "citadel", "--only", "nginx"]
    with (
        # What is killed cannot remove its files.
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as bench,
    ):
        assert bench.stderr
        while b"warming up" not in bench.stderr.readline():
            assert bench.poll() is None
        started = psutil.Process(bench.pid).children(recursive=True)
        assert len(started) >= 4  # the stub, the gateway, nginx and its worker
        bench.send_signal(how)
        bench.stderr.read()
        assert bench.wait(timeout=20) in (130, -signal.SIGKILL)
    end = time.monotonic() + 20
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in started):
        assert time.monotonic() < end, "something stayed"
        time.sleep(0.05)
