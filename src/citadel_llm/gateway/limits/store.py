"""The counters that several gateways share, in Valkey or Redis.

The connection is the library's (`limits`, its asyncio storage on `valkey`). Its strategies ask for each
request by itself, and its exact one keeps an entry for each token; here, all that is to be told and read goes
in one round trip for all keys, as additions to plain counters, over the storage's own connection.
"""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from limits.aio.storage import RedisStorage
from valkey.exceptions import ValkeyError

from citadel_llm.config.parts import SecretReference
from citadel_llm.gateway.limits.windows import Step

PREFIX = "citadel:limits"
# How long connecting and an answer may take. Nobody waits for it but the exchange itself.
_TIMEOUT_SECONDS = 1.0
_DEFAULT_PORT = 6379


class LimitStoreError(Exception):
    """The store cannot be used now. The text names no password."""


class LimitStore:
    """The shared counters. Nothing is opened before the first use.

    Args:
        url: As in `gateway.limits.store`.
        password: Where the password is to be found; read at each new beginning.
    """

    def __init__(self, url: str, password: SecretReference | None) -> None:
        self._url = _library_url(url)
        self._password = password
        self._storage: RedisStorage | None = None

    async def check(self) -> None:
        """Whether it answers.

        Raises:
            LimitStoreError: It does not.
        """
        await self._run([("PING",)])

    async def exchange(self, steps: Sequence[Step]) -> list[int]:
        """Take all steps in one round trip; each counter's value after it.

        Raises:
            LimitStoreError: It did not answer. Whether it took the steps is not known.
        """
        commands: list[tuple[str | int, ...]] = []
        for step in steps:
            counter = f"{PREFIX}:{step.counter}"
            if step.add:
                commands.append(("INCRBY", counter, step.add))
                commands.append(("EXPIRE", counter, step.keep_seconds))
            else:
                commands.append(("GET", counter))
        answers = iter(await self._run(commands))
        values = []
        for step in steps:
            values.append(int(next(answers) or 0))
            if step.add:
                next(answers)
        return values

    async def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        storage, self._storage = self._storage, None
        if storage is not None:
            try:
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    await _client(storage).aclose()
            except (ValkeyError, OSError, TimeoutError):
                pass  # it is gone already

    async def _run(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                pipeline = _client(self._open()).pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                answers: list[Any] = await pipeline.execute()
                return answers
        except (ValkeyError, OSError, TimeoutError) as error:
            # A connection whose answers were not all read is of no use any more.
            await self.close()
            raise LimitStoreError(_reason(error)) from None

    def _open(self) -> RedisStorage:
        if self._storage is None:
            options: dict[str, Any] = {
                "socket_connect_timeout": _TIMEOUT_SECONDS,
                "socket_timeout": _TIMEOUT_SECONDS,
            }
            if self._password is not None:
                options["password"] = self._password.read()
            self._storage = RedisStorage(self._url, key_prefix=PREFIX, **options)
        return self._storage


def _client(storage: RedisStorage) -> Any:
    # What the bridge's base class does not declare, each of its kinds has.
    return storage.bridge.get_connection()  # type: ignore[attr-defined]


def _library_url(url: str) -> str:
    """The URL as the library takes it: with a port, and in the words of the valkey client."""
    parts = urlsplit(url)
    scheme = {"redis": "valkey", "rediss": "valkeys"}.get(parts.scheme, parts.scheme)
    netloc = parts.netloc if parts.port else f"{parts.netloc.rstrip(':')}:{_DEFAULT_PORT}"
    return f"async+{urlunsplit(parts._replace(scheme=scheme, netloc=netloc))}"


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT_SECONDS:g} s"
    return str(error) or type(error).__name__
