"""What can go wrong with a request, and how each of it is told to the client: in the words of its dialect.

OpenAI's is `{"error": {"message": …, "type": …, "param": …, "code": …}}`; Anthropic's, under /v1/messages,
is `{"type": "error", "error": {"type": …, "message": …}, "request_id": …}`. The SDKs turn each into
exceptions of their own. `_SHAPES` is the one table; docs/api.md shows it to the clients.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from citadel_llm.gateway.paths import Dialect, StreamErrors


class GatewayError(Exception):
    """The root. Its text goes to the client: it names no path, no host, no other client's data.

    ```
    GatewayError
    ├── InvalidRequestError          the request cannot be understood
    │   ├── InvalidKeyError          no API key, or not a live one
    │   ├── NotAllowedError          not from this address, or not with this key
    │   ├── KeyNotFoundError         no key with this id (the admin API)
    │   ├── ConflictError            not as things stand: the name is taken, the key revoked (the admin API)
    │   ├── UnknownPathError         the API has no such path
    │   ├── MethodNotAllowedError    the path does not take this method
    │   ├── ModelNotFoundError       no such model here
    │   ├── ModelUnsuitedError       the model does not do this (embeddings from a chat model)
    │   ├── BodyTooLargeError        larger than the gateway accepts
    │   ├── HeadTooLargeError        the head is
    │   ├── RequestTimeoutError      it was not sent to its end in time
    │   ├── LargerThanLimitError     the request alone is larger than a limit of the key
    │   └── RateLimitedError         the key asked for more than it may
    │       ├── TokensLimitedError   in tokens a minute
    │       └── QuotaSpentError      in tokens a day or a month
    ├── ServerError                  the gateway failed, by a mistake of its own
    │   ├── KeysUnavailableError     the keys could not be read yet, so none can be checked
    │   ├── StoppingError            the gateway stops, and the time for finishing answers is over
    │   ├── BodyMemoryError          the bodies of all requests together are too large
    │   ├── QueueFullError           too many wait for the model already
    │   ├── QueueTimeoutError        it waited for the model for as long as it may
    │   └── EngineError
    │       ├── EngineDownError      it does not answer at all: nothing was begun
    │       ├── EngineFailedError    it broke off, or answered with something that is no answer
    │       └── EngineTimeoutError   it sent nothing for too long
    └── ClientGoneError              the client hung up; there is nobody to tell
    ```

    Args:
        message: For the client.
        param: The request's parameter that is to blame, if one is.
        retry_after: Seconds after which trying again makes sense; told rounded up.
        headers: More headers for the answer, names in lower case.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.headers = headers or {}


class InvalidRequestError(GatewayError):
    """The request cannot be understood."""


class InvalidKeyError(InvalidRequestError):
    """No API key, or not a live one."""


class NotAllowedError(InvalidRequestError):
    """Not from this address, or not with this key."""


class KeyNotFoundError(InvalidRequestError):
    """No key with this id."""


class ConflictError(InvalidRequestError):
    """Not as things stand: the name is taken, the key revoked."""


class UnknownPathError(InvalidRequestError):
    """The API has no such path."""


class MethodNotAllowedError(InvalidRequestError):
    """The path does not take this method."""


class ModelNotFoundError(InvalidRequestError):
    """No such model here."""


class ModelUnsuitedError(InvalidRequestError):
    """The model does not do this."""


class BodyTooLargeError(InvalidRequestError):
    """The body is larger than the gateway accepts."""


class HeadTooLargeError(InvalidRequestError):
    """The request's head is larger than the gateway accepts."""


class RequestTimeoutError(InvalidRequestError):
    """The client did not send its request to the end in time."""


class RateLimitedError(InvalidRequestError):
    """The key asked for more than it may; `headers` say how much that is."""


class TokensLimitedError(RateLimitedError):
    """More tokens than the key may use in a minute."""


class QuotaSpentError(RateLimitedError):
    """More tokens than are left to the key for the day or the month."""


class LargerThanLimitError(InvalidRequestError):
    """The request alone is larger than a limit of the key: it can never pass."""


class ServerError(GatewayError):
    """The gateway failed, by a mistake of its own."""


class KeysUnavailableError(ServerError):
    """The keys could not be read yet, so none can be checked."""


class StoppingError(ServerError):
    """The gateway stops, and the time for finishing answers is over."""

    def __init__(self) -> None:
        super().__init__("The gateway stops and could not finish the answer; try again.", retry_after=2)


class BodyMemoryError(ServerError):
    """The bodies of all requests together are more than the gateway holds."""


class QueueFullError(ServerError):
    """Too many requests wait for the model already."""


class QueueTimeoutError(ServerError):
    """The request waited for the model for as long as it may."""


class EngineError(ServerError):
    """An engine did not do its part."""


class EngineDownError(EngineError):
    """The engine does not answer at all: nothing was begun."""


class EngineFailedError(EngineError):
    """The engine broke off, or answered with something that is no answer."""


class EngineTimeoutError(EngineError):
    """The engine sent nothing for too long."""


class ClientGoneError(GatewayError):
    """The client hung up; there is nobody to tell."""


@dataclass(frozen=True)
class Shape:
    """How a kind of error looks to a client: `type` and `code` are OpenAI's."""

    status: int
    type: str
    code: str | None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def anthropic_type(self) -> str:
        """What Anthropic calls it."""
        return _anthropic_type(self.status)


# nginx's number for a client that hung up: never sent, only logged and counted.
CLIENT_GONE_STATUS = 499

