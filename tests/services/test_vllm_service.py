"""The whole service as a process of its own, over a stand-in for vLLM (see fake_vllm.py)."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import yaml

from citadel_llm.placement.calibration import Measurement
from citadel_llm.services.engine import accepted
from citadel_llm.services.engine.start_lock import lock_files, start_lock

from .notify_socket import NotifySocket

FAKE = Path(__file__).parent / "fake_vllm.py"


class Host:
    """A host with a catalogue, and its engines' supervisors as processes."""

    def __init__(self, folder: Path, notify: NotifySocket) -> None:
        self.folder = folder
        self.notify = notify
        self._models: list[dict[str, Any]] = []
        self._started: list[subprocess.Popen[str]] = []
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
        python.chmod(0o755)

    def add(
        self,
        name: str = "m",
        *,
        fake: str = "",
        weights: bool = True,
        task: str = "generate",
        plan: dict[str, Any] | None = None,
        **engine: Any,
    ) -> None:
        """Put a model into the catalogue."""
        engine = {"start_timeout": 20, "drain_timeout": 5, "extra_args": [f"--fake={fake}"], **engine}
        source = {"kind": "folder", "path": "/x"}
        self._models.append({"name": name, "source": source, "task": task, "engine": engine, "plan": plan})
        if weights:
            model = self.folder / "models" / name
            model.mkdir(parents=True)
            (model / "config.json").touch()
            (model / "model.safetensors").touch()
        tree = {
            "environment": "staging",
            "models_root": str(self.folder / "models"),
            "run_dir": str(self.folder / "run"),
            "engine": {
                "build": "cpu",
                "python": str(self.folder / "python"),
                "cache_dir": str(self.folder / "cache"),
            },
            "models": self._models,
        }
        (self.folder / "config" / "global").mkdir(parents=True, exist_ok=True)
        (self.folder / "config" / "global" / "a.yml").write_text(yaml.safe_dump(tree))

    def run(self, name: str = "m", **environment: str) -> subprocess.Popen[str]:
        """Start the supervisor of a model's engine, as its unit does."""
        process = subprocess.Popen(
            [sys.executable, "-c", "from citadel_llm.cli import main; main()", "run", "engine", name],
            env={**os.environ, "CITADEL_CONFIG": str(self.folder / "config"), **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def socket(self, name: str = "m") -> Path:
        return self.folder / "run" / "engines" / f"{name}.sock"

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def host(tmp_path: Path, notify: NotifySocket) -> Iterator[Host]:
    made = Host(tmp_path, notify)
    yield made
    made.close()


def log_of(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    output, _ = process.communicate(timeout=20)
    return [json.loads(line) for line in output.splitlines()]


def connect(host: Host) -> aiohttp.ClientSession:
    return aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(str(host.socket())))


async def test_ready_at_the_first_token_and_drained_at_the_end(host: Host) -> None:
    host.add()
    host.socket().parent.mkdir(parents=True)
    host.socket().touch()  # what a host that lost its power left behind
    process = host.run(WATCHDOG_USEC="1000000")
    await asyncio.to_thread(host.notify.wait_for, "READY", "1", 20)
    await asyncio.to_thread(host.notify.wait_for, "WATCHDOG", "1")
    assert host.socket().stat().st_mode & 0o777 == 0o660

    async with connect(host) as client:
        request = {"model": "m", "prompt": "x-very-secret", "stream": True, "max_tokens": 8}
        async with client.post("/v1/completions", json=request) as response:
            await response.content.readline()
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(host.notify.wait_for, "STOPPING", "1")
            rest = (await response.content.read()).decode()
    assert rest.endswith("data: [DONE]\n\n")
    lines = await asyncio.to_thread(log_of, process)
    assert process.returncode == 0
    assert not host.socket().exists()
    assert "x-very-secret" not in json.dumps(lines)
    vllm = [line for line in lines if line.get("child") == "vllm"]
    assert vllm[0]["event"].startswith("Starting to load model")
    assert vllm[0]["process"] == "APIServer"
    assert {line["service"] for line in lines} == {"engine@m"}


PLAN = {"residency": "resident", "max_model_len": 2048, "kv_cache_bytes": 1 << 30}


async def test_what_a_start_took_is_kept_for_the_next_plan(host: Host, tmp_path: Path) -> None:
    host.add(plan=PLAN)
    state = tmp_path / "state"
    state.mkdir()
    umask = os.umask(0o077)
    try:
        process = host.run(STATE_DIRECTORY=str(state))
    finally:
        os.umask(umask)
    await asyncio.to_thread(host.notify.wait_for, "READY", "1", 20)
    measurement = Measurement.parse((state / "measured.json").read_text())
    assert measurement is not None
    assert (measurement.model, measurement.device, measurement.kv_cache) == ("m", "cpu", 1 << 30)
    assert measurement.vllm == "0.32.0"
    assert measurement.kv_cache_tokens == 46592
    assert measurement.total
    assert (state / "measured.json").stat().st_mode & 0o777 == 0o644
    process.terminate()
    await asyncio.to_thread(log_of, process)


async def test_an_engine_runs_where_nothing_can_be_kept(host: Host) -> None:
    host.add(plan=PLAN)
    process = host.run(STATE_DIRECTORY="/nonexistent")
    await asyncio.to_thread(host.notify.wait_for, "READY", "1", 20)
    process.terminate()
    lines = await asyncio.to_thread(log_of, process)
    assert any("could not be written down" in line["event"] for line in lines)


def test_an_engine_that_answers_otherwise_than_when_it_was_accepted_is_not_let_near_clients(
    host: Host, tmp_path: Path
) -> None:
    host.add()
    state, off = tmp_path / "state", tmp_path / "cache/m/off"
    state.mkdir()
    off.parent.mkdir(parents=True)

    def start() -> tuple[int, list[dict[str, Any]]]:
        """Run it until it is ready, then stop it; or until it ends by itself."""
        process = host.run(STATE_DIRECTORY=str(state))
        if not off.exists() or float(off.read_text()) < 1:
            host.notify.wait_for("READY", "1", 20)
            process.terminate()
        return process.wait(20), log_of(process)

    def told(lines: list[dict[str, Any]], word: str) -> Any:
        return next(line[word] for line in lines if word in line)

    code, lines = start()
    assert (code, told(lines, "why")) == (0, "nothing was accepted before")
    assert (state / "accepted.json").stat().st_mode & 0o777 == 0o644
    off.write_text("-0.01")
    assert told(start()[1], "apart").startswith("its log-probabilities differ by 0.01 on average")
    off.write_text("3")
    code, lines = start()
    # 2: systemd does not start it again.
    assert code == 2
    assert "does not answer as it did when it was accepted" in lines[-1]["reason"]
    assert "differ by 3 on average" in lines[-1]["reason"]
    assert "citadel models accept m" in lines[-1]["reason"]
    # Other weights are another model, whatever they say; and so are those that were said to be right.
    (tmp_path / "models/m/model.safetensors").write_text("others")
    off.write_text("0.9")
    assert told(start()[1], "why") == "changed: weights"
    off.write_text("0")
    assert accepted.forget(state)
    assert told(start()[1], "why") == "nothing was accepted before"


def test_the_socket_is_opened_to_others_only_when_the_answers_are_right(host: Host) -> None:
    host.add(fake="slow-answer")
    process = host.run()
    end = time.monotonic() + 20
    while not host.socket().exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert host.socket().stat().st_mode & 0o077 == 0
    host.notify.wait_for("READY", "1", 20)
    assert host.socket().stat().st_mode & 0o077 == 0o060
    process.terminate()
    log_of(process)


async def test_an_embedding_model_is_asked_for_an_embedding(host: Host) -> None:
    host.add(task="embed")
    host.run()
    await asyncio.to_thread(host.notify.wait_for, "READY", "1", 20)


@pytest.mark.parametrize(
    ("fake", "engine", "code", "reason"),
    [
        ("no-memory", {}, 3, "out of memory: the KV cache does not fit"),
        ("no-architecture", {}, 3, "does not know the model's architecture"),
        ("no-answer", {}, 3, "vLLM is up but gives no answer: /v1/completions answered 500: "),
        (
            "no-questions",
            {},
            3,
            "does not take the questions of engine.acceptance: /v1/completions answered 4",
        ),
        ("slow", {"start_timeout": 1}, 3, "no answer after 1 s, while loading "),
    ],
)
def test_a_start_that_fails_says_why_in_one_line(
    host: Host, fake: str, engine: dict[str, Any], code: int, reason: str
) -> None:
    host.add(fake=fake, **engine)
    process = host.run()
    last = log_of(process)[-1]
    assert process.returncode == code
    assert reason in last["reason"]
    assert reason in host.notify.wait_for("STATUS", f"failed: {last['reason']}")["STATUS"]
    assert not host.socket().exists()


def test_missing_weights_and_unknown_models_are_told_before_anything_starts(host: Host) -> None:
    host.add("absent", weights=False)
    missing, unknown = host.run("absent"), host.run("abesnt")
    assert "no config.json" in log_of(missing)[-1]["reason"]
    assert "did you mean 'absent'?" in log_of(unknown)[-1]["reason"]
    assert (missing.returncode, unknown.returncode) == (2, 2)


def test_an_engine_that_dies_ends_its_service(host: Host) -> None:
    host.add()
    process = host.run()
    host.notify.wait_for("READY", "1", 20)
    children = psutil.Process(process.pid).children()
    engine = next(child for child in children if "fake_vllm.py" in " ".join(child.cmdline()))
    engine.kill()
    assert "killed from outside" in log_of(process)[-1]["reason"]
    assert process.returncode == 1


async def test_a_hanging_engine_ends_its_service_with_what_could_be_seen(host: Host) -> None:
    host.add(fake="hang", stall_timeout=0.4)
    process = host.run()
    await asyncio.to_thread(host.notify.wait_for, "READY", "1", 20)
    async with connect(host) as client:
        request = {"model": "m", "prompt": "a", "stream": True, "max_tokens": 1}
        async with client.post("/v1/completions", json=request):
            lines = await asyncio.to_thread(log_of, process)
    assert process.returncode == 1
    # How late the stall is seen depends on how busy the machine is.
    assert lines[-1]["reason"].startswith("the engine hung: no progress for ")
    report = next(line for line in lines if line["event"].startswith("the engine hangs"))
    assert report["metrics"] == {"vllm:num_requests_running": 1.0, "vllm:generation_tokens_total": 1.0}
    assert report["processes"][0]["state"]
    assert report["last_lines"]


async def test_an_engine_waits_while_another_starts_on_its_device(host: Host) -> None:
    host.add()
    locks = host.folder / "run" / "locks"
    locks.mkdir(parents=True)
    async with start_lock(lock_files(locks, ()), "other", print):
        host.run()
        waiting = "waiting while other starts on the same device"
        await asyncio.to_thread(host.notify.wait_for, "STATUS", waiting, 20)
        assert not host.socket().exists()
    await asyncio.to_thread(host.notify.wait_for, "READY", "1", 20)
