"""A service for the tests, run as a process of its own: what it does wrong stands in $PROBE."""

import asyncio
import os

from citadel_llm.services.base_service import BaseService, run_service
from citadel_llm.services.errors import ConfigurationError


class ProbeService(BaseService):
    name = "probe"
    start_timeout = 0.3
    drain_timeout = 0.3

    async def configure(self) -> None:
        if self.wrong("configure"):
            raise ConfigurationError("nothing to serve")

    async def start(self) -> None:
        if self.wrong("start"):
            raise ValueError("no start")
        if self.wrong("slow-start"):
            await asyncio.sleep(60)
        if self.wrong("background"):
            self.spawn(self._break(), "the background")

    async def reload(self) -> None:
        if self.wrong("reload"):
            raise ValueError("no reload")
        self.log.info("took over", level_now=self.settings.logging.level)

    async def drain(self) -> None:
        self.log.info("draining")
        if self.wrong("slow-drain"):
            await asyncio.sleep(60)

    async def stop(self) -> None:
        self.log.info("stopping")

    async def healthy(self) -> bool:
        return not self.wrong("health")

    async def _break(self) -> None:
        await asyncio.sleep(0.1)
        raise ValueError("broken")

    def wrong(self, what: str) -> bool:
        return os.environ.get("PROBE") == what


raise SystemExit(run_service(ProbeService))