_SHAPES: dict[type[GatewayError], Shape] = {
    InvalidRequestError: Shape(400, "invalid_request_error", None),
    InvalidKeyError: Shape(401, "invalid_request_error", "invalid_api_key", {"www-authenticate": "Bearer"}),
    NotAllowedError: Shape(403, "invalid_request_error", "not_allowed"),
    KeyNotFoundError: Shape(404, "invalid_request_error", "key_not_found"),
    ConflictError: Shape(409, "invalid_request_error", "conflict"),
    UnknownPathError: Shape(404, "invalid_request_error", "unknown_url"),
    MethodNotAllowedError: Shape(405, "invalid_request_error", "method_not_allowed"),
    ModelNotFoundError: Shape(404, "invalid_request_error", "model_not_found"),
    ModelUnsuitedError: Shape(400, "invalid_request_error", "model_unsuited"),
    BodyTooLargeError: Shape(413, "invalid_request_error", "request_too_large"),
    HeadTooLargeError: Shape(431, "invalid_request_error", "head_too_large"),
    # The SDKs try again on a 408 by themselves, which is right: nothing was begun.
    RequestTimeoutError: Shape(408, "invalid_request_error", "request_timeout"),
    # OpenAI's: the type says which kind of limit it was.
    RateLimitedError: Shape(429, "requests", "rate_limit_exceeded"),
    TokensLimitedError: Shape(429, "tokens", "rate_limit_exceeded"),
    # An SDK would try again by itself within seconds, in vain.
    QuotaSpentError: Shape(429, "insufficient_quota", "insufficient_quota", {"x-should-retry": "false"}),
    LargerThanLimitError: Shape(400, "invalid_request_error", "larger_than_limit"),
    ServerError: Shape(500, "server_error", "internal_error"),
    KeysUnavailableError: Shape(503, "server_error", "keys_unavailable"),
    StoppingError: Shape(503, "server_error", "gateway_stopping"),
    BodyMemoryError: Shape(503, "server_error", "overloaded"),
    QueueFullError: Shape(503, "server_error", "queue_full"),
    QueueTimeoutError: Shape(503, "server_error", "queue_timeout"),
    EngineDownError: Shape(503, "server_error", "engine_unavailable"),
    EngineFailedError: Shape(502, "server_error", "engine_failed"),
    # An SDK that tries again by itself would keep the engine busy with the same too long request.
    EngineTimeoutError: Shape(504, "server_error", "engine_timeout", {"x-should-retry": "false"}),
    ClientGoneError: Shape(CLIENT_GONE_STATUS, "invalid_request_error", "client_gone"),
}


def shape_of(error: GatewayError) -> Shape:
    """The shape of an error: of its class, or of the nearest one above."""
    return next(_SHAPES[kind] for kind in type(error).__mro__ if kind in _SHAPES)


# https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _anthropic_type(status: int) -> str:
    return _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < _SERVER_ERRORS else "api_error")


_SERVER_ERRORS = 500


def error_headers(error: GatewayError) -> dict[str, str]:
    """The headers that an error's answer carries beside those of every answer."""
    headers = {**shape_of(error).headers, **error.headers}
    if error.retry_after is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    return headers


def error_body(error: GatewayError, dialect: Dialect = "openai", request_id: str = "") -> bytes:
    """The error as the JSON body of an answer.

    Args:
        error: What went wrong.
        dialect: Of the path that was asked for (`paths.dialect_of`).
        request_id: The request's; Anthropic's shape holds it.
    """
    shape = shape_of(error)
    if dialect == "anthropic":
        return json.dumps(_anthropic(shape.anthropic_type, error.message, request_id)).encode()
    return json.dumps({"error": _openai(error, shape)}).encode()


def error_response(error: GatewayError, dialect: Dialect = "openai", request_id: str = "") -> Response:
    """The error as an HTTP response."""
    body = error_body(error, dialect, request_id)
    return Response(body, shape_of(error).status, error_headers(error), media_type="application/json")


def error_event(error: GatewayError, style: StreamErrors = "data", request_id: str = "") -> bytes:
    """The error as a server-sent event: how an answer ends that has begun and cannot go on.

    Args:
        error: What went wrong.
        style: How the path's streams tell it (`InferencePath.stream_errors`).
        request_id: The request's; Anthropic's shape holds it.
    """
    if style == "data":
        return b"data: " + error_body(error) + b"\n\n"
    if style == "anthropic":
        return b"event: error\ndata: " + error_body(error, "anthropic", request_id) + b"\n\n"
    # OpenAI's own event for /v1/responses has the fields outermost; its SDK raises for `error` alone.
    fields = _openai(error, shape_of(error))
    content = {**fields, "type": "error", "error": fields}
    return b"event: error\ndata: " + json.dumps(content).encode() + b"\n\n"


def engine_error_body(status: int, body: bytes, dialect: Dialect, request_id: str = "") -> bytes | None:
    """What to tell the client when an engine answers with an error: the engine's own words.

    vLLM answers in OpenAI's shape nearly everywhere, which then passes as it is. Under /v1/messages it mixes
    both, and has types that Anthropic does not have: there the message goes into Anthropic's shape.

    Args:
        status: The engine's.
        body: The engine's.
        dialect: Of the path that was asked for.
        request_id: The request's.

    Returns:
        The body for the client; None where the engine said nothing that a client can understand.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        return None
    if dialect == "openai":
        return body
    message = str(error.get("message", ""))
    return json.dumps(_anthropic(_anthropic_type(status), message, request_id)).encode()


def engine_error_message(body: bytes) -> str:
    """What an engine's error says, of a body that `engine_error_body` gave."""
    return str(json.loads(body)["error"].get("message", ""))


def _openai(error: GatewayError, shape: Shape) -> dict[str, Any]:
    return {"message": error.message, "type": shape.type, "param": error.param, "code": shape.code}


def _anthropic(kind: str, message: str, request_id: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id or None}
