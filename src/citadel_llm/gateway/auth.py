"""Who may ask: a key, looked up by its hash in memory, never in the database.

The keys are read from the store in the background, every `keys_refresh_seconds`, and at once (but no more
often than `_MIN_INTERVAL` seconds) when a well-formed key is not known: one made a moment ago works, and
guessing keys neither floods the database nor is quick. After the first time only what has changed is read.

A key is looked up by its SHA-256 in a dictionary. Comparing is not done in constant time and need not be:
whoever measures it learns about the hash of what he sent, and cannot choose a key by its hash.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256

import structlog
from prometheus_client import CollectorRegistry, Gauge
from starlette.datastructures import Headers

from citadel_llm.gateway.errors import InvalidKeyError, KeysUnavailableError, NotAllowedError
from citadel_llm.gateway.headers import api_key
from citadel_llm.gateway.key_snapshot import KeySnapshot, SnapshotError
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.store import KeyMark, KeyRecord, KeyStore, StoreError
from citadel_llm.store.record import KEY_PATTERN

_log = structlog.get_logger("citadel.gateway.keys")

_MIN_INTERVAL = 0.25
# For how long a start waits for the database before it makes do with the snapshot.
_START_SECONDS = 2.0
# While the database is away, it is said again this often.
_REMINDER_SECONDS = 600.0
# A snapshot is written at most once in so many times as long as writing it takes, and in so many seconds.
_SNAPSHOT_SHARE = 20
_SNAPSHOT_INTERVAL = 0.5


class KeyMetrics:
    """What is told of the keys beside `GatewayMetrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.from_snapshot = Gauge(
            "citadel_gateway_keys_from_snapshot",
            "Whether the keys are those of the snapshot on disk (1), since the database was not read yet.",
            registry=registry,
        )


class _Keys:
    """Keys by their hashes, and by their ids."""

    def __init__(self, records: Iterable[KeyRecord]) -> None:
        self.by_id: dict[str, KeyRecord] = {}
        # With the Unix time at which the hash stops working.
        self.by_hash: dict[str, tuple[KeyRecord, float]] = {}
        for record in records:
            self.put(record)

    def put(self, record: KeyRecord) -> None:
        """Take a key's record in, in place of the one that was known; a revoked one is forgotten."""
        before = self.by_id.pop(record.id, None)
        if before is not None:
            self.by_hash.pop(before.hash, None)
            if before.previous_hash:
                self.by_hash.pop(before.previous_hash, None)
        if record.revoked_at is not None:
            return
        self.by_id[record.id] = record
        until = record.expires_at.timestamp() if record.expires_at else math.inf
        self.by_hash[record.hash] = (record, until)
        if record.previous_hash and record.previous_expires_at:
            self.by_hash[record.previous_hash] = (record, min(until, record.previous_expires_at.timestamp()))


class KeyCache:
    """The keys that are not revoked, in memory.

    Args:
        store: Where they are kept; read in a thread, since it blocks.
        refresh_seconds: How often they are read again.
        metrics: Told how many there are, and when they were read.
        snapshot: Where they are kept on this host for a start without the database; None: nowhere.
    """

    def __init__(
        self,
        store: KeyStore,
        refresh_seconds: float,
        metrics: GatewayMetrics,
        snapshot: KeySnapshot | None = None,
    ) -> None:
        self.store = store
        self.checked_at: float | None = None
        """When the database last said which keys are revoked, in Unix time; None: never yet."""
        self._refresh_seconds = refresh_seconds
        self._metrics = metrics
        self._own_metrics = KeyMetrics(metrics.registry)
        self._keys: _Keys | None = None
        self._mark: KeyMark | None = None
        self._failed = False
        self._say_again = 0.0
        self._asked = asyncio.Event()
        self._reading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading.set_result(None)
        self._next_read: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._snapshots = None if snapshot is None else _SnapshotWriter(snapshot)

    def find_hash(self, key_hash: str) -> KeyRecord | None:
        """The record of a key that works now and is known here, by its hash; never waits.

        None is not the last word: the key may be newer than the last reading. `find` looks.
        """
        entry = self._keys.by_hash.get(key_hash) if self._keys is not None else None
        return entry[0] if entry is not None and time.time() < entry[1] else None

    def find_now(self, plaintext: str) -> KeyRecord | None:
        """The same by the key itself."""
        return self.find_hash(sha256(plaintext.encode(errors="replace")).hexdigest())

    async def find(self, plaintext: str) -> KeyRecord | None:
        """The record of a key that works, or None. Waits for one reading of the store if it is not known.

        Raises:
            KeysUnavailableError: The store could not be read even once, and there is no snapshot.
        """
        record = self.find_now(plaintext)
        if record is not None:
            return record
        if not KEY_PATTERN.fullmatch(plaintext):
            return None
        await self.read_soon()
        if self._keys is None:
            raise KeysUnavailableError("The API keys cannot be read just now; try again soon.", retry_after=2)
        return self.find_now(plaintext)

    def refusal(self, plaintext: str) -> InvalidKeyError:
        """Why a key is refused for which `find` gives None: told to its holder alone, who has sent it."""
        message = "The API key is not valid, or no longer."
        key_hash = sha256(plaintext.encode(errors="replace")).hexdigest()
        entry = self._keys.by_hash.get(key_hash) if self._keys else None
        if entry is not None:
            record, until = entry
            ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(until))
            if key_hash != record.hash:
                message = f"The API key was replaced by a new one and ended on {ended}."
            else:
                message = f"The API key expired on {ended}."
        return InvalidKeyError(message)

    async def read_soon(self) -> None:
        """Wait for a reading of the store that begins after this call."""
        self._asked.set()
        await asyncio.shield(self._next_read)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read the keys, or at first the snapshot if that takes too long, and keep reading in the context."""
        first = asyncio.create_task(self._read())
        reader = asyncio.create_task(self._read_forever(first))
        try:
            await asyncio.wait((first,), timeout=_START_SECONDS)
            if self._keys is None:
                await self._use_snapshot()
            yield
        finally:
            reader.cancel()
            # Its thread cannot be cancelled: a store closed under it would lose a connection.
            await asyncio.gather(reader, first, self._reading, return_exceptions=True)
            if self._snapshots is not None:
                await self._snapshots.finish(self._keys, self.checked_at)
            await asyncio.to_thread(self.store.close)

    async def _read_forever(self, first: asyncio.Task[None]) -> None:
        await asyncio.shield(first)
        while True:
            await asyncio.sleep(_MIN_INTERVAL)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), max(self._refresh_seconds - _MIN_INTERVAL, 0))
            await self._read()

    async def _read(self) -> None:
        # Who asks from here on may have made a key that this reading does not see: he waits for the next.
        self._asked.clear()
        done, self._next_read = self._next_read, asyncio.get_running_loop().create_future()
        try:
            self._reading = asyncio.ensure_future(self._take_changes())
            await asyncio.shield(self._reading)
        except Exception as error:  # whatever it was, the next reading may succeed
            self._metrics.key_read_errors.inc()
            self._note_failure(str(error) if isinstance(error, StoreError) else type(error).__name__)
        else:
            if self._failed:
                _log.info("keys can be read again", keys=self._count())
            self._failed = False
        finally:
            if not done.done():
                done.set_result(None)

    async def _take_changes(self) -> None:
        began = time.time()
        mark = self._mark
        changes = await asyncio.to_thread(self.store.changes, mark)
        changed = bool(changes.records) or changes.whole
        if changes.whole:
            # Thousands of them take a while: not in the event loop.
            self._keys = await asyncio.to_thread(_Keys, changes.records)
        elif self._keys is not None:
            for record in changes.records:
                self._keys.put(record)
        # With the number that is known here, not the database's: where they differ, somebody has changed keys
        # past the store, and the next reading reads all.
        self._mark = KeyMark(changes.mark.revision, self._count())
        self.checked_at = began
        self._metrics.keys_known.set(self._count())
        self._metrics.keys_read.set(began)
        self._own_metrics.from_snapshot.set(0)
        if self._snapshots is not None and self._keys is not None:
            self._snapshots.note(self._keys, began, changed=changed)

    def _note_failure(self, reason: str) -> None:
        now = time.monotonic()
        if not self._failed or now >= self._say_again:
            _log.error(
                "keys cannot be read; those known stay in use, and none of them can be revoked",
                reason=reason,
                checked_seconds_ago=self._seconds_ago(),
            )
            self._say_again = now + _REMINDER_SECONDS
        self._failed = True

    async def _use_snapshot(self) -> None:
        if self._snapshots is None:
            return
        try:
            found = await asyncio.to_thread(self._snapshots.snapshot.read)
        except SnapshotError as error:
            _log.error("the snapshot of the keys is refused", reason=str(error))
            return
        # Meanwhile the database may have answered.
        if found is None or self._keys is not None:
            return
        records, self.checked_at = found
        self._keys = _Keys(records)
        self._metrics.keys_known.set(self._count())
        self._metrics.keys_read.set(self.checked_at)
        self._own_metrics.from_snapshot.set(1)
        _log.warning(
            "the database does not give the keys: those of the snapshot are used until it does",
            keys=self._count(),
            checked_seconds_ago=self._seconds_ago(),
        )

    def _count(self) -> int:
        return len(self._keys.by_id) if self._keys else 0

    def _seconds_ago(self) -> int | None:
        return None if self.checked_at is None else max(0, round(time.time() - self.checked_at))


class _SnapshotWriter:
    """Keeps the snapshot on disk up to date, in a thread, without doing hardly anything else."""

    def __init__(self, snapshot: KeySnapshot) -> None:
        self.snapshot = snapshot
        self._stale = False
        self._not_before = 0.0
        self._writing: asyncio.Task[None] | None = None
        self._failed = False

    def note(self, keys: _Keys, checked: float, *, changed: bool) -> None:
        """Note that the keys were read at this Unix time."""
        self._stale = self._stale or changed
        if self._writing is not None and not self._writing.done():
            return
        if not self._stale:
            self.snapshot.confirm(checked)
        elif time.monotonic() >= self._not_before:
            self._stale = False
            self._writing = asyncio.create_task(self._write(keys, checked))

    async def finish(self, keys: _Keys | None, checked: float | None) -> None:
        """Write what is not written yet."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        if self._stale and keys is not None and checked is not None:
            await self._write(keys, checked)

    async def _write(self, keys: _Keys, checked: float) -> None:
        records = list(keys.by_id.values())
        began = time.monotonic()
        try:
            await asyncio.to_thread(self.snapshot.write, records, checked)
        except SnapshotError as error:
            if not self._failed:
                _log.warning(
                    "the keys cannot be kept on disk: no start without the database", reason=str(error)
                )
            self._failed = self._stale = True
        else:
            self._failed = False
        took = time.monotonic() - began
        self._not_before = began + max(_SNAPSHOT_INTERVAL, took * _SNAPSHOT_SHARE)


async def authenticate(headers: Headers, keys: KeyCache, *, admin: bool = False) -> KeyRecord:
    """The key that a request carries.

    Args:
        headers: The request's.
        keys: The keys.
        admin: Whether the admin API is asked, rather than models.

    Raises:
        InvalidKeyError: It carries none, or none that works.
        NotAllowedError: The key's scope is not for this.
        KeysUnavailableError: The keys could not be read yet.
    """
    plaintext = api_key(headers)
    if plaintext is None:
        raise InvalidKeyError("No API key was sent. Send it in the header 'Authorization: Bearer ck-…'.")
    record = await keys.find(plaintext)
    if record is None:
        raise keys.refusal(plaintext)
    check_scope(record, admin=admin)
    return record


def check_scope(record: KeyRecord, *, admin: bool = False) -> None:
    """Check that a key is for the part of the API that is asked.

    Raises:
        NotAllowedError: It is not.
    """
    if admin and record.scope != "admin":
        raise NotAllowedError("This key is not for the admin API: that takes a key of the scope 'admin'.")
    if not admin and not record.calls_models:
        raise NotAllowedError("This key is for the admin API; it may call no model unless it names some.")
