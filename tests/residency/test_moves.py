"""Putting an engine to sleep and waking it, against vLLM's documented calls.

A real HTTP server on a unix socket answers as vLLM 0.33's `api_router` of the sleep mode does, read in its
source. What this leaves unproven: sleep itself, which needs a GPU. Starting and stopping units is tested with
a real systemd, in tests/lab.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from citadel_llm.config import Engine, Model
from citadel_llm.residency.mover import MoveError
from citadel_llm.residency.moves import EngineMover
from citadel_llm.services.engine import acceptance, accepted
from citadel_llm.services.engine.client import EngineClient
from citadel_llm.services.systemd import Systemd

MODEL = Model.model_validate({"name": "m", "source": {"kind": "folder", "path": "/x"}})


class Units(Systemd):
    """A systemd that notes what it is to stop: a real one is asked in tests/lab."""

    def __init__(self, vllm: "SleepingVllm") -> None:
        super().__init__()
        self._vllm = vllm

    async def stop(self, unit: str) -> None:
        self._vllm.calls.append(f"stop {unit}")


class SleepingVllm:
    """vLLM with --enable-sleep-mode in development mode."""

    def __init__(self) -> None:
        self.level = 0
        self.in_flight = 0
        self.calls: list[str] = []
        self.gives_tokens = True
        self.logprob = -1.0

    @asynccontextmanager
    async def on(self, socket: Path) -> AsyncIterator[EngineMover]:
        app = web.Application()
        app.router.add_post("/sleep", self._sleep)
        app.router.add_post("/wake_up", self._wake)
        app.router.add_get("/is_sleeping", self._is_sleeping)
        app.router.add_get("/load", self._load)
        app.router.add_post("/v1/completions", self._complete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.UnixSite(runner, str(socket)).start()
        try:
            yield EngineMover({"m": Engine("m", 1, MODEL, socket)}, Units(self), socket.parent / "states")
        finally:
            await runner.cleanup()

    async def _sleep(self, request: web.Request) -> web.Response:
        self.level = int(request.query.get("level", "1"))
        self.calls.append(f"sleep {self.level}")
        return web.Response()

    async def _wake(self, _request: web.Request) -> web.Response:
        self.level = 0
        self.calls.append("wake_up")
        return web.Response()

    async def _is_sleeping(self, _request: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": bool(self.level)})

    async def _load(self, _request: web.Request) -> web.Response:
        return web.json_response({"server_load": self.in_flight})

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "prompt_logprobs" in body:
            told = [None, {"7": {"logprob": self.logprob}}]
            return web.json_response({"choices": [{"prompt_logprobs": told}]})
        if "logprobs" in body:
            return web.json_response({"choices": [{"logprobs": {"token_logprobs": [self.logprob]}}]})
        self.calls.append("token")
        choices: list[dict[str, Any]] = [{"text": " Paris"}] if self.gives_tokens and not self.level else []
        return web.json_response({"choices": choices})


def moving(folder: Path, vllm: SleepingVllm, work: Callable[[EngineMover], Awaitable[None]]) -> None:
    async def run() -> None:
        async with vllm.on(folder / "m.sock") as mover:
            await work(mover)

    asyncio.run(run())


def test_an_engine_is_put_to_sleep_and_is_awake_again_when_a_token_came(tmp_path: Path) -> None:
    vllm = SleepingVllm()

    async def work(mover: EngineMover) -> None:
        assert not await mover.is_asleep("m")
        await mover.sleep("m")
        assert await mover.is_asleep("m")
        await mover.wake("m")
        assert not await mover.is_asleep("m")

    moving(tmp_path, vllm, work)
    assert vllm.calls == ["sleep 1", "wake_up", "token"]


def test_an_engine_that_answers_somebody_is_not_put_to_sleep(tmp_path: Path) -> None:
    vllm = SleepingVllm()
    vllm.in_flight = 2

    async def work(mover: EngineMover) -> None:
        with pytest.raises(MoveError, match="2 requests are in flight"):
            await mover.sleep("m")

    moving(tmp_path, vllm, work)
    assert vllm.calls == []


def test_an_engine_that_gives_nothing_after_waking_is_not_awake(tmp_path: Path) -> None:
    vllm = SleepingVllm()
    vllm.gives_tokens = False

    async def work(mover: EngineMover) -> None:
        await mover.sleep("m")
        with pytest.raises(MoveError, match="without a choice"):
            await mover.wake("m")

    moving(tmp_path, vllm, work)


def test_an_engine_that_talks_nonsense_after_waking_is_stopped(tmp_path: Path) -> None:
    vllm = SleepingVllm()
    state = tmp_path / "states/m"
    state.mkdir(parents=True)

    async def work(mover: EngineMover) -> None:
        async with EngineClient(tmp_path / "m.sock") as client:
            kept = accepted.Accepted({}, "2026-11-24", await acceptance.take(client, MODEL))
        kept.write(state)
        await mover.wake("m")
        vllm.logprob = -4.0
        with pytest.raises(MoveError, match=r"not answer as when it was accepted: .* differ by 3 on"):
            await mover.wake("m")

    moving(tmp_path, vllm, work)
    assert vllm.calls == ["wake_up", "token", "wake_up", "token", "stop citadel-engine@m.service"]


def test_an_engine_that_is_gone_is_named(tmp_path: Path) -> None:
    async def work() -> None:
        mover = EngineMover({"m": Engine("m", 1, MODEL, tmp_path / "gone.sock")}, Systemd())
        with pytest.raises(MoveError, match=r"gone\.sock"):
            await mover.sleep("m")
        assert not await mover.is_asleep("m")

    asyncio.run(work())
