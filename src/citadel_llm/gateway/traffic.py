"""What all requests of a gateway share: the parts that they call, and the clock that watches over them."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from citadel_llm.config import Settings
from citadel_llm.gateway.access_log import AccessLog
from citadel_llm.gateway.accounting import Ledger
from citadel_llm.gateway.auth import KeyCache
from citadel_llm.gateway.cors import CrossOrigin
from citadel_llm.gateway.limits import Limiter
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.gateway.proxies import TrustedProxies
from citadel_llm.gateway.routing import EngineRegistry

if TYPE_CHECKING:
    from citadel_llm.gateway.exchange import Exchange
    from citadel_llm.gateway.tracing import Tracer
    from citadel_llm.gateway.wire.heads import Header
    from citadel_llm.gateway.wire.server import GatewayProtocol

# How exact the time limits are. They are seconds to minutes long; a timer for each request would cost more.
_SWEEP_SECONDS = 0.25


class Traffic:
    """The parts of a gateway that a request on its way through calls.

    Args:
        settings: The host's.
        keys: Who may ask.
        limiter: How much.
        engines: Whom to ask.
        ledger: Where it is noted.
        metrics: Where it is counted.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        keys: KeyCache,
        limiter: Limiter,
        engines: EngineRegistry,
        ledger: Ledger,
        metrics: GatewayMetrics,
    ) -> None:
        self.settings = settings.gateway
        self.keys = keys
        self.limiter = limiter
        self.engines = engines
        self.ledger = ledger
        self.metrics = metrics
        self.cors = CrossOrigin(settings.gateway.cors)
        self.proxies = TrustedProxies(settings.gateway.trusted_proxies)
        self.comment_seconds = settings.residency.comment_seconds
        self.session_header = settings.gateway.routing.session_header.encode()
        self.access_log = AccessLog()
        self.tracer = _tracer(settings)
        self.loop = asyncio.get_running_loop()
        self.body_bytes = 0
        self.common_headers: tuple[list[Header], bytes] = ([], b"")
        self.exchanges: set[Exchange] = set()
        self.connections: set[GatewayProtocol] = set()
        self._run = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()

    def new_id(self) -> str:
        """A name for a request that no other one has: 32 hexadecimal digits."""
        return f"{self._run}{next(self._numbers):016x}"

    def spawn(self, work: Any) -> None:
        """Run the rare work of a request that must wait."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch over the time limits while the context lasts; at its end, end what is still in flight."""
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeper.cancel()
            for exchange in list(self.exchanges):
                exchange.stop()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(sweeper, *self._tasks, return_exceptions=True)
            self.access_log.flush()
            if self.tracer is not None:
                await asyncio.to_thread(self.tracer.close)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self.loop.time()
            for connection in list(self.connections):
                connection.sweep(now)
            for exchange in list(self.exchanges):
                exchange.sweep(now)
            self.engines.sweep(now)


def _tracer(settings: Settings) -> "Tracer | None":
    if settings.gateway.tracing.endpoint is None:
        return None
    # Brought in only where it is wanted: it takes a while to load.
    from citadel_llm.gateway.tracing import Tracer as Real  # noqa: PLC0415

    return Real(settings.gateway.tracing)
