"""The heads of HTTP messages: what they say, and as bytes for engines and clients."""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus

from citadel_llm.gateway.headers import is_request_id
from citadel_llm.gateway.paths import InferencePath
from citadel_llm.store.record import hash_key

Header = tuple[bytes, bytes]

CRLF = b"\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# Meant for one connection only (RFC 9110, 7.6.1), or set anew by this server.
NOT_TO_CLIENT = frozenset(
    {
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"server",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)

# Only what is named here goes to an engine: no key, no cookie, nothing by which vLLM can be steered
# (X-data-parallel-rank, for instance).
_TO_ENGINE = (b"accept", b"traceparent", b"tracestate")

_EVENT_STREAM = b"text/event-stream"
# Or a reverse proxy in front holds events back until it has many.
_UNBUFFERED = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
EVENTS_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n" + _UNBUFFERED
"""The first lines of a stream that begins before an engine has answered."""


class RequestHead:
    """What the head of a client's request for a model says. Requests may share one: it does not change.

    Attributes:
        path: What was asked for.
        headers: Names in lower case.
        address: The client's, as far as it is to be believed.
        keep_alive: Whether the connection is to live on afterwards.
        chunked: Whether the client understands a chunked answer (HTTP/1.1).
        credentials: The key that was sent; empty when none was.
        key_hash: By which it is looked up.
        request_id: The client's name for the request; empty when it gave none that can be used.
        origin: The page that a browser asks for.
        length: Bytes of its body, where it says so.
        to_engine: Lines of it that the engine gets.
    """

    __slots__ = (
        "address",
        "chunked",
        "credentials",
        "headers",
        "keep_alive",
        "key_hash",
        "length",
        "origin",
        "path",
        "request_id",
        "to_engine",
    )

    def __init__(
        self, path: InferencePath, headers: Sequence[Header], address: str, *, keep_alive: bool, chunked: bool
    ) -> None:
        self.path = path
        self.headers = dict(headers)
        self.address = address
        self.keep_alive = keep_alive
        self.chunked = chunked
        self.credentials = _credentials(self.headers)
        self.key_hash = hash_key(self.credentials)
        given = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.request_id = given if given and is_request_id(given) else ""
        self.origin = self.headers.get(b"origin")
        length = self.headers.get(b"content-length", b"")
        self.length = int(length) if length.isdigit() else None
        self.to_engine = to_engine(self.headers)

    @property
    def may_come_again(self) -> bool:
        """Whether the connection's next request may have the same."""
        return self.keep_alive and self.chunked and _ONCE.isdisjoint(self.headers)


# A head with one of these is another one each time, or does not end as others do.
_ONCE = frozenset({b"expect", b"traceparent", b"upgrade", b"x-request-id"})


class AnswerHead:
    """What the head of an engine's answer says.

    Attributes:
        status: HTTP's.
        lines: The head for the client: its first line, and the lines that are passed on.
        events: Whether it is a stream of events.
        length: Bytes of its body as it says; empty when it does not.
    """

    __slots__ = ("events", "length", "lines", "status")

    def __init__(self, status: int, headers: Sequence[Header]) -> None:
        kind = length = b""
        for name, value in headers:
            if name == b"content-type":
                kind = value
            elif name == b"content-length":
                length = value
        self.status = status
        self.events = kind.startswith(_EVENT_STREAM)
        self.length = length
        self.lines = _STATUS_LINES[status] + _passed_on(headers) + (_UNBUFFERED if self.events else b"")


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


def response_head(status: int, *blocks: bytes) -> bytes:
    """A response's head from header lines that are complete (each ends with CRLF)."""
    return b"".join((_STATUS_LINES[status], *blocks, CRLF))


def header_lines(headers: Iterable[Header]) -> bytes:
    """Header lines, each ended by CRLF."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def chunk(data: bytes) -> bytes:
    """Data as one chunk of a chunked body (RFC 9112, 7.1). Empty data would end the body: nothing instead."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def to_engine(headers: Mapping[bytes, bytes]) -> bytes:
    """Those of a client's header lines that are for the engine.

    Args:
        headers: Names in lower case.
    """
    lines = b""
    for name in _TO_ENGINE:
        if name in headers:
            lines += b"%b: %b\r\n" % (name, headers[name])
    return lines


def _passed_on(headers: Sequence[Header]) -> bytes:
    """Those of an engine's header lines that are for the client."""
    named: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            named.update(each.strip().lower() for each in value.split(b","))
    return header_lines(
        (name, value) for name, value in headers if name not in NOT_TO_CLIENT and name not in named
    )


def _credentials(headers: Mapping[bytes, bytes]) -> str:
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    credentials = credentials.strip() if scheme.lower() == b"bearer" else b""
    return (credentials or headers.get(b"x-api-key", b"").strip()).decode("latin-1")
