"""What a client's headers say: its key, and how its request is called."""

import re
from collections.abc import Mapping

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
