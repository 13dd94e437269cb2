"""Who may ask: a bearer key, looked up by its hash in memory, never in the database.

The keys are read from the store in the background, every `keys_refresh_seconds`, and at once (but no more
often than `_MIN_INTERVAL` seconds) when a well-formed key is not known: one made a moment ago works, and
guessing keys neither floods the database nor is quick.

A key is looked up by its SHA-256 in a dictionary. Comparing is not done in constant time and need not be:
whoever measures it learns about the hash of what he sent, and cannot choose a key by its hash.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import structlog
from starlette.datastructures import Headers

from citadel_llm.gateway.errors import InvalidKeyError, KeysUnavailableError
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.store import KeyRecord, KeyStore, StoreError, hash_key
from citadel_llm.store.keys import KEY_PATTERN

_log = structlog.get_logger("citadel.gateway.keys")

_MIN_INTERVAL = 0.25


class KeyCache:
    """The live keys, in memory.

    Args:
        store: Where they are kept; read in a thread, since it blocks.
        refresh_seconds: How often they are read again.
        metrics: Told how many there are, and when they were read.
    """

    def __init__(self, store: KeyStore, refresh_seconds: float, metrics: GatewayMetrics) -> None:
        self._store = store
        self._refresh_seconds = refresh_seconds
        self._metrics = metrics
        self._keys: Mapping[str, KeyRecord] | None = None
        self._failed = False
        self._asked = asyncio.Event()
        self._reading: asyncio.Future[tuple[KeyRecord, ...]]
        self._next_read: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def find(self, plaintext: str) -> KeyRecord | None:
        """The live key's record, or None. Waits for one reading of the store if the key is not known.

        Raises:
            KeysUnavailableError: The store could not be read even once.
        """
        if not KEY_PATTERN.fullmatch(plaintext):
            return None
        key_hash = hash_key(plaintext)
        if self._keys is None or key_hash not in self._keys:
            await self.read_soon()
        if self._keys is None:
            raise KeysUnavailableError("The API keys cannot be read just now; try again soon.", retry_after=2)
        return self._keys.get(key_hash)

    async def read_soon(self) -> None:
        """Wait for a reading of the store that begins after this call."""
        self._asked.set()
        await asyncio.shield(self._next_read)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read the keys now and keep reading them while the context lasts."""
        await self._read()  # also sets `_reading`
        reader = asyncio.create_task(self._read_forever())
        try:
            yield
        finally:
            reader.cancel()
            # Its thread cannot be cancelled: a store closed under it would lose a connection.
            await asyncio.gather(reader, self._reading, return_exceptions=True)
            await asyncio.to_thread(self._store.close)

    async def _read_forever(self) -> None:
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
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._store.list, revoked=False))
            records = await asyncio.shield(self._reading)
        except Exception as error:  # whatever it was, the next reading may succeed
            self._metrics.key_read_errors.inc()
            if not self._failed:
                reason = str(error) if isinstance(error, StoreError) else type(error).__name__
                _log.error("keys cannot be read; those known stay in use", reason=reason)
            self._failed = True
        else:
            self._keys = {record.hash: record for record in records}
            self._metrics.keys_known.set(len(self._keys))
            self._metrics.keys_read.set(time.time())
            if self._failed:
                _log.info("keys can be read again", keys=len(self._keys))
            self._failed = False
        finally:
            if not done.done():
                done.set_result(None)


async def authenticate(headers: Headers, keys: KeyCache) -> KeyRecord:
    """The key that a request carries.

    Raises:
        InvalidKeyError: It carries none, or none that is live.
        KeysUnavailableError: The keys could not be read yet.
    """
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credentials.strip():
        raise InvalidKeyError("No API key was sent. Send it in the header 'Authorization: Bearer ck-…'.")
    record = await keys.find(credentials.strip())
    if record is None:
        raise InvalidKeyError("The API key is not valid, or no longer.")
    return record
