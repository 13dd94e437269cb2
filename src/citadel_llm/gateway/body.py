"""The request's body: read once, bounded, and looked at as little as can be.

Only `model` and `stream` are taken out of it. It goes on to the engine byte for byte, but for the name of
the model when the client used an alias.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Receive

from citadel_llm.gateway.errors import BodyTooLargeError, ClientGoneError, InvalidRequestError

# A string, or one of the marks that structure JSON. Numbers and literals lie between and need no token.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],]', re.DOTALL)


@dataclass(frozen=True)
class Fields:
    """What the gateway reads of a body."""

    model: str
    stream: bool


async def read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """Read the whole body, at most `limit` bytes of it.

    Raises:
        BodyTooLargeError: It says that it is larger, or turns out to be.
        ClientGoneError: The client hung up before its end.
    """
    announced = headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client hung up while sending")
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The request's body is too large: at most {limit} bytes are accepted.")


def read_fields(body: bytes) -> Fields:
    """Take out of a body what the gateway needs.

    Raises:
        InvalidRequestError: The body is not a JSON object in UTF-8 that names a model.
    """
    try:
        # Strictly UTF-8, as JSON has it: `json.loads` alone would guess among other encodings.
        content = json.loads(body.decode("utf-8"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InvalidRequestError(f"The request's body is not JSON: {error.msg} at {where}.") from None
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"The request's body is not UTF-8 at byte {error.start}.") from None
    except (ValueError, RecursionError):
        raise InvalidRequestError("The request's body is not JSON that can be read here.") from None
    if not isinstance(content, dict):
        raise InvalidRequestError("The request's body must be a JSON object.")
    model = content.get("model")
    if not isinstance(model, str) or not model:
        message = "The parameter 'model' must name a model; GET /v1/models lists them."
        raise InvalidRequestError(message, param="model")
    return Fields(model=model, stream=content.get("stream") is True)


def replace_model(body: bytes, name: str) -> bytes:
    """Put another model's name into a body that `read_fields` accepted; all other bytes stay as they are."""
    replacement = json.dumps(name).encode()
    parts, end = [], 0
    for start, stop in _model_spans(body):
        parts += [body[end:start], replacement]
        end = stop
    return b"".join([*parts, body[end:]])


def _model_spans(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the values of the outermost object's `model` stand, if they are strings.

    A key given twice is replaced twice: readers disagree on which of the two counts.
    """
    depth, key = 0, None
    for token in _TOKEN.finditer(body):
        mark = token[0]
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
        elif depth != 1:
            continue
        elif mark == b",":
            key = None
        elif key is None:
            key = json.loads(mark.decode())
        elif key == "model":
            yield token.span()
