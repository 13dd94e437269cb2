"""The connections to clients: uvicorn's protocol, with the paths where tokens flow taken out of it.

A request for one of those becomes an `Exchange` right here, from the parser's callbacks; all others go to the
ASGI application as ever. The time limits against slow and idle clients are this class's, too.
"""

from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from citadel_llm.gateway.errors import (
    GatewayError,
    HeadTooLargeError,
    InvalidRequestError,
    RequestTimeoutError,
    error_response,
)
from citadel_llm.gateway.exchange import Exchange
from citadel_llm.gateway.paths import BY_PATH
from citadel_llm.gateway.wire.heads import RequestHead, header_lines, response_head
from citadel_llm.gateway.wire.known_head import KnownHead

if TYPE_CHECKING:
    import asyncio

    from citadel_llm.gateway.traffic import Traffic

_PATHS = {path.encode(): inference for path, inference in BY_PATH.items()}

# What the head of a request may take; clients' heads are well below a kilobyte.
_HEAD_LIMIT = 1 << 16
# Whose body has still so much to come when it is refused: it is not worth waiting for.
_MUCH = 1 << 16
# How long a client that was refused may go on sending before its connection is closed. Closed at once, the
# client might never see the answer: what it sends into a closed connection makes its kernel discard it.
_LINGER_SECONDS = 2.0

# Bytes a second, below which a body is too slow however steadily it drips.
_SLOWEST_BODY = 1 << 14

Phase = Literal["idle", "head", "body", "answer", "closing"]


class ConnectionsState(ServerState):
    """What all connections share.

    Attributes:
        drain_began: When the server has begun to accept no more, by the monotonic clock; None before.
        drain_idle_seconds: For how long a connection is kept from then on that nothing comes on.
    """

    drain_began: float | None = None
    drain_idle_seconds = 0.0


