"""What is noted of a request that no model is asked, for the log and the metrics: never its text or key."""

from dataclasses import dataclass
from typing import cast

from starlette.types import Scope

_SCOPE_KEY = "citadel.call"


@dataclass
class Call:
    """One such request, filled in as it goes.

    Attributes:
        request_id: The client's own, or made here.
        route: The path's template, never the path that was sent.
        key_id: The id of the API key, empty until it is known.
        error: The code of what went wrong, empty when nothing did.
        status: The HTTP status, None until the answer has begun.
    """

    request_id: str
    route: str = ""
    key_id: str = ""
    error: str = ""
    status: int | None = None


def attach_call(scope: Scope, call: Call) -> None:
    """Put the notes where the rest of the request finds them."""
    scope[_SCOPE_KEY] = call


def call_of(scope: Scope) -> Call:
    """The notes of the request."""
    return cast("Call", scope[_SCOPE_KEY])
