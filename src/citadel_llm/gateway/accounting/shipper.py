"""Brings the spool to the database, in a thread of its own: no request ever waits for it.

The thread may die at any moment, with the process or before it: all that it knows stands on disk and in the
database. While the database is away it tries again, ever less often, and has the disk keep what waits.
"""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Event, Thread

import structlog

from citadel_llm.config.gateway import Accounting
from citadel_llm.gateway.accounting.folders import (
    abandoned_runs,
    clear,
    remove_run,
    spool_bytes,
    sync_segments,
)
from citadel_llm.gateway.accounting.metrics import AccountingMetrics
from citadel_llm.gateway.accounting.reader import RunReader
from citadel_llm.gateway.accounting.spool import SpoolWriter
from citadel_llm.store import StoreError
from citadel_llm.store.usage_delivery import StalePositionError, UsageDelivery

_log = structlog.get_logger("citadel.gateway.accounting")

# A batch of fewer records is not worth going on for at once.
_WORTH_GOING_ON = 1000
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_ADOPT_SECONDS = 5.0
_PRUNE_SECONDS = 3600.0
_PRUNE_MOST = 2000


class Shipper:
    """Delivers the spool of this process, and those of dead ones.

    Args:
        settings: Where the spools are, how often they are emptied, how long records are kept.
        writer: The spool of this process.
        delivery: The database.
        metrics: Told how it goes.
        wake: Set when the thread should not sleep on.
    """

    def __init__(
        self,
        settings: Accounting,
        writer: SpoolWriter,
        delivery: UsageDelivery,
        metrics: AccountingMetrics,
        wake: Event,
    ) -> None:
        self._writer, self._delivery, self._metrics, self._wake = writer, delivery, metrics, wake
        self._root, self._flush_seconds = settings.spool_dir, settings.flush_seconds
        self._keep = timedelta(days=settings.keep_days)
        self._reader: RunReader | None = None
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="usage", daemon=True)
        self._wait = 0.0  # longer each time that the database is away
        self._next_try = self._next_adoption = self._next_prune = 0.0
        self._away = self._full = False
        self._synced = 1

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Deliver what there is, if it can be done in time, and end.

        Args:
            seconds: How long to wait at most. What is not delivered by then, the next process delivers.

        Returns:
            Whether the thread has ended.
        """
        self._stopping.set()
        self._wake.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def tend(self) -> None:
        """Do all that is due now. Never raises: the next time may do better."""
        self._writer.prepare()
        self._say_whether_full()
        now = time.monotonic()
        if now < self._next_try:
            return
        try:
            self._deliver_own()
            if now >= self._next_adoption:
                self._deliver_abandoned()
                self._next_adoption = now + _ADOPT_SECONDS
            self._prune(now)
        except Exception as error:  # whatever it was, nothing is lost by trying again
            self._note_failure(error)
        else:
            self._note_reached()
            self._metrics.delivered.set(time.time())
        with suppress(OSError):
            self._metrics.spool.set(spool_bytes(self._root))
        if self._reader is not None:
            with suppress(OSError):
                self._metrics.undelivered.set(self._reader.behind())

    def finish(self) -> None:
        """Deliver the rest of this process's spool, whose writer is closed, and remove it if that worked.

        A request that is open still has been cut off.

        Raises:
            StoreError: The database is away.
        """
        if not self._writer.folder.exists():
            return
        reader = RunReader(
            self._writer.folder, self._delivery.position(self._writer.run)[0], None, self._note_damage
        )
        if self._deliver(self._writer.run, reader):
            remove_run(self._writer.folder)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self._flush_seconds)
            self._wake.clear()
            self.tend()
        try:
            self.finish()
        except Exception as error:
            reason = str(error) if isinstance(error, StoreError) else type(error).__name__
            _log.warning("usage is left in the spool for the next start", reason=reason)

    def _deliver_own(self) -> None:
        if self._reader is None:
            if not self._writer.folder.exists():
                return
            position, _ = self._delivery.position(self._writer.run)
            self._reader = RunReader(self._writer.folder, position, self._writer.tail, self._note_damage)
        try:
            # Not for as long as there is something: while requests come there always is, and the thread
            # would compete with the event loop for the processor, for a few records each time.
            self._deliver(self._writer.run, self._reader, least=_WORTH_GOING_ON)
        except StalePositionError:
            # The database was put back to an older state, or forward: its word is what counts.
            self._reader = None
            raise

    def _deliver_abandoned(self) -> None:
        clear(self._root)
        for folder in abandoned_runs(self._root):
            position, finished = self._delivery.position(folder.name)
            if not finished:
                _log.info("usage that another process left behind is taken over", run=folder.name)
                self._deliver(folder.name, RunReader(folder, position, None, self._note_damage))
            remove_run(folder)

    def _deliver(self, run: str, reader: RunReader, least: int = 0) -> bool:
        """Deliver what there is, and tell whether the run is finished.

        Args:
            run: Whose records they are.
            reader: Reads them.
            least: After a batch of fewer records the rest waits for the next time.
        """
        while batch := reader.batch():
            # What failed before may have been refused for what is in it.
            self._delivery.deliver(run, batch.made_to_fit() if self._away else batch)
            reader.took()
            self._note_reached()
            estimated = sum(record.estimated for record in batch.records)
            self._metrics.estimated.inc(estimated)
            self._metrics.counted.inc(len(batch.records) - estimated)
            if batch.finished:
                return True
            self._writer.prepare()
            if len(batch.records) < least:
                break
        return False

    def _prune(self, now: float) -> None:
        """Delete old records, a few at a time, so that no other writer waits long."""
        if now >= self._next_prune:
            deleted = self._delivery.prune(datetime.now(UTC) - self._keep, _PRUNE_MOST)
            if deleted < _PRUNE_MOST:
                self._next_prune = now + _PRUNE_SECONDS

    def _note_damage(self) -> None:
        self._metrics.damaged.inc()
        _log.error("a place in the spool cannot be read; the records around it are kept")

    def _note_failure(self, error: Exception) -> None:
        self._metrics.errors.inc()
        self._wait = min(self._wait * 2 or _FIRST_WAIT, _LONGEST_WAIT)
        self._next_try = time.monotonic() + self._wait
        if not self._away:
            reason = str(error) if isinstance(error, StoreError) else type(error).__name__
            _log.error("usage cannot be brought to the database; it is kept in the spool", reason=reason)
        self._away = True
        with suppress(OSError):
            newest = self._writer.tail().segment
            sync_segments(self._writer.folder, self._synced)
            self._synced = newest

    def _note_reached(self) -> None:
        self._wait = 0.0
        if self._away:
            _log.info("usage can be brought to the database again")
        self._away = False

    def _say_whether_full(self) -> None:
        problem = self._writer.problem
        if problem and not self._full:
            _log.error(
                "the spool has no room for more usage records; they are held in memory", reason=problem
            )
        elif self._full and not problem:
            _log.info("the spool has room again")
        self._full = bool(problem)
