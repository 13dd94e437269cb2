"""What an engine is sent: the client's body, with what the gateway has to say, and few headers."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from citadel_llm.gateway.body import Fields, with_end
from citadel_llm.gateway.errors import InvalidRequestError
from citadel_llm.gateway.paths import InferencePath
from citadel_llm.gateway.routing import Engine
from citadel_llm.store import KeyRecord

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

# Only what is named here goes to an engine: no key, no cookie, nothing by which vLLM can be steered
# (X-data-parallel-rank, for instance).
_PASSED_ON = (b"accept", b"traceparent", b"tracestate")

# Below this, copying the body costs less than writing it apart from the head.
_SMALL = 1 << 14


class EngineRequest(NamedTuple):
    """A request for an engine, from a client's.

    Attributes:
        path: What was asked for.
        headers: The client's, names in lower case.
        content_type: The client's, of a form; empty for JSON, whatever the client calls it (`curl -d` says
            it is a form).
        body: The client's.
        fields: What was read of it.
    """

    path: InferencePath
    headers: Mapping[bytes, bytes]
    content_type: bytes
    body: bytes
    fields: Fields

    def parts(
        self, engine: Engine, key: KeyRecord, request_id: str, affinity: bytes
    ) -> tuple[bytes | memoryview, ...]:
        """The bytes to send, in order.

        Args:
            engine: Who gets it.
            key: Whose request it is; a peer's has everything in it already.
            request_id: For the engine's log.
            affinity: What the request belongs to: behind a peer it chooses among several engines again.

        Raises:
            InvalidRequestError: It cannot be made into what the engine wants.
        """
        # A peer's gateway has it where clients look for it.
        path = self.path.path if engine.remote else self.path.engine_path
        start, end = self._body(engine, key)
        lines = b"content-type: %b\r\nx-request-id: %b\r\n" % (
            self.content_type or b"application/json",
            request_id.encode(),
        )
        for name in _PASSED_ON:
            value = self.headers.get(name)
            if value is not None:
                lines += b"%b: %b\r\n" % (name, value)
        if engine.remote:
            group = hashlib.blake2b(affinity, digest_size=8).hexdigest().encode()
            lines += b"%b: %b\r\n%b: %b\r\n" % (AFFINITY, group, PRIORITY, key.priority.encode())
        length = len(start) + len(end)
        head = b"%b%bcontent-length: %d\r\n\r\n" % (_first_lines(path, engine.client.headers), lines, length)
        return (b"".join((head, start, end)),) if length < _SMALL else (head, start, end)

    def _body(self, engine: Engine, key: KeyRecord) -> tuple[bytes | memoryview, bytes]:
        """The client's body, and what comes behind it."""
        fields, path = self.fields, self.path
        if path.body != "json":
            if fields.model != engine.model:
                message = f"This path wants the model's real name, '{engine.model}', in the field 'model'."
                raise InvalidRequestError(message, param="model")
            return self.body, b""
        added = None if fields.model == engine.model else engine.model
        if key.scope == "peer":
            ours = _added(added)
        else:
            ours = _added(
                added,
                salt=_cache_salt(key.team, key.id) if path.cache_salt else None,
                priority=PRIORITIES[key.priority] if path.priority else None,
                usage=path.asks_for_usage and fields.stream and not fields.wants_usage,
            )
        return with_end(self.body, ours) if ours else (self.body, b"")


@lru_cache(maxsize=256)
def _first_lines(path: str, headers: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\n%b" % (path.encode(), headers)


@lru_cache(maxsize=4096)
def _added(
    model: str | None, *, salt: str | None = None, priority: int | None = None, usage: bool = False
) -> bytes:
    """The gateway's fields, to be put at the end of an object that has others; empty when there are none."""
    fields: dict[str, object] = {}
    if model is not None:
        fields["model"] = model
    if salt is not None:
        fields["cache_salt"] = salt
    if priority is not None:
        fields["priority"] = priority
    if usage:
        fields["stream_options"] = _WITH_USAGE
    return b"," + msgspec.json.encode(fields)[1:] if fields else b""


@lru_cache(maxsize=4096)
def _cache_salt(team: str, key_id: str) -> str:
    """What keeps a team's prompts apart from others' in the engine's prefix cache.

    The gateway sets it over whatever a client sends, so it need not be a secret, only each team's own; and
    the same on every gateway. A key of no team is a team of its own.
    """
    name = f"team:{team}" if team else f"key:{key_id}"
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
