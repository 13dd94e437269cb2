"""A client's connection for the load: with as little work as it takes to see that an answer is right."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_OK = b" 200"

Ended = Callable[["Client", str], None]


class Client(asyncio.Protocol):
    """One connection that asks one thing after another.

    Attributes:
        on_end: Called when an answer is over, with what was wrong with it, or nothing.
        asked_at: When the request was sent (`time.perf_counter`, s).
        first_at: When the first bytes of the answer's body came, 0 before.
        events: Events of the stream so far: blank lines, in truth.
        late: For a paced stream: how late each event came after its time, in seconds, if it is a list.
    """

    def __init__(self, on_end: Ended) -> None:
        self.on_end = on_end
        self.transport: asyncio.Transport | None = None
        self.asked_at = self.first_at = 0.0
        self.events = 0
        self.late: list[float] | None = None
        self.pause = 0.0
        self.body: list[bytes] | None = None
        self._busy = False
        self._head = b""
        self._in_body = False
        self._missing = -1
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's own are not of asyncio's classes.
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; in the middle of an answer that is an error."""
        self.transport = None
        if self._busy:
            self._end(f"connection lost: {exc or 'closed'}")

    def ask(self, request: bytes) -> None:
        """Send a request."""
        self._busy, self._in_body, self._missing = True, False, -1
        self._head = self._tail = b""
        self.events, self.first_at = 0, 0.0
        self.asked_at = time.perf_counter()
        if self.transport is None:
            self._end("connection lost: before the request")
        else:
            self.transport.write(request)

    def close(self) -> None:
        """Hang up, whatever is going on."""
        self._busy = False
        if self.transport:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if not self._in_body:
            if self._head:
                data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            if not data.startswith(_OK, 8):
                self._end(data[:200].decode("latin-1").split("\r\n", 1)[0])
                self.close()
                return
            self._in_body = True
            if length := _LENGTH.search(data, 0, end):
                self._missing = int(length[1])
            elif not _CHUNKED.search(data, 0, end):
                self._end("an answer without a length")
                self.close()
                return
            data = data[end + 4 :]
            if not data and self._missing:
                return
        if not self.first_at:
            self.first_at = time.perf_counter()
        if self.body is not None:
            self.body.append(data)
        if self._missing >= 0:
            self._missing -= len(data)
            if self._missing == 0:
                self._end("")
            elif self._missing < 0:
                self._end("more than was promised")
                self.close()
            return
        self._take_chunks(data)

    def _take_chunks(self, data: bytes) -> None:
        self.events += data.count(b"\n\n")
        if self.late is not None:
            # The n-th event is due n pauses after the first.
            self.late.append(time.perf_counter() - self.first_at - (self.events - 1) * self.pause)
        tail = data[-len(_LAST_CHUNK) :]
        if len(tail) < len(_LAST_CHUNK):
            tail = (self._tail + tail)[-len(_LAST_CHUNK) :]
        self._tail = tail
        if tail == _LAST_CHUNK:
            self._end("")

    def _end(self, wrong: str) -> None:
        self._busy = False
        self.on_end(self, wrong)


def unchunked(parts: list[bytes]) -> bytes:
    """The text of a chunked body."""
    rest, text = b"".join(parts), []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        text.append(rest[:length])
        rest = rest[length + 2 :]
    return b"".join(text)
