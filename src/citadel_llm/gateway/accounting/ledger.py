"""What the gateway sees of the accounting: note the begin, note the end, and all else happens elsewhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Event

from prometheus_client import CollectorRegistry

from citadel_llm.config import Settings
from citadel_llm.gateway.accounting.metrics import AccountingMetrics
from citadel_llm.gateway.accounting.shipper import Shipper
from citadel_llm.gateway.accounting.spool import SpoolWriter
from citadel_llm.store.database import Database
from citadel_llm.store.usage_delivery import UsageDelivery

_HELD_SECONDS = 0.25
# A gateway that stops does not wait longer for its database; the next one delivers what is left.
_STOP_SECONDS = 5.0


class Ledger:
    """Notes the use of models. `begin` and `end` take microseconds and never wait.

    Args:
        settings: Where the spool is, and the database.
        registry: Where its metrics are shown.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self.metrics = AccountingMetrics(registry)
        accounting = settings.gateway.accounting
        self._database = Database(settings.gateway.database_url())
        wake = Event()
        self._writer = SpoolWriter(accounting.spool_dir, accounting.spool_max_bytes, self.metrics, wake.set)
        self._shipper = Shipper(accounting, self._writer, UsageDelivery(self._database), self.metrics, wake)
        # Bound once: a call less for each request.
        self.begin = self._writer.begin
        self.end = self._writer.end

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep records while the context lasts, and deliver them.

        A database or a spool that cannot be used keeps nobody waiting, and nobody from starting.
        """
        await asyncio.to_thread(self._writer.prepare)
        self._shipper.start()
        held = asyncio.create_task(self._write_held())
        try:
            yield
        finally:
            held.cancel()
            self._writer.close()
            if await asyncio.to_thread(self._shipper.stop, _STOP_SECONDS):
                self._writer.release()
                self._database.close()

    async def _write_held(self) -> None:
        """Write what waits in memory as soon as there is room, also when no request comes."""
        while True:
            await asyncio.sleep(_HELD_SECONDS)
            if self._writer.holding:
                self._writer.write_held()
