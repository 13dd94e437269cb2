"""What the client gets: the engine's answer piece by piece as it comes, and an end that nobody misreads."""

from time import monotonic
from typing import TYPE_CHECKING

from citadel_llm.gateway.errors import GatewayError, error_event, error_response
from citadel_llm.gateway.usage_reader import UsageReader
from citadel_llm.gateway.wire.heads import (
    LAST_CHUNK,
    Header,
    chunk,
    header_lines,
    passed_on,
    response_head,
)

if TYPE_CHECKING:
    from citadel_llm.gateway.exchange import Exchange

# An event that is longer than this is not waited for; only its failing half way would then be misread.
_HELD_LIMIT = 1 << 20

_EVENT_STREAM = b"text/event-stream"
# Or a reverse proxy in front holds events back until it has many.
_UNBUFFERED = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"


class WholeEvents:
    r"""Cuts a byte stream of server-sent events so that what is passed on always ends with a whole event.

    An error event can then follow at any time; after half an event it would be taken for the rest of it.
    vLLM writes whole events, so that nearly always a chunk passes as it is.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be passed on of all that came so far; empty when it is only part of an event."""
        if not self._held and data.endswith(b"\n\n"):
            return data
        data = self._held + data
        end = max(_after(data, b"\n\n"), _after(data, b"\r\n\r\n"))
        if not end and len(data) > _HELD_LIMIT:
            end = len(data)
        self._held = data[end:]
        return data[:end]

    def rest(self) -> bytes:
        """What was held back, for a stream that has ended well."""
        held, self._held = self._held, b""
        return held


def _after(data: bytes, mark: bytes) -> int:
    position = data.rfind(mark)
    return position + len(mark) if position >= 0 else 0


class Answer:
    """Writes the answer of one exchange to its client.

    Attributes:
        begun: Whether the client has got any of it.
        relayed: Whether the client has got any of an engine's answer.
        status: HTTP's; 0 until it is known.
        first_byte_at: When its first byte was written, in the event loop's time.
        sent: Bytes of its body so far.
        usage: How many tokens it took, as far as is known.
    """

    __slots__ = (
        "_chunked",
        "_events",
        "_exchange",
        "_head",
        "_strip_usage",
        "begun",
        "first_byte_at",
        "relayed",
        "sent",
        "status",
        "usage",
    )

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._head = b""
        self._chunked = False
        self._events: WholeEvents | None = None
        self._strip_usage = False
        self.begun = self.relayed = False
        self.status = 0
        self.first_byte_at: float | None = None
        self.sent = 0
        self.usage = UsageReader()

    def on_head(self, status: int, headers: list[Header], *, strip_usage: bool) -> None:
        """The engine's head has come. It is written with the first byte: before it, no answer has begun."""
        self.status = status
        # An engine that failed may have said more than this one does.
        self._events, self._chunked = None, False
        length = kind = b""
        for name, value in headers:
            if name == b"content-type":
                kind = value
            elif name == b"content-length":
                length = value
        blocks = [passed_on(headers)]
        if kind.startswith(_EVENT_STREAM):
            self._events = WholeEvents()
            self._strip_usage = strip_usage
            blocks.append(_UNBUFFERED)
            length = b""
        if length:
            blocks.append(b"content-length: %b\r\n" % length)
        elif self._exchange.chunked:
            self._chunked = True
            blocks.append(b"transfer-encoding: chunked\r\n")
        else:
            # HTTP/1.0: the end of the connection is the end of the answer.
            self._exchange.keep_alive = False
        self._head = self._complete_head(status, blocks)

    def on_data(self, data: bytes, now: float) -> None:
        """Pass some of the engine's answer on."""
        if self._events is not None:
            whole = self._events.feed(data)
            data = self.usage.events(whole, strip=self._strip_usage) if whole else whole
            if not data:
                return
        else:
            self.usage.part(data)
        self.sent += len(data)
        if self._chunked:
            data = chunk(data)
        if not self.begun:
            self.begun = self.relayed = True
            self.first_byte_at = now
            data = self._head + data
        self._exchange.client.transport.write(data)

    def on_end(self) -> None:
        """The engine's answer is complete."""
        last = b""
        if self._events is not None:
            last = self.usage.events(self._events.rest(), strip=self._strip_usage)
        else:
            self.usage.end()
        self.sent += len(last)
        if self._chunked:
            last = chunk(last) + LAST_CHUNK
        if not self.begun:
            self.begun = self.relayed = True
            last = self._head + last
        if last:
            self._exchange.client.transport.write(last)

    def break_off(self, error: GatewayError) -> None:
        """End an answer that has begun and cannot go on, so that nobody takes it for a whole one.

        A stream ends with an event that says so. Any other answer stays unfinished, which every HTTP client
        notices by its length.
        """
        exchange = self._exchange
        if self._events is not None:
            event = error_event(error, exchange.path.stream_errors, exchange.request_id)
            last = chunk(event) + LAST_CHUNK if self._chunked else event
            exchange.client.transport.write(last)
        else:
            exchange.keep_alive = False
            if self._chunked or exchange.chunked:
                exchange.client.transport.close()
            else:
                exchange.client.transport.abort()

    def refuse(self, error: GatewayError) -> None:
        """Answer with an error of the gateway's."""
        exchange = self._exchange
        response = error_response(error, exchange.path.dialect, exchange.request_id)
        self.status = response.status_code
        body = bytes(response.body)
        self._write_whole(self._complete_head(self.status, [header_lines(response.raw_headers)]), body)

    def pass_error(self, status: int, headers: list[Header], body: bytes) -> None:
        """Answer with an error of the engine's, as it came."""
        self.status = status
        length = b"content-length: %d\r\n" % len(body)
        self._write_whole(self._complete_head(status, [passed_on(headers), length]), body)

    def _write_whole(self, head: bytes, body: bytes) -> None:
        self.begun = True
        self.first_byte_at = monotonic()
        self.sent = len(body)
        self._exchange.client.transport.write(head + body)

    def _complete_head(self, status: int, blocks: list[bytes]) -> bytes:
        exchange = self._exchange
        blocks.append(exchange.extra_headers())
        blocks.append(exchange.client.common_headers())
        if exchange.client.draining:
            exchange.keep_alive = False
        if not exchange.keep_alive:
            blocks.append(b"connection: close\r\n")
        return response_head(status, blocks)
