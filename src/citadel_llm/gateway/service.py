"""The gateway as a service: uvicorn inside a `BaseService`, which owns the signals and the shutdown.

systemd keeps the listening socket (`FDSTORE=1`) and passes it to the next process (`LISTEN_FDS`,
sd_listen_fds(3)), so that connections wait in its queue while there is none. New settings and new code are
taken over by a successor, which is ready before this process accepts no more: see `services/hand_over.py`.
Further workers, each a service of its own, ask the others for the socket: see `workers.py`.
"""

import asyncio
import contextlib
import gc
import os
import sys
from pathlib import Path

import uvloop

from citadel_llm import config
from citadel_llm.gateway.http_server import KEEP_ALIVE_SECONDS, Server, server_config
from citadel_llm.gateway.listener import LISTENER, address_of, open_listener, passed_listener
from citadel_llm.gateway.tls import CertificateError, server_context
from citadel_llm.gateway.workers import FIRST, Workers, worker_name
from citadel_llm.services.base_service import BaseService
from citadel_llm.services.errors import ConfigurationError, ServiceError
from citadel_llm.services.hand_over import HandOverPoint, Predecessor, meeting_point

# What a request may take that a successor lets finish. Nobody waits for it; it costs its process's memory.
_LONGEST_ANSWER_SECONDS = 3600.0
_OBJECTS_BETWEEN_COLLECTIONS = 50_000
# The drain's own limit is the server's; this is for what follows it (closing connections and the store).
_MARGIN_SECONDS = 5.0


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
            self._server.idle_seconds = KEEP_ALIVE_SECONDS
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
