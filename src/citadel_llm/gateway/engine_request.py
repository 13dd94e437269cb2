"""What an engine is sent: the client's body, with what the gateway has to say, and few headers."""

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from citadel_llm.gateway.body import with_end
from citadel_llm.gateway.errors import InvalidRequestError
from citadel_llm.gateway.routing import Engine
from citadel_llm.store import KeyRecord

if TYPE_CHECKING:
    from citadel_llm.gateway.dispatch import Dispatch

# vLLM works on the least number first.
PRIORITIES = {"high": -10, "normal": 0, "low": 10}
"""What a key's class is to an engine."""

# What one gateway tells another of a request, which only the first of them knows.
AFFINITY = b"x-citadel-affinity"
PRIORITY = b"x-citadel-priority"

# vLLM then tells it in an event of its own. Not by the engine's `--enable-force-include-usage`, which writes
# it into every event (vLLM 0.32 and 0.33, `should_include_usage`): a client that adds them up, as LangChain
# does, would count far too much.
_WITH_USAGE = {"include_usage": True}

# Below this, copying the body costs less than writing it apart from the head.
_SMALL = 1 << 14


def parts_of(request: "Dispatch", engine: Engine) -> tuple[bytes | memoryview, ...]:
    """The bytes to send to an engine, in order; the first part holds the whole head.

    Raises:
        InvalidRequestError: It cannot be made into what the engine wants.
    """
    path, key = request.path, request.key
    assert key is not None  # noqa: S101 - no engine is asked before
    body, end = request.take_body(), _end(request, engine, key)
    start = with_end(body, end)[0] if end else body
    length = len(start) + len(end)
    lines = request.head.to_engine if request.traced is None else request.traced
    if engine.remote:
        group = hashlib.blake2b(request.affinity, digest_size=8).hexdigest().encode()
        lines += b"%b: %b\r\n%b: %b\r\n" % (AFFINITY, group, PRIORITY, key.priority.encode())
    head = b"%bcontent-type: %b\r\nx-request-id: %b\r\n%bcontent-length: %d\r\n\r\n" % (
        # A peer's gateway has it where clients look for it.
        _first_lines(path.path if engine.remote else path.engine_path, engine.client.headers),
        request.content_type or b"application/json",
        request.request_id.encode(),
        lines,
        length,
    )
    return (b"".join((head, start, end)),) if length < _SMALL else (head, start, end)


def _end(request: "Dispatch", engine: Engine, key: KeyRecord) -> bytes:
    """What the gateway has to say, to be put where the body's last brace is; empty when it is nothing."""
    fields, path = request.fields, request.path
    assert fields is not None  # noqa: S101 - no engine is asked before
    if path.body != "json":
        if fields.model != engine.model:
            message = f"This path wants the model's real name, '{engine.model}', in the field 'model'."
            raise InvalidRequestError(message, param="model")
        return b""
    model = None if fields.model == engine.model else engine.model
    if key.scope == "peer":
        return _added(model, None, None, None, False)
    return _added(
        model,
        key.team if path.cache_salt else None,
        key.id if path.cache_salt else None,
        PRIORITIES[key.priority] if path.priority else None,
        path.asks_for_usage and fields.stream and not fields.wants_usage,
    )


@lru_cache(maxsize=256)
def _first_lines(path: str, headers: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\n%b" % (path.encode(), headers)


@lru_cache(maxsize=4096)
def _added(  # by position: the cache finds it quicker
    model: str | None,
    team: str | None,
    key_id: str | None,
    priority: int | None,
    usage: bool,
) -> bytes:
    """Fields for the end of an object that has others, with the comma before them.

    Args:
        model: The real one's name, where the client said another.
        team: Whose cache it may use, with `key_id`.
        key_id: The key that it came with.
        priority: The engine's.
        usage: Whether the engine is to tell the usage in a stream.
    """
    fields: dict[str, object] = {}
    if model is not None:
        fields["model"] = model
    if key_id is not None:
        fields["cache_salt"] = _cache_salt(team, key_id)
    if priority is not None:
        fields["priority"] = priority
    if usage:
        fields["stream_options"] = _WITH_USAGE
    return b"," + msgspec.json.encode(fields)[1:] if fields else b""


def _cache_salt(team: str | None, key_id: str) -> str:
    """What keeps a team's prompts apart from others' in the engine's prefix cache.

    The gateway sets it over whatever a client sends, so it need not be a secret, only each team's own; and
    the same on every gateway. A key of no team is a team of its own.
    """
    name = f"team:{team}" if team else f"key:{key_id}"
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
