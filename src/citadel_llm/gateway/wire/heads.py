"""The heads of HTTP messages as bytes: written to engines and to clients."""

from collections.abc import Iterable
from http import HTTPStatus

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


def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


def response_head(status: int, blocks: Iterable[bytes]) -> bytes:
    """A response's head from header lines that are complete (each ends with CRLF)."""
    return b"".join((_STATUS_LINES[status], *blocks, CRLF))


def header_lines(headers: Iterable[Header]) -> bytes:
    """Header lines, each ended by CRLF."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def chunk(data: bytes) -> bytes:
    """Data as one chunk of a chunked body (RFC 9112, 7.1). Empty data would end the body: nothing instead."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def passed_on(headers: Iterable[Header]) -> bytes:
    """Those of an engine's header lines that are for the client.

    Args:
        headers: Names in lower case.
    """
    named: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            named.update(each.strip().lower() for each in value.split(b","))
    return header_lines(
        (name, value) for name, value in headers if name not in NOT_TO_CLIENT and name not in named
    )
