"""What can go wrong with a request, and how each of it is told to the client: in OpenAI's error shape.

`{"error": {"message": …, "type": …, "param": …, "code": …}}`, which every OpenAI SDK turns into an exception
of its own. `_SHAPES` is the one table; docs/api.md shows it to the clients.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response


class GatewayError(Exception):
    """The root. Its text goes to the client: it names no path, no host, no other client's data.

    ```
    GatewayError
    ├── InvalidRequestError          the request cannot be understood
    │   ├── InvalidKeyError          no API key, or not a live one
    │   ├── NotAllowedError          not from this address
    │   ├── UnknownPathError         the API has no such path
    │   ├── MethodNotAllowedError    the path does not take this method
    │   ├── ModelNotFoundError       no such model here
    │   ├── ModelUnsuitedError       the model does not do this (embeddings from a chat model)
    │   └── BodyTooLargeError        larger than the gateway accepts
    ├── ServerError                  the gateway failed, by a mistake of its own
    │   ├── KeysUnavailableError     the keys could not be read yet, so none can be checked
    │   ├── StoppingError            the gateway stops, and the time for finishing answers is over
    │   └── EngineError
    │       ├── EngineDownError      it does not answer at all: nothing was begun
    │       ├── EngineFailedError    it broke off, or answered with something that is no answer
    │       └── EngineTimeoutError   it sent nothing for too long
    └── ClientGoneError              the client hung up; there is nobody to tell
    ```

    Args:
        message: For the client.
        param: The request's parameter that is to blame, if one is.
        retry_after: Seconds after which trying again makes sense.
    """

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class InvalidRequestError(GatewayError):
    """The request cannot be understood."""


class InvalidKeyError(InvalidRequestError):
    """No API key, or not a live one."""


class NotAllowedError(InvalidRequestError):
    """Not from this address."""


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


class ServerError(GatewayError):
    """The gateway failed, by a mistake of its own."""


class KeysUnavailableError(ServerError):
    """The keys could not be read yet, so none can be checked."""


class StoppingError(ServerError):
    """The gateway stops, and the time for finishing answers is over."""

    def __init__(self) -> None:
        super().__init__("The gateway stops and could not finish the answer; try again.", retry_after=2)


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
    """How a kind of error looks to a client."""

    status: int
    type: str
    code: str | None
    headers: dict[str, str] = field(default_factory=dict)


# nginx's number for a client that hung up: never sent, only logged and counted.
CLIENT_GONE_STATUS = 499

_SHAPES: dict[type[GatewayError], Shape] = {
    InvalidRequestError: Shape(400, "invalid_request_error", None),
    InvalidKeyError: Shape(401, "invalid_request_error", "invalid_api_key", {"www-authenticate": "Bearer"}),
    NotAllowedError: Shape(403, "invalid_request_error", "not_allowed"),
    UnknownPathError: Shape(404, "invalid_request_error", "unknown_url"),
    MethodNotAllowedError: Shape(405, "invalid_request_error", "method_not_allowed"),
    ModelNotFoundError: Shape(404, "invalid_request_error", "model_not_found"),
    ModelUnsuitedError: Shape(400, "invalid_request_error", "model_unsuited"),
    BodyTooLargeError: Shape(413, "invalid_request_error", "request_too_large"),
    ServerError: Shape(500, "server_error", "internal_error"),
    KeysUnavailableError: Shape(503, "server_error", "keys_unavailable"),
    StoppingError: Shape(503, "server_error", "gateway_stopping"),
    EngineDownError: Shape(503, "server_error", "engine_unavailable"),
    EngineFailedError: Shape(502, "server_error", "engine_failed"),
    # An SDK that tries again by itself would keep the engine busy with the same too long request.
    EngineTimeoutError: Shape(504, "server_error", "engine_timeout", {"x-should-retry": "false"}),
    ClientGoneError: Shape(CLIENT_GONE_STATUS, "invalid_request_error", "client_gone"),
}


def shape_of(error: GatewayError) -> Shape:
    """The shape of an error: of its class, or of the nearest one above."""
    return next(_SHAPES[kind] for kind in type(error).__mro__ if kind in _SHAPES)


def error_response(error: GatewayError) -> Response:
    """The error as an HTTP response."""
    shape = shape_of(error)
    headers = dict(shape.headers)
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return Response(_body(error), shape.status, headers, media_type="application/json")


def error_event(error: GatewayError) -> bytes:
    """The error as a server-sent event: how an answer ends that has begun and cannot go on."""
    return b"data: " + _body(error) + b"\n\n"


def _body(error: GatewayError) -> bytes:
    shape = shape_of(error)
    content: dict[str, Any] = {
        "message": error.message,
        "type": shape.type,
        "param": error.param,
        "code": shape.code,
    }
    return json.dumps({"error": content}).encode()