class GatewayProtocol(HttpToolsProtocol):
    """One client's connection."""

    server_state: ConnectionsState

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.traffic: Traffic = self.app_state["traffic"]
        self.phase: Phase = "head"
        self.since = monotonic()
        self.write_paused = False
        self._write_paused_at = 0.0
        self._head_bytes = 0
        self._body_until = 0.0
        # `cycle` is the request that was read last; with a pipeline, another one may be in hand.
        self.cycle: Any = None
        self._in_hand: Any = None
        self._whole = False
        # Whether the parser is between two messages; then, what came next; and a head that came before.
        self._between = True
        self._begin = b""
        self._known: KnownHead[RequestHead] | None = None

    # asyncio's.

    def connection_made(self, transport: "asyncio.Transport") -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self.traffic.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client, or this side, has closed the connection."""
        self.traffic.connections.discard(self)
        for each, _ in self.pipeline:
            if isinstance(each, Exchange):
                each.abandon()
        self.pipeline.clear()
        in_hand, self._in_hand = self._in_hand, None
        self.cycle = None if isinstance(in_hand, Exchange) else in_hand
        if isinstance(in_hand, Exchange):
            in_hand.client_gone()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        if self.phase == "closing":
            return
        if self.phase == "idle":
            known = self._known
            # Of the next message the parser may have had a part already, behind the one before.
            body = known.body_of(data) if known is not None and self._between else None
            if known is not None and body is not None:
                self._take_whole(known.meaning, body)
                return
            self._enter("head")
            self._head_bytes = 0
        elif self.phase == "body":
            self.since = monotonic()
        # Of what is sent ahead while an answer is under way, no more than a head is read.
        ahead = self.phase == "answer"
        if self._between:
            self._begin = data
        if ahead or self.phase == "head":
            self._head_bytes += len(data)
        super().data_received(data)
        self._begin = b""
        if self._head_bytes <= _HEAD_LIMIT:
            return
        if self.phase == "head":
            self._refuse(HeadTooLargeError(f"The request's head is too large: at most {_HEAD_LIMIT} bytes."))
        elif ahead and self.phase == "answer":
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        super().pause_writing()
        self.write_paused = True
        self._write_paused_at = monotonic()
        if isinstance(self._in_hand, Exchange):
            self._in_hand.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self.write_paused = False
        if isinstance(self._in_hand, Exchange):
            self._in_hand.resume()

    # The parser's.

    def on_message_begin(self) -> None:
        """A request begins."""
        # What uvicorn makes here for ASGI is made in `on_headers_complete`, for those requests that need it.
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._between = False
        if self.phase == "idle":
            # It came together with one before it, which was refused at once.
            self._enter("head")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """A request's head is complete."""
        if self.phase == "head":
            self._begin_body()
        self._whole = False
        # Of several heads that came at once, only the first is at the beginning.
        begin, self._begin = self._begin, b""
        path = _PATHS.get(self._path())
        if path is None or self.parser.get_method() != b"POST":
            self._hand_to_asgi()
            return
        chunked = self.parser.get_http_version() != "1.0"
        keep_alive = chunked and self.parser.should_keep_alive()
        head = RequestHead(path, self.headers, self._address(), keep_alive=keep_alive, chunked=chunked)
        if begin and head.may_come_again:
            self._known = KnownHead.of(begin, head)
        exchange = Exchange(self.traffic, self, head)
        self.expect_100_continue = head.headers.get(b"expect", b"").lower() == b"100-continue"
        before, self.cycle = self.cycle, exchange
        if before is None or before.response_complete:
            self._start_asgi_task(exchange, self.app)
        else:
            # Pipelined: its turn comes when the one before is answered (`on_response_complete`).
            self.flow.pause_reading()
            self.pipeline.appendleft((cast("Any", exchange), self.app))

    def on_body(self, body: bytes) -> None:
        """Some of a request's body has come."""
        if isinstance(self.cycle, Exchange):
            self.cycle.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._whole = self._between = True
        if self.phase == "body":
            self._enter("answer")
            self._head_bytes = 0
        cycle = self.cycle
        if isinstance(cycle, Exchange):
            cycle.feed_end()
        else:
            super().on_message_complete()
        if cycle.response_complete and self.phase == "answer" and not self.pipeline:
            # It was answered before it was complete, and the connection lives on.
            self._enter("idle")

    def _take_whole(self, head: RequestHead, body: bytes) -> None:
        """A request that needs no parser: its head is known, and all of it is there."""
        self.phase = "answer"
        self.expect_100_continue = False
        self._head_bytes = 0
        self._whole = True
        exchange = self.cycle = self._in_hand = Exchange(self.traffic, self, head)
        exchange.take_whole(body)

    def _hand_to_asgi(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url, self.headers = url, headers
        self.expect_100_continue = (b"expect", b"100-continue") in headers
        self.scope["headers"] = headers
        super().on_headers_complete()
        if self.draining:
            self.cycle.keep_alive = False

    # uvicorn's.

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._in_hand = cycle
        if isinstance(cycle, Exchange):
            cycle.start()
        else:
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """An answer is complete: the next request's turn, if it is there already."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            # Not from here: a pipeline of requests that are refused at once would go as deep as it is long.
            self.traffic.loop.call_soon(self._start_next)
        elif self.phase == "answer":
            # `sweep` closes idle connections: uvicorn's timer for each request would cost more.
            self._enter("idle")

    def _start_next(self) -> None:
        """Begin with the next request of the pipeline."""
        if not self.pipeline or self.transport.is_closing():
            return
        cycle, app = self.pipeline.pop()
        self._head_bytes = 0
        if cycle is self.cycle and not self._whole:
            self._begin_body()
            # Since the answer before was complete, so much may have come that it was paused as sent ahead.
            self.flow.resume_reading()
        self._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are not OpenAI's shape
        """What came is no HTTP."""
        self._refuse(InvalidRequestError("This is not HTTP that can be understood."))

    # The exchange's.

    def invite_body(self) -> None:
        """Tell a client that waits for it to send the body."""
        if self.expect_100_continue:
            self.expect_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def has_much_to_come(self, exchange: Exchange) -> bool:
        """Whether much of the request's body is still to come, or nobody knows how much."""
        length = exchange.head.length
        return length is None or length > _MUCH or self.expect_100_continue

    def common_headers(self) -> bytes:
        """The header lines that every answer of this server has, such as the date."""
        common, headers = self.traffic.common_headers, self.server_state.default_headers
        if common[0] is not headers:
            # uvicorn makes them anew each second, for the date.
            common = self.traffic.common_headers = headers, header_lines(headers)
        return common[1]

    @property
    def draining(self) -> bool:
        """Whether the server accepts no more: then each connection is closed after its next answer."""
        return self.server_state.drain_began is not None

    def on_exchange_complete(self, exchange: Exchange, now: float) -> None:
        """An exchange has ended; the next one's turn has come."""
        if not exchange.keep_alive:
            self._close_soon()
        if self.transport.is_closing() or self.phase == "closing":
            return
        if self.pipeline or self.phase != "answer" or self.flow.read_paused:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self.phase = "idle"
            self.since = now

    # The time limits.

    def sweep(self, now: float) -> None:
        """Close what is too slow; called a few times a second."""
        settings = self.traffic.settings
        if self.write_paused and now - self._write_paused_at > settings.write_timeout_seconds:
            self.transport.abort()
            return
        if self.phase == "answer":
            return
        waited = now - self.since
        drain, nothing_came = self.server_state.drain_began, self.phase == "head" and not self._head_bytes
        if drain is not None and (self.phase == "idle" or nothing_came):
            if now - max(self.since, drain) > self.server_state.drain_idle_seconds:
                self.transport.close()
        elif self.phase == "idle":
            if waited > self.timeout_keep_alive:
                self.transport.close()
        elif self.phase == "head":
            if waited > settings.header_timeout_seconds:
                self._refuse(RequestTimeoutError("The request's head did not come in time."))
        elif self.phase == "body":
            if waited > settings.body_timeout_seconds or now > self._body_until:
                self._give_up_body()
        elif waited > _LINGER_SECONDS:
            self.transport.abort()

    def _path(self) -> bytes:
        """The path that was asked for, without the query."""
        path = self.url.partition(b"?")[0]
        # A client that takes this for its proxy names the host, too (RFC 9112, 3.2.2).
        return path if path.startswith(b"/") else b"/" + path.partition(b"://")[2].partition(b"/")[2]

    def _address(self) -> str:
        """The client's address, as far as it is to be believed."""
        peer = self.client[0] if self.client else ""
        proxies = self.traffic.proxies
        if not proxies:
            return peer
        forwarded = [value.decode("latin-1") for name, value in self.headers if name == b"x-forwarded-for"]
        return proxies.client(peer, forwarded)

    def _begin_body(self) -> None:
        self._enter("body")
        settings = self.traffic.settings
        announced = dict(self.headers).get(b"content-length", b"")
        length = int(announced) if announced.isdigit() else settings.max_body_bytes
        self._body_until = self.since + settings.body_timeout_seconds + length / _SLOWEST_BODY

    def _give_up_body(self) -> None:
        if isinstance(self.cycle, Exchange) and not self.cycle.response_complete:
            self.cycle.late()
        else:
            self.transport.close()

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.since = monotonic()

    def _refuse(self, error: GatewayError) -> None:
        """Answer something of which no request could be made, and close."""
        if self.transport.is_closing() or self.phase == "closing":
            return
        if self.cycle is None or self.cycle.response_complete:
            response = error_response(error, "openai", self.traffic.new_id())
            headers = header_lines(response.raw_headers) + b"connection: close\r\n"
            head = response_head(response.status_code, headers, self.common_headers())
            self.transport.write(head + bytes(response.body))
        self._close_soon()

    def _close_soon(self) -> None:
        """Close when the client has read what was written and has sent what it is sending."""
        if self.phase != "body":
            self.transport.close()
            return
        self._enter("closing")
        # TLS cannot end one direction alone; the announced length tells the client that the answer is whole.
        if self.transport.can_write_eof():
            self.transport.write_eof()
