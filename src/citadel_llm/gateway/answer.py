"""What the client gets: the engine's answer piece by piece as it comes, and an end that nobody misreads."""

from time import monotonic
from typing import TYPE_CHECKING

from citadel_llm.gateway.errors import (
    GatewayError,
    InvalidRequestError,
    engine_error_message,
    error_event,
    error_response,
)
from citadel_llm.gateway.usage_reader import UsageReader
from citadel_llm.gateway.wire.heads import (
    CRLF,
    EVENTS_HEAD,
    LAST_CHUNK,
    AnswerHead,
    chunk,
    header_lines,
    response_head,
)

if TYPE_CHECKING:
    import asyncio

    from citadel_llm.gateway.exchange import Exchange

# An event that is longer than this is not waited for; only its failing half way would then be misread.
_HELD_LIMIT = 1 << 20


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

    Args:
        transport: The client's.

    Attributes:
        opened: Whether the client has got a head, and comments, while it waits for the answer itself.
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
        "_head",
        "_strip_usage",
        "_transport",
        "begun",
        "first_byte_at",
        "opened",
        "relayed",
        "sent",
        "status",
        "usage",
    )

    def __init__(self, transport: "asyncio.Transport") -> None:
        # Not its exchange, which holds it: so both are freed as soon as they are over.
        self._transport = transport
        self.usage = UsageReader()
        self.begun = self.relayed = self.opened = False
        self.status = 0
        self.first_byte_at: float | None = None
        self.sent = 0
        self._head = b""
        self._chunked = False
        self._events: WholeEvents | None = None
        self._strip_usage = False

    def comment(self, exchange: "Exchange", text: bytes) -> None:
        """Show a client that waits for a stream that it is not forgotten: its SDK reads over comments."""
        first = b""
        if not self.opened:
            self.opened = True
            self.status = 200
            first = self._head_of(exchange, EVENTS_HEAD, b"")
        data = b": %b\n\n" % text
        self._transport.write(first + (chunk(data) if self._chunked else data))

    def on_head(self, exchange: "Exchange", head: AnswerHead, *, strip_usage: bool) -> None:
        """The engine's head has come. It is written with the first byte: before it, no answer has begun."""
        self.status = head.status
        if self.opened:
            self._events, self._strip_usage = WholeEvents(), strip_usage
            return
        # An engine that failed may have said more than this one does.
        self._events, self._chunked = None, False
        length = head.length
        if head.events:
            self._events = WholeEvents()
            self._strip_usage = strip_usage
            length = b""
        self._head = self._head_of(exchange, head.lines, length)

    def _head_of(self, exchange: "Exchange", lines: bytes, length: bytes) -> bytes:
        framing = b""
        if length:
            framing = b"content-length: %b\r\n" % length
        elif exchange.head.chunked:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        else:
            # HTTP/1.0: the end of the connection is the end of the answer.
            exchange.keep_alive = False
        return b"".join((lines, framing, exchange.own_lines(), CRLF))

    def on_whole(self, exchange: "Exchange", head: AnswerHead, body: bytes, now: float) -> None:
        """Pass on an answer that came at once, and is no stream."""
        self.status = head.status
        self.relayed = True
        self.usage.whole(body)
        self._write_whole(exchange, head.lines, body, now)

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
        self._transport.write(data)

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
            self._transport.write(last)

    def break_off(self, exchange: "Exchange", error: GatewayError) -> None:
        """End an answer that has begun and cannot go on, so that nobody takes it for a whole one.

        A stream ends with an event that says so. Any other answer stays unfinished, which every HTTP client
        notices by its length.
        """
        if self._events is not None or self.opened:
            event = error_event(error, exchange.path.stream_errors, exchange.request_id)
            self._transport.write(chunk(event) + LAST_CHUNK if self._chunked else event)
        else:
            exchange.keep_alive = False
            if exchange.head.chunked:
                self._transport.close()
            else:
                self._transport.abort()

    def refuse(self, exchange: "Exchange", error: GatewayError) -> None:
        """Answer with an error of the gateway's."""
        if self.opened:
            self.begun = True
            self.break_off(exchange, error)
            return
        response = error_response(error, exchange.path.dialect, exchange.request_id)
        self.status = response.status_code
        body = bytes(response.body)
        head = response_head(self.status, header_lines(response.raw_headers), exchange.own_lines())
        self._transport.write(head + body)
        self.begun = True
        self.first_byte_at = monotonic()
        self.sent = len(body)

    def pass_error(self, exchange: "Exchange", head: AnswerHead, body: bytes) -> None:
        """Answer with an error of the engine's, as it came."""
        if self.opened:
            self.refuse(exchange, InvalidRequestError(engine_error_message(body)))
            return
        self.status = head.status
        self._write_whole(exchange, head.lines, body, monotonic())

    def _write_whole(self, exchange: "Exchange", lines: bytes, body: bytes, now: float) -> None:
        length = b"content-length: %d\r\n" % len(body)
        self._transport.write(b"".join((lines, length, exchange.own_lines(), CRLF, body)))
        self.begun = True
        self.first_byte_at = now
        self.sent = len(body)
