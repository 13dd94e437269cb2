"""The way to one engine: HTTP/1.1 over its unix socket, or over TCP to the gateway of another node.

A connection is an asyncio.Protocol that calls its exchange back with what comes; it needs no task and no
await for a request. Connections that are idle are kept and used again, the last one first.
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Protocol, cast

import httptools

from citadel_llm.gateway.errors import (
    EngineDownError,
    EngineError,
    EngineFailedError,
    EngineTimeoutError,
)
from citadel_llm.gateway.wire.heads import AnswerHead, Header
from citadel_llm.gateway.wire.known_head import KnownHead

RETRY_AFTER = 2
"""Seconds after which a client may try an engine again that is down: about two health checks."""

# The engine's own server closes an idle connection after 5 s; taking one at that moment would lose a request.
_IDLE_SECONDS = 3.0
_IDLE_LIMIT = 256
# What an engine's head may take at most: it is ours, so this is against nonsense, not against an enemy.
_HEAD_LIMIT = 1 << 16


@dataclass(frozen=True)
class UnixAddress:
    """An engine of this host."""

    path: Path
    """Its socket; need not exist yet."""
    headers: bytes = b""
    """Header lines for every request."""
    host: bytes = b"engine"
    """For the Host header; the socket alone decides where a request goes."""


@dataclass(frozen=True)
class TcpAddress:
    """The gateway of another node."""

    name: str
    port: int
    tls: ssl.SSLContext | None
    """How its certificate is checked; None for plain HTTP."""
    headers: bytes
    """Header lines for every request: the key among them."""
    host: bytes
    """For the Host header."""


class Asker(Protocol):
    """Who waits for an engine's answer. Its methods are called from the event loop and must not block."""

    __slots__ = ()

    def on_connected(self, connection: "Connection") -> None:
        """The connection is there: send the request."""

    def on_head(self, head: AnswerHead) -> None:
        """The answer's head has come."""

    def on_data(self, data: bytes) -> None:
        """Some of the answer's body has come."""

    def on_end(self) -> None:
        """The answer is complete. The connection has gone back already."""

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        """All of the answer has come at once, of status 200: instead of the three above.

        The head is that of another answer, whose length may have been another.
        """

    def on_failed(self, error: EngineError, *, reused: bool) -> None:
        """There will be no more. `reused`: on a kept connection that gave nothing; it may just have aged."""


class Connection(asyncio.Protocol):
    """One connection, which carries one request at a time."""

    def __init__(self, client: "EngineClient") -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._asker: Asker | None = None
        self._headers: list[Header] = []
        self._head_bytes = 0
        # What came last, while a head that it begins with may be worth remembering.
        self._begin = b""
        self._heard = False
        self._served = 0
        self._paused = False
        self.idle_since = 0.0

    # For the exchange.

    def ask(self, asker: Asker, *parts: bytes | memoryview) -> None:
        """Send a request: its parts, in order, of which the first holds the whole head."""
        transport = self._transport
        assert transport is not None  # noqa: S101 - only a connection that was made is handed out
        self._asker = asker
        self._heard = False
        if len(parts) == 1:
            transport.write(parts[0])
        else:
            # Together in one system call, and the engine's process is woken once.
            transport.writelines(parts)

    def drop(self) -> None:
        """Close at once: the engine notices that nobody listens. The asker hears nothing more."""
        self._asker = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Read no more for now: what is not read stays with the engine and slows it down."""
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def usable(self) -> bool:
        """Whether a request can be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    # From the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """From the event loop."""
        if self._asker is None:
            # An engine that speaks without having been asked cannot be understood.
            self._close()
            return
        if not self._heard:
            self._heard = True
            known = self._client.known_head
            body = known.body_of(data) if known is not None else None
            if known is not None and body is not None:
                asker, self._asker = self._asker, None
                self._served += 1
                self._go_back()
                asker.on_whole(known.meaning, body)
                return
            self._begin = data
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(EngineFailedError(self._client.broke_off))
        self._begin = b""

    def eof_received(self) -> None:
        """From the event loop: the transport closes."""

    def connection_lost(self, _error: Exception | None) -> None:
        """From the event loop."""
        self._client.forget(self)
        self._fail(EngineFailedError(self._client.broke_off))
        self._transport = None

    # From the parser.

    def on_message_begin(self) -> None:
        """From the parser."""
        if self._asker is None:
            raise ValueError("it speaks without having been asked")
        self._headers = []
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """From the parser."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _HEAD_LIMIT:
            raise ValueError("the head is too long")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """From the parser."""
        status = self._parser.get_status_code()
        if self._asker is None or status < 200:  # noqa: PLR2004 - below are interim answers
            # What follows those is no longer at the beginning.
            self._begin = b""
            return
        head = AnswerHead(status, self._headers)
        if self._begin and head.length and status == HTTPStatus.OK and self._parser.should_keep_alive():
            self._client.known_head = KnownHead.of(self._begin, head)
        self._asker.on_head(head)

    def on_body(self, data: bytes) -> None:
        """From the parser."""
        if self._asker is not None:
            self._asker.on_data(data)

    def on_message_complete(self) -> None:
        """From the parser."""
        if self._parser.get_status_code() < 200:  # noqa: PLR2004
            return
        asker, self._asker = self._asker, None
        self._served += 1
        if self._parser.should_keep_alive():
            self._go_back()
        else:
            self._close()
        if asker is not None:
            asker.on_end()

    def _go_back(self) -> None:
        """Be kept for the next request."""
        if self._paused:
            self.resume()
        self._client.keep(self)

    def _fail(self, error: EngineError) -> None:
        asker, self._asker = self._asker, None
        self._close()
        if asker is not None:
            asker.on_failed(error, reused=self._served > 0 and not self._heard)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Page:
    """Asks for one small page, whole."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._status = 0
        self._body = bytearray()
        self.done: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.connection: Connection | None = None

    def on_connected(self, connection: Connection) -> None:
        self.connection = connection
        if self.done.done():
            connection.drop()
        else:
            connection.ask(self, self._request)

    def on_head(self, head: AnswerHead) -> None:
        self._status = head.status

    def on_data(self, data: bytes) -> None:
        self._body += data

    def on_end(self) -> None:
        self.connection = None
        if not self.done.done():
            self.done.set_result((self._status, bytes(self._body)))

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        self.on_head(head)
        self.on_data(body)
        self.on_end()

    def on_failed(self, error: EngineError, *, reused: bool) -> None:  # noqa: ARG002
        self.connection = None
        if not self.done.done():
            self.done.set_exception(error)


