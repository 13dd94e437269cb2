"""Which headers pass between client and engine: few towards the engine, all that mean something back."""

import re
from collections.abc import Mapping

from multidict import CIMultiDictProxy
from starlette.datastructures import Headers

# Towards an engine only what is named here goes: no key, no cookie, and none of the headers by which vLLM
# can be steered (X-data-parallel-rank, for instance).
_TO_ENGINE = ("accept", "traceparent", "tracestate")

# Meant for one connection only (RFC 9110, 7.6.1), or set anew by this server.
_NOT_TO_CLIENT = frozenset(
    {
        "connection",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-request-id",
    }
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/@=+-]{1,128}")


def is_request_id(value: str) -> bool:
    """Whether a client's request id may be used: in a log line and in a header it must be harmless."""
    return _REQUEST_ID.fullmatch(value) is not None


def api_key(headers: Mapping[str, str]) -> str | None:
    """The API key that a request carries: as a bearer, or as Anthropic's clients send it, in `x-api-key`."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return headers.get("x-api-key", "").strip() or None


def to_engine(headers: Headers, request_id: str, content_type: str = "application/json") -> dict[str, str]:
    """The headers of a request to an engine.

    Args:
        headers: The client's.
        request_id: The request's.
        content_type: What the body was read as, whatever the client calls it (`curl -d` says it is a form);
            of a multipart form the client's own, which holds the boundary.
    """
    chosen = {name: headers[name] for name in _TO_ENGINE if name in headers}
    return {**chosen, "content-type": content_type, "x-request-id": request_id}


def to_client(headers: CIMultiDictProxy[str]) -> list[tuple[bytes, bytes]]:
    """The headers of an engine's answer that are for the client."""
    dropped = _NOT_TO_CLIENT | _named_in_connection(headers)
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in headers.items()
        if name.lower() not in dropped
    ]


def _named_in_connection(headers: Mapping[str, str]) -> set[str]:
    return {name.strip().lower() for name in headers.get("connection", "").split(",") if name.strip()}
