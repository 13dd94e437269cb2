"""The gateway as a service: uvicorn inside a `BaseService`, which owns the signals and the shutdown.

The listening socket comes from systemd when a socket unit passed one (`LISTEN_FDS`, sd_listen_fds(3)), else
it is bound here.
"""

import asyncio
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop

from citadel_llm import config
from citadel_llm.gateway.app import create_app
from citadel_llm.services.base_service import BaseService
from citadel_llm.services.errors import ConfigurationError, StartError

_FIRST_PASSED_DESCRIPTOR = 3
_BACKLOG = 2048
# Longer than clients keep an idle connection: it is they who close it, and no request meets a closed one.
_KEEP_ALIVE_SECONDS = 75
# The drain's own limit is uvicorn's; this is for what follows it (closing connections and the store).
_MARGIN_SECONDS = 5.0


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service decides when to stop."""

    def __init__(self, settings: uvicorn.Config) -> None:
        super().__init__(settings)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections, and tell at once: what has begun must be drained from then on."""
        await super().startup(sockets)
        self.up.set()

    @contextmanager
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


def server_config(settings: config.Settings) -> uvicorn.Config:
    """How uvicorn serves the gateway."""
    return uvicorn.Config(
        create_app(settings),
        lifespan="on",
        # Our own log has one line a request, with what matters and without what must not be in it.
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.gateway.drain_timeout_seconds),
    )


class GatewayService(BaseService):
    """Serves the API until it is told to stop, then finishes the answers that have begun."""

    name = "gateway"

    def __init__(self, settings: config.Settings, config_directory: Path | None = None) -> None:
        super().__init__(settings, config_directory)
        self.drain_timeout = settings.gateway.drain_timeout_seconds + _MARGIN_SECONDS
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """uvloop's: it moves bytes between many connections at less cost than asyncio's own."""
        return uvloop.new_event_loop()

    async def configure(self) -> None:
        """Check that the database's password can be read, if it has one.

        Raises:
            ConfigurationError: It cannot.
        """
        try:
            self.settings.gateway.database_url()
        except OSError as error:
            raise ConfigurationError(f"the database's password cannot be read: {error}") from None

    async def start(self) -> None:
        """Listen, and return when requests are answered.

        Raises:
            StartError: The address cannot be listened on, or the application did not start.
        """
        listener = open_listener(self.settings.gateway)
        self._server = Server(server_config(self.settings))
        self._serving = asyncio.create_task(self._server.run_on(listener))
        up = asyncio.create_task(self._server.up.wait())
        try:
            await asyncio.wait((up, self._serving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._serving.done():
            self._serving.result()
        self.spawn(self._until_server_ends(), "the server")
        self.log.info("listening", address=_name(listener))

    async def healthy(self) -> bool:
        """Whether the server runs; that this is asked at all shows that the event loop does."""
        return self._serving is not None and not self._serving.done()

    async def reload(self) -> None:
        """The settings are taken over at a restart only; keys are read again all the time anyway."""
        self.log.warning("the gateway takes over new settings at a restart: citadel restart gateway")

    async def drain(self) -> None:
        """Stop listening, and return when all answers are finished or the drain's time is over."""
        if self._server and self._serving:
            self._server.should_exit = True
            await asyncio.shield(self._serving)

    async def stop(self) -> None:
        """End what is left."""
        if self._server and self._serving and not self._serving.done():
            self._server.should_exit = self._server.force_exit = True
            for task in list(self._server.server_state.tasks):
                task.cancel()
            await self._serving
            # In such a hurry the server leaves this out.
            await self._server.lifespan.shutdown()

    async def _until_server_ends(self) -> None:
        if self._serving:
            await asyncio.shield(self._serving)


def open_listener(settings: config.Gateway) -> socket.socket:
    """The socket to accept connections on.

    Raises:
        StartError: The address or the port cannot be had.
    """
    passed = _passed_listener()
    if passed is not None:
        return passed
    family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    try:
        return socket.create_server((settings.address, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        where = f"{settings.address} port {settings.port}"
        raise StartError(
            f"cannot listen on {where}: {error.strerror} (gateway.address, gateway.port)"
        ) from None


def _passed_listener() -> socket.socket | None:
    """The socket that systemd passed to this very process, if it did."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = int(os.environ.get("LISTEN_FDS", "0"))
    if count != 1:
        raise StartError(f"systemd passed {count} sockets where one is expected")
    return socket.socket(fileno=_FIRST_PASSED_DESCRIPTOR)


def _name(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"{name[0]} port {name[1]}" if isinstance(name, tuple) else str(name)
