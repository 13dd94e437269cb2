"""The active checks of this host's engines: do they answer, is their socket there, do they make progress."""

import asyncio
import contextlib
import re
from collections.abc import Callable
from pathlib import Path

from citadel_llm.gateway.errors import EngineError, EngineTimeoutError
from citadel_llm.gateway.routing.engine import Engine, reason_of

INTERVAL = 1.0
"""Seconds between two health checks."""

_TIMEOUT = 5.0
_OK = 200

# What moves while vLLM works: the tokens read and written, the steps and cache blocks of a long prompt. The
# lines are compared as they stand: parsing the whole page would take milliseconds.
_MOVING = re.compile(
    rb"^vllm:(?:prompt_tokens_total|generation_tokens_total|iteration_tokens_total_count"
    rb"|kv_cache_usage_perc|request_success_total)[{ ].*$",
    re.MULTILINE,
)


class EngineWatch:
    """Watches one engine of this host.

    Args:
        engine: The engine.
        socket: Where it listens. Its supervisor removes it before the engine stops.
        stall_seconds: After how long without progress it gets nothing new.
        clock: Tells the time in seconds.
    """

    def __init__(
        self, engine: Engine, socket: Path, stall_seconds: float, clock: Callable[[], float]
    ) -> None:
        self.engine = engine
        self.checked = asyncio.Event()
        self._soon = asyncio.Event()
        self._socket = str(socket)
        # Asked for only when the answers themselves show nothing: long enough before the stall to be sure.
        self._quiet_seconds = min(5.0, stall_seconds / 4)
        self._clock = clock
        self._moving: list[bytes] = []

    async def run(self) -> None:
        """Check the engine for ever."""
        while True:
            self._soon.clear()
            await self.check()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._soon.wait()

    def check_soon(self) -> None:
        """There is news of it."""
        self._soon.set()

    async def check(self) -> None:
        """Ask it how it is, and whether it gets on with what it has in hand."""
        engine = self.engine
        try:
            status, _ = await engine.client.get("/health", within=_TIMEOUT)
        except EngineTimeoutError:
            engine.is_late(_TIMEOUT)
        except EngineError as error:
            engine.set_state("down", reason_of(error))
        else:
            if status == _OK:
                engine.set_state("up")
                await self._look_for_progress()
            else:
                engine.set_state("down", f"its health check says {status}")
        self.checked.set()

    def look_at_socket(self) -> None:
        """Take an engine out as soon as its socket is gone: it is about to refuse new requests."""
        if self.engine.state == "up" and not Path(self._socket).exists():
            self.engine.set_state("down", "it is stopping, or has been stopped")

    async def _look_for_progress(self) -> None:
        engine = self.engine
        if not engine.outstanding or self._clock() - engine.last_progress < self._quiet_seconds:
            self._moving = []
            return
        try:
            status, page = await engine.client.get("/metrics", within=_TIMEOUT)
        except EngineError:
            return
        moving = _MOVING.findall(page) if status == _OK else []
        # The first look only tells what to compare with.
        if self._moving and moving and moving != self._moving:
            engine.last_progress = self._clock()
        if moving:
            self._moving = moving
