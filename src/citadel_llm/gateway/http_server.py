"""uvicorn as the gateway uses it: with our protocol, and a shutdown that loses no request."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from time import monotonic

import uvicorn

from citadel_llm import config
from citadel_llm.gateway.app import create_app
from citadel_llm.gateway.tls import server_context
from citadel_llm.gateway.wire.server import ConnectionsState, GatewayProtocol
from citadel_llm.gateway.workers import ALONE, Workers
from citadel_llm.services.errors import StartError

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection: it is they who close it, and no request meets a closed one."""
# At a stop nobody waits so long. Idle connections get this, in which a request that is on its way arrives.
_IDLE_SECONDS_AT_STOP = 2.0
_POLL_SECONDS = 0.05


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with a shutdown that loses no request.

    Attributes:
        drain_seconds: How long answers may take to finish once it shuts down.
        idle_seconds: How long idle connections are kept open then: a client may be sending on one, for
            nothing told it not to before the answer that it had last.
    """

    server_state: ConnectionsState

    def __init__(self, settings: uvicorn.Config, drain_seconds: float = 60.0) -> None:
        super().__init__(settings)
        self.server_state = ConnectionsState()
        self.drain_seconds = drain_seconds
        self.idle_seconds = _IDLE_SECONDS_AT_STOP
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections, and tell at once: what has begun must be drained from then on."""
        await super().startup(sockets)
        self.up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, finish what has begun, and close the connections.

        uvicorn's own closes idle connections at once, and with them the request that is on its way. Here the
        next answer on each says `connection: close`; one that stays idle is closed after `idle_seconds`.
        """
        state, now = self.server_state, asyncio.get_running_loop().time()
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        # From here on the connections close themselves.
        state.drain_began, state.drain_idle_seconds = monotonic(), self.idle_seconds
        if not await self._until_unused(now + self.drain_seconds):
            for connection in list(state.connections):
                connection.shutdown()
            for task in list(state.tasks):
                task.cancel(msg="the drain's time is over")
        if not self.force_exit:
            await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def run_on(self, listener: socket.socket) -> None:
        """Serve until `should_exit` is set and what was in flight is over.

        Raises:
            StartError: The application did not start.
        """
        try:
            await self.serve(sockets=[listener])
        except SystemExit:
            raise StartError("the application did not start; the log says why") from None

    def metrics_page(self) -> bytes:
        """The metrics of the application that it serves."""
        page: bytes = self.lifespan.state["metrics"].page()
        return page

    async def _until_unused(self, deadline: float) -> bool:
        """Wait until there is neither a connection nor work; whether there is none at the deadline."""
        state, loop = self.server_state, asyncio.get_running_loop()
        while state.connections or state.tasks:
            if self.force_exit or loop.time() >= deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True


def server_config(settings: config.Settings, workers: Workers = ALONE) -> uvicorn.Config:
    """How uvicorn serves the gateway."""
    # It warns of every connection that speaks no HTTP, which anybody can open as many of as he likes.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    tls = settings.gateway.tls
    return uvicorn.Config(
        create_app(settings, workers),
        lifespan="on",
        http=GatewayProtocol,
        # Our own log has one line a request, with what matters and without what must not be in it.
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ssl_context_factory=(lambda _config, _default: server_context(tls)) if tls else None,
    )
