"""The access log: one line a request, with what matters and without what must not be in it.

As JSON it does not go through structlog, whose processors would cost more than all else that the gateway does
for a request: the line has known fields only, none of them a text of the client's, so there is nothing to
redact. Lines are written together, a few times a second.
"""

import asyncio
import time
from datetime import UTC, datetime

import msgspec
import structlog

from citadel_llm import logging_config

_FLUSH_SECONDS = 0.1
_FLUSH_LINES = 256

_LOGGER = "citadel.gateway.access"
_log = structlog.get_logger(_LOGGER)


class AccessLine(msgspec.Struct):
    """One request.

    Attributes:
        request_id: The client's own, or made here.
        key_id: The id of the API key, empty until it is known.
        method: HTTP's.
        route: The path's template, never the path that was sent.
        status: HTTP's; 499 for a client that hung up.
        error: The code of what went wrong, empty when nothing did.
        first_byte_ms: Milliseconds from the request's arrival to the first byte of the answer's body.
        duration_ms: Milliseconds from the request's arrival to the end of the answer.
        bytes: Length of the answer's body.
        client: The address that asked.
        model: The real name of the model. Never what the client sent.
        engine: The engine that was asked last.
        stream: Whether the client asked for a stream.
        attempts: How many engines were asked.
        queue_ms: Milliseconds in the model's queue.
        tokens_in: Tokens read.
        tokens_out: Tokens written.
    """

    request_id: str
    key_id: str
    method: str
    route: str
    status: int
    error: str
    first_byte_ms: float | None
    duration_ms: float
    bytes: int
    client: str
    model: str = ""
    engine: str = ""
    stream: bool = False
    attempts: int = 0
    queue_ms: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0


class AccessLog:
    """Writes the lines. Used from one event loop."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._second = 0
        self._to_the_second = b""
        self._flushing: asyncio.TimerHandle | None = None

    def write(self, line: AccessLine) -> None:
        """Write a line, now or a moment later."""
        if not logging_config.json_lines:
            _log.info("request", **msgspec.structs.asdict(line))
            return
        self._lines.append(self._start() + self._encode(line)[1:-1])
        if len(self._lines) >= _FLUSH_LINES:
            self.flush()
        elif self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)

    def _start(self) -> bytes:
        """What every line of the log has, in the same names."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            moment = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._to_the_second = f'{{"event":"request","timestamp":"{moment}.'.encode()
        return b'%b%06dZ",' % (self._to_the_second, (now - second) * 1_000_000)

    def flush(self) -> None:
        """Write what has come together."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._lines:
            lines, self._lines = self._lines, []
            logging_config.write_json(_LOGGER, lines)


def milliseconds(seconds: float) -> float:
    """Seconds as the log has them: milliseconds with one digit after the point."""
    # As `round` would, at a quarter of its cost.
    return int(seconds * 10_000 + 0.5) / 10
