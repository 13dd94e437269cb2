"""The gateway as a service: uvicorn inside a `BaseService`, which owns the signals and the shutdown.

systemd keeps the listening socket (`FDSTORE=1`) and passes it to the next process (`LISTEN_FDS`,
sd_listen_fds(3)), so that connections wait in its queue while there is none. New settings and new code are
taken over by a successor, which is ready before this process accepts no more: see `services/hand_over.py`.
Further workers, each a service of its own, ask the others for the socket: see `workers.py`.
"""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
import uvloop
from uvicorn.server import ServerState

from citadel_llm import config
from citadel_llm.gateway.app import create_app
from citadel_llm.gateway.listener import LISTENER, address_of, open_listener, passed_listener
from citadel_llm.gateway.tls import CertificateError, server_context
from citadel_llm.gateway.wire.server import GatewayProtocol
from citadel_llm.gateway.workers import ALONE, FIRST, Workers, worker_name
from citadel_llm.services.base_service import BaseService
from citadel_llm.services.errors import ConfigurationError, ServiceError, StartError
from citadel_llm.services.hand_over import HandOverPoint, Predecessor, meeting_point

# Longer than clients keep an idle connection: it is they who close it, and no request meets a closed one.
_KEEP_ALIVE_SECONDS = 75
# At a stop nobody waits so long. Idle connections get this, in which a request that is on its way arrives.
_IDLE_SECONDS_AT_STOP = 2.0
# What a request may take that a successor lets finish. Nobody waits for it; it costs its process's memory.
_LONGEST_ANSWER_SECONDS = 3600.0
_POLL_SECONDS = 0.05
_OBJECTS_BETWEEN_COLLECTIONS = 50_000
# The drain's own limit is the server's; this is for what follows it (closing connections and the store).
_MARGIN_SECONDS = 5.0