class EngineClient:
    """The connections to one engine. Made inside a running event loop, closed by its maker.

    Args:
        name: The model's name, for messages.
        address: Where the engine answers.
        connect_timeout: Seconds that connecting may take.
    """

    def __init__(self, name: str, address: UnixAddress | TcpAddress, *, connect_timeout: float) -> None:
        self._name = name
        self._address = address
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._idle: deque[Connection] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self.known_head: KnownHead[AnswerHead] | None = None
        """That of an answer before: the next one's is the same but for its length, and the date."""
        self.broke_off = f"The engine of the model '{name}' broke off; try again."
        self.headers = b"host: %b\r\n%b" % (address.host, address.headers)
        """Header lines that every request carries."""

    def connect(self, asker: Asker, *, fresh: bool = False) -> asyncio.Task[None] | None:
        """Call the asker back with a connection: at once with a kept one, else when one is made.

        Args:
            asker: Gets `on_connected`, or `on_failed` with an EngineDownError.
            fresh: Use no kept connection.

        Returns:
            None when the asker has its connection already; else what to cancel to be called back no more.
        """
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.usable:
                asker.on_connected(connection)
                return None
        task = self._loop.create_task(self._connect(asker))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return task

    async def _connect(self, asker: Asker) -> None:
        address, connection = self._address, Connection(self)
        try:
            async with asyncio.timeout(self._connect_timeout):
                if isinstance(address, UnixAddress):
                    await self._loop.create_unix_connection(lambda: connection, str(address.path))
                else:
                    await self._loop.create_connection(
                        lambda: connection, address.name, address.port, ssl=address.tls
                    )
        except asyncio.CancelledError:
            # Perhaps just when it was there: nobody else knows of it.
            connection.drop()
            raise
        except (OSError, TimeoutError) as error:
            message = f"The model '{self._name}' is not available just now; try again soon."
            down = EngineDownError(message, retry_after=RETRY_AFTER)
            down.__cause__ = error
            asker.on_failed(down, reused=False)
        else:
            asker.on_connected(connection)

    def keep(self, connection: Connection) -> None:
        """Take a connection back whose answer is complete."""
        if len(self._idle) >= _IDLE_LIMIT:
            connection.drop()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Keep a connection no longer that was closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close connections that were idle for too long; to be called about every half second."""
        while self._idle and now - self._idle[0].idle_since > _IDLE_SECONDS:
            self._idle.popleft().drop()

    async def get(self, path: str, *, within: float) -> tuple[int, bytes]:
        """Fetch a small page whole within so many seconds: its status and body.

        Raises:
            EngineError: It did not come.
        """
        page = _Page(b"GET %b HTTP/1.1\r\n%b\r\n" % (path.encode(), self.headers))
        try:
            async with asyncio.timeout(within):
                # A fresh connection: whether the engine accepts one is part of the question.
                self.connect(page, fresh=True)
                return await page.done
        except TimeoutError as error:
            message = f"The engine of the model '{self._name}' sent nothing for too long."
            raise EngineTimeoutError(message) from error
        finally:
            if page.connection is not None:
                page.connection.drop()

    async def close(self) -> None:
        """Close all connections that carry no request."""
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        while self._idle:
            self._idle.popleft().drop()
