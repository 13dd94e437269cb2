"""The request's body: looked at as little as can be, and passed on as it came.

A few small fields are taken out of it by msgspec, which walks over the rest without making objects of it.
What the gateway has to say to the engine (an alias's real model, a cache salt, a priority) is appended to the
object: of two equal names a reader takes the last (RFC 8259, 4, leaves it open; Python's json, with which
vLLM reads, and msgspec do so, and a test asks vLLM itself).
"""

import json
from typing import Any

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from citadel_llm.gateway.errors import InvalidRequestError

# Bytes of a prompt for each of its tokens, roughly: English is at 4, code and other languages below.
_BYTES_A_TOKEN = 4

# A file within a body (a `data:` URL), and about how many tokens the engine makes of one at most. Where a
# client only claims that there is one, the engine's own count corrects it at the end.
_FILE = b";base64,"
_FILE_TOKENS = 2048
_MOST_FILES = 64
_FEW = 64
# Shorter bodies are not looked through.
_LONG = 1 << 14

_NOTHING = msgspec.Raw()


class Fields(msgspec.Struct):
    """What the gateway reads of a body."""

    model: str
    stream: bool = False
    wants_usage: bool = False
    """Whether the client asked for the usage at the end of the stream."""
    group: bytes = b""
    """What the client says that requests of one conversation or user have in common; empty when nothing."""
    prompt: bytes = b""
    """The prompt, as it stands in the body: its beginning chooses the engine."""
    prompt_estimate: int = 0
    """Roughly how many tokens the prompt has."""


class _Body(msgspec.Struct):
    model: Any = None
    stream: Any = False
    stream_options: Any = None
    prompt_cache_key: msgspec.Raw = _NOTHING
    safety_identifier: msgspec.Raw = _NOTHING
    user: msgspec.Raw = _NOTHING
    system: msgspec.Raw = _NOTHING
    tools: msgspec.Raw = _NOTHING
    instructions: msgspec.Raw = _NOTHING
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING


# https://docs.pydantic.dev/latest/api/standard_library_types/#booleans
_TRUE = frozenset({"true", "1", "on", "t", "y", "yes"})

_decode = msgspec.json.Decoder(_Body).decode


def read_fields(body: bytes, prefix_bytes: int) -> Fields:
    """Take out of a JSON body what the gateway needs.

    Args:
        body: The whole body.
        prefix_bytes: How much of the prompt's beginning is wanted.

    Raises:
        InvalidRequestError: The body is not a JSON object in UTF-8 that names a model.
    """
    try:
        # Skipped text is not looked at: the engine would stumble over bytes that are no UTF-8.
        if not body.isascii():
            body.decode()
        content = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _complaint(body) from None
    model = content.model
    if type(model) is not str or not model:
        raise _no_model()
    options = content.stream_options
    group = bytes(content.prompt_cache_key or content.safety_identifier or content.user)
    return Fields(
        model,
        _is_true(content.stream),
        type(options) is dict and _is_true(options.get("include_usage")),
        b"" if group == b"null" else group,
        _beginning(content, prefix_bytes),
        _estimate(body),
    )


def _is_true(value: object) -> bool:
    """Whether the engine takes it for true: it reads by pydantic, which is lax about that.

    Else a client that says 1 would get a stream that was not asked for its usage.
    """
    if value is True or value is False or value is None:
        return value is True
    if isinstance(value, str):
        return value.lower() in _TRUE
    return isinstance(value, int | float) and value == 1


def _estimate(body: bytes) -> int:
    """Roughly how many tokens the prompt has; a picture or a sound counts for itself, not for its bytes."""
    size = len(body)
    if size > _LONG:
        end = 0
        for _ in range(_MOST_FILES):
            begin = _next_file(body, end)
            end = body.find(b'"', begin) if begin >= 0 else -1
            if end < 0:
                break
            size -= max(end - begin - _FILE_TOKENS * _BYTES_A_TOKEN, 0)
    return size // _BYTES_A_TOKEN


def _next_file(body: bytes, start: int) -> int:
    """Where the next file begins; -1 when there is none."""
    # One character is found many times as quickly as several, and texts have few of these.
    for _ in range(_FEW):
        start = body.find(_FILE[:1], start)
        if start < 0 or body.startswith(_FILE, start):
            return start
        start += 1
    return body.find(_FILE, start)


def _beginning(content: _Body, length: int) -> bytes:
    """The first bytes of what the engine reads first: that is what its cache of prefixes goes by."""
    if not length:
        return b""
    first = content.messages or content.prompt or content.input
    if content.system or content.instructions or content.tools:
        parts = (content.tools, content.system, content.instructions, first)
        return b"".join(bytes(memoryview(part)[:length]) for part in parts)[:length]
    return bytes(memoryview(first)[:length])


def _complaint(body: bytes) -> InvalidRequestError:
    """What exactly is wrong with a body; Python's reader tells it better than the quick one."""
    try:
        content = json.loads(body.decode())
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        return InvalidRequestError(f"The request's body is not JSON: {error.msg} at {where}.")
    except UnicodeDecodeError as error:
        return InvalidRequestError(f"The request's body is not UTF-8 at byte {error.start}.")
    except (ValueError, RecursionError):
        return InvalidRequestError("The request's body is not JSON that can be read here.")
    if not isinstance(content, dict):
        return InvalidRequestError("The request's body must be a JSON object.")
    return InvalidRequestError("The request's body is not JSON that can be read here.")


def _no_model() -> InvalidRequestError:
    message = "The parameter 'model' must name a model; GET /v1/models lists them."
    return InvalidRequestError(message, param="model")


def with_end(body: bytes, fields: bytes) -> tuple[memoryview, bytes]:
    """A body that `read_fields` accepted, with fields that win over the client's; in two parts, uncopied.

    Args:
        body: The client's.
        fields: As JSON, with a comma before the first and the brace behind the last: `,"priority":0}`.
    """
    # The object's own brace is the last one: only white space may follow it.
    return memoryview(body)[: body.rindex(b"}")], fields


def read_form_fields(body: bytes, content_type: bytes) -> Fields:
    """Take out of a multipart form what the gateway needs: the fields `model` and `stream`.

    Raises:
        InvalidRequestError: It is no such form, or names no model.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequestError("The request's body must be a form: multipart/form-data with a boundary.")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise InvalidRequestError("The request's body is not a form that can be read here.") from None
    if not form.complete:
        raise InvalidRequestError("The request's form is cut off: its closing boundary is missing.")
    try:
        model = form.values.get(b"model", b"").decode()
    except UnicodeDecodeError:
        model = ""
    if not model:
        raise _no_model()
    return Fields(model, form.values.get(b"stream", b"").lower().decode("latin-1") in _TRUE)


class _Form:
    """The small fields of a multipart form; files are walked over."""

    _WANTED = (b"model", b"stream")
    _LIMIT = 1024

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.complete = False
        self._name = b""
        self._header = [b"", b""]

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._name, self._header = b"", [b"", b""]

    def _add(self, which: int, data: bytes) -> None:
        self._header[which] += data

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._name = parse_options_header(value)[1].get(b"name", b"")
        self._header = [b"", b""]

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name in self._WANTED:
            value = self.values.get(self._name, b"") + data[start:end]
            if len(value) > self._LIMIT:
                raise FormParserError("a field is too long")
            self.values[self._name] = value

    def _end(self) -> None:
        self.complete = True
