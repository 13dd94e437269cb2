"""The health checks as a service: `citadel run health`."""

import asyncio
import contextlib
import time
from pathlib import Path

from citadel_llm.config import Settings
from citadel_llm.health_checks import report
from citadel_llm.health_checks.catalogue import CheckError, HealthCheck, checks_of
from citadel_llm.health_checks.monitor import Monitor
from citadel_llm.health_checks.recovery import Recoverer
from citadel_llm.health_checks.state_file import STATE_FILE
from citadel_llm.health_checks.states import State
from citadel_llm.services.base_service import BaseService
from citadel_llm.services.errors import ConfigurationError, ServiceError
from citadel_llm.services.systemd import Systemd

_WRITE_SECONDS = 1.0


class HealthService(BaseService):
    """Looks at everything the settings ask for, tells how it is, and recovers what it may."""

    name = "health"
    drain_timeout = 5.0

    def __init__(self, settings: Settings, config_directory: Path | None = None) -> None:
        super().__init__(settings, config_directory)
        self._systemd = Systemd()
        self._monitor: Monitor
        self._looking: asyncio.Task[None] | None = None

    async def configure(self) -> None:
        """Put the checks together."""
        self._monitor = self._new_monitor(report.remembered(self.settings.run_dir))

    async def start(self) -> None:
        """Begin to look."""
        (self.settings.run_dir / STATE_FILE).parent.mkdir(parents=True, exist_ok=True)
        self._write()
        self._looking = asyncio.create_task(self._monitor.run())
        self.spawn(self._supervise(), "the checks")
        self.spawn(self._tell(), "telling how things are")

    async def reload(self) -> None:
        """Take over other checks; of those that stay, what is known is kept."""
        monitor = self._new_monitor(self._monitor.carried_over())
        self._monitor = monitor
        if self._looking:
            self._looking.cancel()
        self._looking = asyncio.create_task(monitor.run())

    async def stop(self) -> None:
        """Stop looking. What was done and told is kept for the next start, but is no state any more."""
        if self._looking:
            self._looking.cancel()
            await asyncio.wait([self._looking])
            with contextlib.suppress(OSError):
                report.write(self._monitor, self.settings.run_dir, time.time(), running=False)
        await self._systemd.__aexit__(None, None, None)

    def checks(self) -> list[HealthCheck]:
        """The checks, but for that of this very service."""
        return [check for check in checks_of(self.settings, self._systemd) if check.name != "unit:health"]

    def _new_monitor(self, known: dict[str, State]) -> Monitor:
        try:
            checks = self.checks()
        except CheckError as error:
            raise ConfigurationError(str(error)) from error
        return Monitor(checks, Recoverer(self.settings, self._systemd), known)

    async def _supervise(self) -> None:
        """Stand by while the checks run; a reload replaces them."""
        while not self.stopping:
            running = self._looking
            assert running  # noqa: S101 - there is one from the start on
            await asyncio.wait([running])
            if running is self._looking and not running.cancelled():
                raise ServiceError(f"the checks ended: {running.exception()!r}")

    async def _tell(self) -> None:
        while True:
            await self._monitor.changed.wait()
            self._monitor.changed.clear()
            self._write()
            self.status(report.summary(self._monitor))
            await asyncio.sleep(_WRITE_SECONDS)

    def _write(self) -> None:
        report.write(self._monitor, self.settings.run_dir, time.time())