class DrainingState(ServerState):
    """What uvicorn's connections share, and whether they are to be closed when their answers are over."""

    draining = False


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with a shutdown that loses no request.

    Attributes:
        drain_seconds: How long answers may take to finish once it shuts down.
        idle_seconds: How long idle connections are kept open then: a client may be sending on one.
    """

    server_state: DrainingState

    def __init__(self, settings: uvicorn.Config, drain_seconds: float = 60.0) -> None:
        super().__init__(settings)
        self.server_state = DrainingState()
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
        state.draining = True
        await self._until_unused(now + min(self.idle_seconds, self.drain_seconds))
        for connection in list(state.connections):
            connection.shutdown()
        if not await self._until_unused(now + self.drain_seconds):
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
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        ssl_context_factory=(lambda _config, _default: server_context(tls)) if tls else None,
    )


class GatewayService(BaseService):
    """Serves the API until it is told to stop, or a successor does; then finishes what has begun.

    Args:
        settings: The host's settings.
        config_directory: Where they were read.
        follows: For the successor of a gateway that runs: the descriptor on which whoever started it is told
            that it has taken over.
        worker: Which of the gateway's workers it is.

    Raises:
        ConfigurationError: There are not so many workers.
    """

    def __init__(
        self,
        settings: config.Settings,
        config_directory: Path | None = None,
        follows: int | None = None,
        worker: int = FIRST,
    ) -> None:
        self.name = worker_name(worker)
        super().__init__(settings, config_directory)
        count = settings.gateway.workers
        if worker > count:
            raise ConfigurationError(f"there is no worker {worker} of {count} (gateway.workers)")
        self._workers = Workers.of_this_process(worker, count)
        self.drain_timeout = settings.gateway.drain_timeout_seconds + _MARGIN_SECONDS
        # A successor has as long to come up as a first start.
        self.reload_timeout = self.configure_timeout + self.start_timeout
        self._follows = follows
        # Until it has taken over, the one that serves speaks for the service.
        self.notifier.muted = follows is not None
        self._predecessor: Predecessor | None = None
        self._point: HandOverPoint | None = None
        self._server: Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._open = contextlib.AsyncExitStack()

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """uvloop's: it moves bytes between many connections at less cost than asyncio's own."""
        return uvloop.new_event_loop()

    async def configure(self) -> None:
        """Meet the predecessor, if there is one; check that the secrets can be read.

        Raises:
            ConfigurationError: It cannot.
            StartError: There is no gateway to follow.
        """
        if self._follows is not None:
            self._predecessor = await Predecessor.meet()
            self.notifier.watchdog_seconds = self._predecessor.watchdog_seconds
        gateway = self.settings.gateway
        try:
            gateway.database_url()
        except OSError as error:
            raise ConfigurationError(f"the database's password cannot be read: {error}") from None
        try:
            if gateway.peer_key is not None:
                gateway.peer_key.read()
        except OSError as error:
            message = f"the key for the other nodes' gateways cannot be read: {error} (gateway.peer_key)"
            raise ConfigurationError(message) from None
        try:
            if gateway.tls:
                server_context(gateway.tls)
        except CertificateError as error:
            raise ConfigurationError(str(error)) from None

    async def start(self) -> None:
        """Listen, take over from the predecessor, and return when requests are answered.

        Raises:
            StartError: The address cannot be listened on, or the application did not start.
        """
        gateway = self.settings.gateway
        passed = self._predecessor.listener if self._predecessor else passed_listener()
        listener = await open_listener(gateway, passed, self._workers.hand_over_points())
        where = meeting_point()
        if where is not None:
            notifier = self.notifier
            self._point = HandOverPoint(listener, notifier.watchdog_seconds, notifier.main_process)
        self._server = Server(server_config(self.settings, self._workers), gateway.drain_timeout_seconds)
        self._serving = asyncio.create_task(self._server.run_on(listener))
        up = asyncio.create_task(self._server.up.wait())
        try:
            await asyncio.wait((up, self._serving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if self._serving.done():
            self._serving.result()
        _look_for_garbage_less_often()
        if self._predecessor and self._follows is not None:
            await self._predecessor.take_over(self._follows)
            self.notifier.muted = False
        if self._workers.number == FIRST:
            if passed is not listener:
                self.notifier.forget(LISTENER)
            self.notifier.keep(LISTENER, listener.fileno())
        self.spawn(self._until_server_ends(), "the server")
        if where is not None and self._point:
            self._point.open(where)
            self.spawn(self._until_handed_over(self._point), "the hand-over")
        await self._open.enter_async_context(self._workers.telling(self._server.metrics_page))
        self.log.info("listening", address=address_of(listener))

    async def healthy(self) -> bool:
        """Whether the server runs; that this is asked at all shows that the event loop does."""
        return self._serving is not None and not self._serving.done()

    async def reload(self) -> None:
        """Have a successor with the new settings take over.

        Raises:
            ServiceError: It did not come up; this one goes on.
        """
        if self._point is None:
            self.log.warning("without systemd, new settings are taken over at a restart only")
            return
        # As it was called: what is there now, which may be another release than the one that runs.
        command = [sys.argv[0]] if os.access(sys.argv[0], os.X_OK) else [sys.executable, sys.argv[0]]
        command += ["run", "gateway", "--hand-over", f"--worker={self._workers.number}"]
        if self.config_directory is not None:
            command += ["--directory", str(self.config_directory)]
        starter = await asyncio.create_subprocess_exec(*command)
        if await starter.wait() != 0:
            raise ServiceError("the gateway with the new settings did not come up; the log says why")

    def request_stop(self) -> None:
        """End the service. One that is no longer wanted leaves the others, with whom nobody waits for it."""
        if not self.stopping and self._is_too_many():
            self.log.info("no longer one of the workers; finishing what is in flight")
            self._take_time()
        super().request_stop()

    async def drain(self) -> None:
        """Accept no more, and return when all answers are finished or the drain's time is over."""
        if self._server and self._serving:
            self._server.should_exit = True
            await asyncio.shield(self._serving)
        if self._predecessor:
            # systemd ends it with this process.
            await self._predecessor.ended()

    async def stop(self) -> None:
        """End what is left."""
        await self._open.aclose()
        if self._server and self._serving and not self._serving.done():
            self._server.should_exit = self._server.force_exit = True
            for task in list(self._server.server_state.tasks):
                task.cancel()
            await self._serving
            # In such a hurry the server leaves this out.
            await self._server.lifespan.shutdown()
        if self._point:
            self._point.close()
        if self._predecessor:
            self._predecessor.close()

    async def _until_server_ends(self) -> None:
        if self._serving:
            await asyncio.shield(self._serving)

    async def _until_handed_over(self, point: HandOverPoint) -> None:
        await point.handed_over()
        self.log.info("handed over; finishing what is in flight")
        self.notifier.muted = True
        self._take_time()
        super().request_stop()

    def _take_time(self) -> None:
        """Let answers and idle connections end by themselves: others serve meanwhile."""
        if self._server:
            self._server.drain_seconds = _LONGEST_ANSWER_SECONDS
            self._server.idle_seconds = _KEEP_ALIVE_SECONDS
            self.drain_timeout = _LONGEST_ANSWER_SECONDS + _MARGIN_SECONDS

    def _is_too_many(self) -> bool:
        """Whether the settings, as they are by now, have fewer workers."""
        try:
            return config.load(self.config_directory).gateway.workers < self._workers.number
        except config.ConfigError:
            return False


def _look_for_garbage_less_often() -> None:
    """Spare each request its share of looking through what was loaded at the start and stays for good.

    A request leaves a few objects that refer to each other, so some thousand of them may wait to be
    collected: megabytes, against about a twentieth of the processor's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 20, 100)
