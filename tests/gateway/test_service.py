"""The gateway as a service: a process of its own that is started, asked, drained and stopped by signals."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web

from citadel_llm.store import KeyStore

from .fake_engine import FakeEngine
from .gateway_site import CHAT, LoopThread, site_settings, wait_until

# What `citadel run gateway` does, with the passed socket as systemd would have it (sd_listen_fds(3)).
RUN = """
import os, sys
from citadel_llm.gateway.service import GatewayService
from citadel_llm.services.base_service import run_service
if "LISTEN_FDS" in os.environ:
    os.environ["LISTEN_PID"] = str(os.getpid())
sys.exit(run_service(GatewayService))
"""


class Process:
    """A gateway in a process, with one engine and one key."""

    def __init__(self, folder: Path, loop: LoopThread, port: int, **gateway: Any) -> None:
        (folder / "engines").mkdir()
        (folder / "global").mkdir()
        settings = site_settings(folder, {"port": port, "address": "127.0.0.1", **gateway})
        (folder / "global" / "citadel.yml").write_text(settings.model_dump_json())
        with closing(KeyStore(settings.gateway.database_url())) as keys:
            self.key = keys.create("tests")[1]
        self.engine = FakeEngine(CHAT, folder / "engines" / f"{CHAT}.sock")
        self.loop = loop
        self.folder = folder
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, verify=False)
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **kwargs: Any) -> None:
        environment = {**os.environ, "CITADEL_CONFIG": str(self.folder), **kwargs.pop("env", {})}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN], env=environment, stdout=log, stderr=log, **kwargs
            )

    def wait_until_ready(self) -> None:
        def answers() -> bool:
            try:
                return bool(self.http.get("/ready").status_code == 200)
            except httpx2.TransportError:
                return False

        wait_until(answers, within=30)

    def signal(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process
        return self.process.wait(timeout=30)

    def end(self) -> None:
        self.http.close()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def gateway(tmp_path: Path, loop_thread: LoopThread, request: pytest.FixtureRequest) -> Iterator[Process]:
    """A gateway; the parameter, if there is one, is its drain's time in seconds."""
    drain = getattr(request, "param", 30)
    process = Process(tmp_path, loop_thread, _free_port(), drain_timeout_seconds=drain)
    loop_thread.run(process.engine.start())
    yield process
    process.end()
    loop_thread.run(process.engine.stop())


def _slow_answer(engine: FakeEngine, seconds: float) -> None:
    async def answer(request: web.Request, _body: bytes) -> web.StreamResponse:
        chunks = [engine.chunk("x")] * 10
        return await engine.stream(request, chunks, pause=seconds / len(chunks))

    engine.answer = answer


def _stream(gateway: Process, texts: list[str]) -> None:
    ask = {"model": CHAT, "messages": [], "stream": True}
    headers = {"authorization": f"Bearer {gateway.key}"}
    with gateway.http.stream("POST", "/v1/chat/completions", json=ask, headers=headers) as response:
        texts.extend(response.iter_text())


def _stop_during_an_answer(gateway: Process, seconds: float) -> tuple[threading.Thread, list[str]]:
    """Signal the stop when an answer that takes so long has begun: who reads it, and what it has read."""
    gateway.start()
    gateway.wait_until_ready()
    _slow_answer(gateway.engine, seconds)
    texts: list[str] = []
    client = threading.Thread(target=_stream, args=(gateway, texts))
    client.start()
    wait_until(lambda: bool(texts))
    gateway.signal(signal.SIGTERM)
    return client, texts


def test_a_stop_finishes_the_answers_that_have_begun(gateway: Process) -> None:
    client, texts = _stop_during_an_answer(gateway, 1.0)
    time.sleep(0.3)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{gateway.http.base_url}/health", verify=False)
    assert gateway.wait() == 0
    client.join()
    assert "".join(texts).endswith("data: [DONE]\n\n"), gateway.log.read_text()
    assert "Traceback" not in gateway.log.read_text()


