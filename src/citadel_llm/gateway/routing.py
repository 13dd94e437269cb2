"""Which engine serves which model, and which engines answer.

Each engine is asked for its health every `_INTERVAL` seconds. One that refuses connections is down at once;
one that answers late is down after `_LATE_LIMIT` times in a row, for a busy engine may be late and is of
more use than none. Requests for an engine that is down are refused without trying it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import structlog

from citadel_llm.config import Model, Settings
from citadel_llm.gateway.errors import (
    EngineDownError,
    EngineError,
    EngineTimeoutError,
    ModelNotFoundError,
)
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.gateway.upstream import RETRY_AFTER, EngineClient

_log = structlog.get_logger("citadel.gateway.engines")

_INTERVAL = 1.0
_TIMEOUT = 5.0
_LATE_LIMIT = 3
_SHOWN_NAME = 64
_OK = 200

State = Literal["unknown", "up", "down"]


@dataclass
class Engine:
    """One model's engine.

    Attributes:
        model: Its entry in the catalogue.
        client: The way to it.
        state: `unknown` until it was asked for the first time.
        reason: Why it is down; empty when it is not.
        since: When it came into this state, in Unix time.
    """

    model: Model
    client: EngineClient
    state: State = "unknown"
    reason: str = ""
    since: float = field(default_factory=time.time)
    late: int = 0

    @property
    def name(self) -> str:
        """The model's real name."""
        return self.model.name


class EngineRegistry:
    """All engines of this gateway.

    Args:
        settings: The host's; the catalogue is read from it.
        metrics: Told which engines are up.
    """

    def __init__(self, settings: Settings, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._engines: list[Engine] = []
        self._by_name: dict[str, Engine] = {}
        for model in settings.served_models:
            client = EngineClient(
                model.name,
                model.socket(settings.run_dir),
                connect_timeout=settings.gateway.connect_timeout_seconds,
                read_timeout=settings.gateway.upstream_timeout_seconds,
            )
            engine = Engine(model, client)
            self._engines.append(engine)
            self._by_name.update(dict.fromkeys((model.name, *model.aliases), engine))
            metrics.engine_up.labels(model.name).set(0)
            metrics.in_flight.labels(model.name).set(0)

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._engines)

    def find(self, name: str) -> Engine:
        """The engine of a model, by its name or an alias.

        Raises:
            ModelNotFoundError: There is no such model.
        """
        try:
            return self._by_name[name]
        except KeyError:
            shown = name if len(name) <= _SHOWN_NAME else f"{name[:_SHOWN_NAME]}…"
            message = f"The model '{shown}' does not exist here; GET /v1/models lists those that do."
            raise ModelNotFoundError(message, param="model") from None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the engines while the context lasts; close the connections at its end."""
        watchers = [asyncio.create_task(self._watch(engine)) for engine in self._engines]
        try:
            yield
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            for engine in self._engines:
                await engine.client.close()

    def note_failure(self, engine: Engine, error: EngineError) -> None:
        """Take note of a request that failed: an engine that refuses connections is down from now on."""
        if isinstance(error, EngineDownError):
            self._set(engine, "down", _reason(error))

    async def _watch(self, engine: Engine) -> None:
        while True:
            await self._check(engine)
            await asyncio.sleep(_INTERVAL)

    async def _check(self, engine: Engine) -> None:
        try:
            status, _ = await engine.client.get("/health", within=_TIMEOUT)
        except EngineTimeoutError:
            engine.late += 1
            if engine.late >= _LATE_LIMIT or engine.state != "up":
                self._set(engine, "down", f"no answer to its health check within {_TIMEOUT:g} s")
        except EngineError as error:
            self._set(engine, "down", _reason(error))
        else:
            engine.late = 0
            if status == _OK:
                self._set(engine, "up")
            else:
                self._set(engine, "down", f"its health check says {status}")

    def _set(self, engine: Engine, state: State, reason: str = "") -> None:
        if engine.state == state and engine.reason == reason:
            return
        if engine.state != state:
            engine.since = time.time()
            _log.info("engine changed state", model=engine.name, state=state, reason=reason)
        engine.state, engine.reason = state, reason
        self._metrics.engine_up.labels(engine.name).set(state == "up")


def refuse_if_down(engine: Engine) -> None:
    """Spare the client the wait for an engine that is known not to answer.

    Raises:
        EngineDownError: It is down.
    """
    if engine.state == "down":
        message = f"The model '{engine.name}' is not available just now; try again soon."
        if engine.model.on_demand:
            message = f"The model '{engine.name}' is not loaded just now; whoever runs this site can load it."
        raise EngineDownError(message, retry_after=RETRY_AFTER)


def _reason(error: EngineError) -> str:
    cause = error.__cause__
    text = getattr(cause, "strerror", None)
    return text or type(cause or error).__name__
