"""The way to one engine: HTTP over its unix socket, with every failure as one of `EngineError`."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
from multidict import CIMultiDictProxy

from citadel_llm.gateway.errors import EngineDownError, EngineFailedError, EngineTimeoutError

# The engine's own server closes an idle connection after 5 s; taking one at that moment would lose a request.
_IDLE_SECONDS = 3

# A host name for the Host header; the socket alone decides where a request goes.
_BASE = "http://engine"

RETRY_AFTER = 2
"""Seconds after which a client may try an engine again that is down: about two health checks."""


class UpstreamResponse:
    """An engine's answer, of which the body is still to come."""

    def __init__(self, response: aiohttp.ClientResponse, model: str) -> None:
        self._response = response
        self._model = model

    @property
    def status(self) -> int:
        """HTTP status."""
        return self._response.status

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers, as the engine sent them."""
        return self._response.headers

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The body as it comes. What is not fetched stays with the engine: reading slowly slows it down.

        Raises:
            EngineError: It broke off, or sent nothing for too long.
        """
        with _as_engine_errors(self._model):
            async for chunk in self._response.content.iter_any():
                yield chunk

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            EngineError: It broke off, or sent nothing for too long.
        """
        with _as_engine_errors(self._model):
            return await self._response.read()


class EngineClient:
    """Connections to one engine. Made inside a running event loop, closed by its maker.

    Args:
        model: The model's name, for messages.
        socket: The engine's unix socket; need not exist yet.
        connect_timeout: Seconds that connecting may take.
        read_timeout: Seconds that the engine may send nothing.
    """

    def __init__(self, model: str, socket: Path, *, connect_timeout: float, read_timeout: float) -> None:
        self._model = model
        # No limit and no queue here: how many requests run at once is for the engine to decide.
        connector = aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=_IDLE_SECONDS)
        self._session = aiohttp.ClientSession(
            _BASE,
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=read_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        )

    @asynccontextmanager
    async def post(
        self, path: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[UpstreamResponse]:
        """Send a request. On leaving the context the connection is closed unless the answer was read whole.

        Raises:
            EngineDownError: The engine does not answer; nothing was begun.
            EngineFailedError: It broke off before its answer began.
            EngineTimeoutError: It did not begin to answer in time.
        """
        with _as_engine_errors(self._model):
            response = await self._session.post(path, data=body, headers=headers, allow_redirects=False)
        try:
            yield UpstreamResponse(response, self._model)
        finally:
            # Closing, where releasing would do for an answer read to its end: it tells the engine at once
            # that nobody listens. An answer at its end has given its connection back already.
            response.close()

    async def get(self, path: str, *, within: float) -> tuple[int, bytes]:
        """Fetch a small page whole within so many seconds: its status and body.

        Raises:
            EngineError: It did not come.
        """
        timeout = aiohttp.ClientTimeout(total=within)
        with _as_engine_errors(self._model):
            async with self._session.get(path, timeout=timeout, allow_redirects=False) as response:
                return response.status, await response.read()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


@contextmanager
def _as_engine_errors(model: str) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise EngineDownError(_down(model), retry_after=RETRY_AFTER) from error
    except TimeoutError as error:
        message = f"The engine of the model '{model}' sent nothing for too long; the request was given up."
        raise EngineTimeoutError(message) from error
    except (aiohttp.ClientError, OSError) as error:
        raise EngineFailedError(f"The engine of the model '{model}' broke off; try again.") from error


def _down(model: str) -> str:
    return f"The model '{model}' is not available just now; try again soon."