@pytest.mark.lab
def test_a_client_whose_answer_ended_during_the_stop_may_ask_once_more(gateway: Process) -> None:
    """The head of that answer did not say yet that the connection ends, and nobody else listens any more."""
    client, _ = _stop_during_an_answer(gateway, 3.0)
    client.join()
    gateway.engine.answer = None
    headers = {"authorization": f"Bearer {gateway.key}"}
    again = gateway.http.post("/v1/chat/completions", json={"model": CHAT, "messages": []}, headers=headers)
    assert (again.status_code, again.headers["connection"]) == (200, "close")
    assert gateway.wait() == 0


@pytest.mark.lab
@pytest.mark.parametrize(
    ("gateway", "signals"), [(1, 1), (30, 2)], ids=["time is over", "asked twice"], indirect=["gateway"]
)
def test_a_stop_does_not_wait_for_ever(gateway: Process, signals: int) -> None:
    gateway.start()
    gateway.wait_until_ready()
    _slow_answer(gateway.engine, 60)
    texts: list[str] = []
    client = threading.Thread(target=_stream, args=(gateway, texts))
    client.start()
    wait_until(lambda: any(seen.path == "/v1/chat/completions" for seen in gateway.engine.seen))
    began = time.monotonic()
    for _ in range(signals):
        gateway.signal(signal.SIGTERM)
        time.sleep(0.3)
    assert gateway.wait() == 0
    assert time.monotonic() - began < 15
    client.join()
    last = texts[-1].split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "gateway_stopping"
    wait_until(gateway.engine.disconnected.is_set)
    assert "Traceback" not in gateway.log.read_text()


@pytest.mark.lab
def test_a_stop_tells_those_whose_answer_has_not_begun(gateway: Process) -> None:
    async def think(_request: web.Request, _body: bytes) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    gateway.start()
    gateway.wait_until_ready()
    gateway.engine.answer = think
    answers: list[httpx2.Response] = []

    def ask() -> None:
        headers = {"authorization": f"Bearer {gateway.key}"}
        answers.append(gateway.http.post("/v1/chat/completions", json={"model": CHAT}, headers=headers))

    client = threading.Thread(target=ask)
    client.start()
    wait_until(lambda: any(seen.path == "/v1/chat/completions" for seen in gateway.engine.seen))
    gateway.signal(signal.SIGTERM)
    time.sleep(0.3)
    gateway.signal(signal.SIGTERM)
    assert gateway.wait() == 0
    client.join()
    assert (answers[0].status_code, answers[0].headers["retry-after"]) == (503, "2")
    assert answers[0].json()["error"]["code"] == "gateway_stopping"


@pytest.mark.lab
def test_the_socket_can_come_from_systemd(gateway: Process) -> None:
    port = gateway.http.base_url.port
    with socket.create_server(("127.0.0.1", port)) as listener:
        # The first passed descriptor is always the third.
        gateway.start(
            env={"LISTEN_FDS": "1"},
            pass_fds=(3,),
            preexec_fn=lambda: os.dup2(listener.fileno(), 3),
        )
        gateway.wait_until_ready()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        connection = socket.create_connection(("127.0.0.1", port))
        connection.close()


@pytest.mark.lab
def test_a_port_that_is_taken_is_a_clear_failure(gateway: Process) -> None:
    port = gateway.http.base_url.port
    with socket.create_server(("127.0.0.1", port)):
        gateway.start()
        assert gateway.wait() == 3
    log = gateway.log.read_text()
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in log
    assert "Traceback" not in log


@pytest.mark.lab
def test_it_starts_without_database_and_engines(tmp_path: Path, loop_thread: LoopThread) -> None:
    gateway = Process(tmp_path, loop_thread, _free_port())
    (tmp_path / "citadel.db").unlink()
    (tmp_path / "citadel.db").mkdir()
    gateway.start()
    try:
        wait_until(lambda: '"ready"' in gateway.log.read_text(), within=30)
        assert gateway.http.get("/health").status_code == 200
        assert gateway.http.get("/ready").status_code == 503
        answer = gateway.http.get("/v1/models", headers={"authorization": f"Bearer {gateway.key}"})
        assert answer.json()["error"]["code"] == "keys_unavailable"
    finally:
        gateway.end()
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    assert [line["level"] for line in lines if "keys cannot be read" in line["event"]] == ["error"]
