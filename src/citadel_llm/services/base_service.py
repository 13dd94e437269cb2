"""The life of a service: configure, start, ready, reload, drain, stop.

A new service says what is particular to it; signals, time limits, systemd and the exit code come from here:

    class ClockService(BaseService):
        name = "clock"

        async def start(self) -> None:
            self.ticks = 0
            self.spawn(self._tick(), "the ticker")      # ends the service when it ends

        async def _tick(self) -> None:
            while True:
                self.ticks += 1
                self.status(f"{self.ticks} ticks")
                await asyncio.sleep(1)

        async def healthy(self) -> bool:                # feeds systemd's watchdog
            before = self.ticks
            await asyncio.sleep(2)
            return self.ticks > before

    raise SystemExit(run_service(ClockService))
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from citadel_llm import config, logging_config
from citadel_llm.services.errors import ExitCode, ServiceError, StartError
from citadel_llm.services.running import Running
from citadel_llm.services.sd_notify import Notifier
from citadel_llm.services.service_settings import revision

_HEARTBEAT_SECONDS = 5.0
# More than two heartbeats, so that one late ping on a busy host ends nothing.
_EXTENSION_SECONDS = 20.0


class _OverTimeError(Exception):
    """A step was not over in its time. Not a TimeoutError: a step may raise those itself."""


class BaseService:
    """One service: override the lifecycle's methods, and their time limits (seconds) where they do not fit.

    Attributes:
        settings: The host's settings; new ones stand here when `reload` is called.
        log: A logger that names the service in every line.
    """

    name: str = "service"
    configure_timeout: float = 30.0
    start_timeout: float = 90.0
    reload_timeout: float = 30.0
    drain_timeout: float = 60.0
    stop_timeout: float = 15.0

    def __init__(self, settings: config.Settings, config_directory: Path | None = None) -> None:
        self.settings = settings
        self._started_with = settings
        self.config_directory = config_directory
        self.notifier = Notifier()
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger(self.name)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop_requested = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reload_requested = asyncio.Event()
        self._failure: ServiceError | None = None
        self._running: Running | None = None

    # What a service says about itself.

    async def configure(self) -> None:
        """Check what the settings promise and prepare what start needs. Nothing is served yet."""

    async def start(self) -> None:
        """Come up; return when the service really answers. It is then said to be ready."""

    async def reload(self) -> None:
        """Take over `self.settings`, which are new; where a service does not say how, the flags alone.

        How it logs is taken over in any case.
        """
        new, taken = self.settings, {"logging": self.settings.logging, "features": self.settings.features}
        self.settings = self._started_with.model_copy(update=taken)
        if revision(self.name, new) != revision(self.name, self.settings):
            self.log.warning("its settings have changed: restart it to apply them")

    async def drain(self) -> None:
        """Take nothing new and return when what was begun is finished."""

    async def stop(self) -> None:
        """Release everything. Called once at the end, also after a start that failed or was cut short."""

    async def healthy(self) -> bool:
        """Whether the service makes progress. While it does not, systemd's watchdog is not fed."""
        return True

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop to run in; a service of many connections may prefer another than asyncio's own."""
        return asyncio.new_event_loop()

    # What a service may call.

    def status(self, text: str) -> None:
        """Show one line in `systemctl status` and `citadel status`."""
        self.notifier.status(text)

    def spawn(self, work: Coroutine[Any, Any, object], what: str) -> None:
        """Run work beside the service for as long as it lives; should it end before, the service fails."""

        async def guard() -> None:
            try:
                await work
            except ServiceError as error:
                self.fail(error)
            except Exception as error:
                self.log.exception("background work failed", work=what)
                self.fail(ServiceError(f"{what} failed: {error}"))
            else:
                if not self._stop_requested.is_set():
                    self.fail(ServiceError(f"{what} ended"))

        task = asyncio.create_task(guard(), name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def fail(self, error: ServiceError) -> None:
        """End the service because of an error; the first one counts."""
        self._failure = self._failure or error
        self._stop_requested.set()

    def request_stop(self) -> None:
        """End the service in good order; asked twice, without waiting for what is in flight."""
        if self._stop_requested.is_set():
            self._hurry.set()
        self._stop_requested.set()

    @property
    def stopping(self) -> bool:
        """Whether the service is on its way down, or about to be."""
        return self._stop_requested.is_set()

    # The lifecycle.

    async def run(self) -> ExitCode:
        """Live through the whole lifecycle; return what to exit with."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_requested.set)
        began = time.monotonic()
        self.notifier.status("starting")
        try:
            ready = await self._come_up()
            if ready:
                seconds = round(time.monotonic() - began, 2)
                self.log.info("ready", seconds=seconds)
                self._running = Running(self.name, self.settings.model_dump(mode="json"), seconds)
                self._write_down(self._running.write)
                self.notifier.ready(f"ready after {seconds:.1f} s")
                await self._serve()
            await self._go_down(drain=ready)
        finally:
            if self._running:
                self._running.remove(self.settings.run_dir)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
                # The end is reached: one that comes late must not turn it into a death by a signal.
                signal.signal(number, signal.SIG_IGN)
        return self._exit_code()

    async def _come_up(self) -> bool:
        """Configure and start; False when that failed or was cut short by a request to stop."""
        for name, step, limit in (
            ("configure", self.configure, self.configure_timeout),
            ("start", self.start, self.start_timeout),
        ):
            try:
                finished = await self._limited(step(), limit, self._stop_requested)
            except _OverTimeError:
                self.fail(StartError(f"{name} was not over after {limit:.0f} s"))
                return False
            except ServiceError as error:
                self.fail(error)
                return False
            except Exception as error:
                self.log.exception("failed", step=name)
                self.fail(StartError(f"{name} failed: {error}"))
                return False
            if not finished:
                return False
        return True

    async def _serve(self) -> None:
        """Stay up until asked to stop; reload when asked to; feed the watchdog."""
        watchdog = asyncio.create_task(self._feed_watchdog())
        try:
            while not self._stop_requested.is_set():
                if await _first(self._stop_requested, self._reload_requested) is self._reload_requested:
                    self._reload_requested.clear()
                    await self._reload()
        finally:
            await _cancel(watchdog)

    async def _go_down(self, *, drain: bool) -> None:
        self.notifier.stopping("finishing what is in flight" if drain else "stopping")
        if drain and self._failure is None:
            await self._ending("drain", self.drain(), self.drain_timeout, self._hurry)
        await self._ending("stop", self.stop(), self.stop_timeout, None)
        for task in list(self._tasks):
            await _cancel(task)

    async def _ending(
        self, name: str, work: Coroutine[Any, Any, None], limit: float, hurry: asyncio.Event | None
    ) -> None:
        """Run a step of the end. Whatever goes wrong is logged, and the end goes on."""
        try:
            if not await self._limited(work, limit, hurry):
                self.log.warning("cut short", step=name)
        except _OverTimeError:
            self.log.warning("not finished in its time", step=name, seconds=limit)
        except Exception:
            self.log.exception("failed", step=name)

    async def _reload(self) -> None:
        """Read the settings again. If that, or taking them over, fails, the old ones stay."""
        self.notifier.reloading()
        before, reason = self.settings, ""
        try:
            self.settings = config.load(self.config_directory)
            logging_config.configure_logging(self.settings.logging, service=self.name)
            await self._limited(self.reload(), self.reload_timeout, self._stop_requested)
        except config.ConfigError as error:
            _log_problems(self.log, error)
            reason = "the new ones are wrong, see the log"
        except Exception as error:
            self.log.exception("reload failed")
            reason = "the reload took too long" if isinstance(error, _OverTimeError) else str(error)
        else:
            self.log.info("reloaded")
        if reason:
            self.settings = before
            logging_config.configure_logging(before.logging, service=self.name)
        if self._running and not self.notifier.muted:
            self._running.settings = self.settings.model_dump(mode="json")
            self._running.reloads += not reason
            self._running.reload_failed = reason
            self._write_down(self._running.rewrite)
        self.notifier.ready(f"running on the old settings: {reason}" if reason else "reloaded")

    def _write_down(self, write: Callable[[Path], None]) -> None:
        try:
            write(self.settings.run_dir)
        except OSError as error:
            self.log.warning("what this service runs with could not be written down", error=str(error))

    async def _limited(
        self, work: Coroutine[Any, Any, None], limit: float, cut_by: asyncio.Event | None
    ) -> bool:
        """Run a step within its time, asking systemd for more as long as it lasts.

        Returns:
            True when the step is over, False when `cut_by` was set before.

        Raises:
            _OverTimeError: The step was not over in its time.
        """
        task = asyncio.create_task(work)
        beat = asyncio.create_task(self._ask_for_time())
        waiters = [asyncio.create_task(cut_by.wait())] if cut_by else []
        try:
            done, _ = await asyncio.wait([task, *waiters], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if task in done:
                await task
                return True
            if not done:
                raise _OverTimeError
            return False
        finally:
            for each in (task, beat, *waiters):
                await _cancel(each)

    async def _ask_for_time(self) -> None:
        while True:
            self.notifier.extend_timeout(_EXTENSION_SECONDS)
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    async def _feed_watchdog(self) -> None:
        """Ping twice in each of the watchdog's intervals, as long as the service is healthy."""
        if self.notifier.watchdog_seconds is None:
            return
        interval = self.notifier.watchdog_seconds / 2
        while True:
            began = time.monotonic()
            if await self._is_healthy(within=interval):
                self.notifier.watchdog()
            else:
                self.log.error("not healthy: the watchdog is not fed")
            await asyncio.sleep(max(0.0, interval - (time.monotonic() - began)))

    async def _is_healthy(self, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                return await self.healthy()
        except Exception:
            self.log.exception("the health check failed")
            return False

    def _exit_code(self) -> ExitCode:
        if self._failure is None:
            self.log.info("stopped")
            return ExitCode.OK
        self.log.error("ended", reason=str(self._failure))
        self.notifier.status(f"failed: {self._failure}")
        return self._failure.exit_code


def run_service(
    factory: Callable[[config.Settings, Path | None], BaseService], config_directory: Path | None = None
) -> int:
    """Load the settings, set up the log, and run a service to its end.

    Args:
        factory: The service's class, or anything that makes one from settings and their folder.
        config_directory: Where the settings are; the default when absent.

    Returns:
        What the process must exit with: see `ExitCode`.
    """
    try:
        settings = config.load(config_directory)
    except config.ConfigError as error:
        logging_config.configure_logging(config.Logging(), service="citadel")
        _log_problems(structlog.get_logger("citadel"), error)
        return ExitCode.CONFIGURATION
    try:
        service = factory(settings, config_directory)
    except ServiceError as error:
        logging_config.configure_logging(settings.logging, service="citadel")
        structlog.get_logger("citadel").error("cannot be started", reason=str(error))
        Notifier().status(f"failed: {error}")
        return error.exit_code
    logging_config.configure_logging(settings.logging, service=service.name)
    with asyncio.Runner(loop_factory=service.new_event_loop) as runner:
        return runner.run(service.run())


def _log_problems(log: structlog.stdlib.BoundLogger, error: config.ConfigError) -> None:
    for problem in error.problems:
        log.error("the configuration is wrong", problem=str(problem))


async def _first(*events: asyncio.Event) -> asyncio.Event:
    """The first of the events to be set; the earlier in the list when several are."""
    waiters = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            await _cancel(waiter)
    return next(event for event in events if event.is_set())


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
