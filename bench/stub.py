"""An engine that costs next to nothing: speaks as vLLM's server does, on a unix socket and on TCP.

    python -m bench.stub SOCKET PORT

A plain question gets a prepared answer. A stream has `max_completion_tokens` events, each in a chunk and a
write of its own; `seed` says how many a second, 0 as quickly as they are taken. It prints
`ready` when it listens.
"""

import asyncio
import gc
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop

from bench import messages

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD = b"date: Mon, 01 Jan 2024 00:00:00 GMT\r\nserver: uvicorn\r\n"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    + _HEAD
    + b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def answer(content: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK") -> bytes:
    """A whole HTTP answer."""
    length = b"content-length: %d\r\ncontent-type: " % len(content)
    return b"HTTP/1.1 " + status + b"\r\n" + _HEAD + length + kind + b"\r\n\r\n" + content


def chunk(content: bytes) -> bytes:
    """A chunk of an answer whose length nobody knows yet."""
    return b"%x\r\n%s\r\n" % (len(content), content)


_COMPLETION = answer(messages.completion())
_FIRST, _MIDDLE, _LAST = (chunk(each) for each in (messages.FIRST, messages.MIDDLE, messages.LAST))
_END = chunk(messages.DONE) + b"0\r\n\r\n"


class Counts:
    """What the stub has done since it started."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0
        self.running = 0
        self.tokens = 0

    def metrics(self) -> bytes:
        """In Prometheus's form, under vLLM's names, so that whoever watches the engine sees it move."""
        labels = f'{{engine="0",model_name="{messages.MODEL}"}}'
        lines = (
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{labels} {self.running}.0",
            "# TYPE vllm:generation_tokens_total counter",
            f"vllm:generation_tokens_total{labels} {self.tokens}.0",
            "# TYPE bench_connections_total counter",
            f"bench_connections_total {self.connections}",
            "# TYPE bench_requests_total counter",
            f"bench_requests_total {self.requests}",
            "",
        )
        return "\n".join(lines).encode()


class Stub(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, counts: Counts) -> None:
        self._loop = loop
        self._counts = counts
        self._held = b""
        self._parts: list[bytes] = []
        self._missing = 0
        self._writable = True
        self._stream: _Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's own are not of asyncio's classes.
        self.transport = cast("asyncio.Transport", transport)
        self._counts.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """End what runs."""
        if self._stream:
            self._stream.cancel()
        self._stream = None

    def data_received(self, data: bytes) -> None:
        """Take a request, or a part of one; a body in several pieces is put together once."""
        if self._missing:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing <= 0:
                whole, self._parts, self._missing = b"".join(self._parts), [], 0
                self._answer(whole)
            return
        data = self._held + data if self._held else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._held = data
            return
        self._held = b""
        told = _LENGTH.search(data, 0, end)
        self._missing = max(0, end + 4 + (int(told[1]) if told else 0) - len(data))
        if self._missing:
            self._parts = [data]
        else:
            self._answer(data)

    def pause_writing(self) -> None:
        """The other side takes no more for now."""
        self._writable = False

    def resume_writing(self) -> None:
        """It does again."""
        self._writable = True
        if self._stream:
            self._stream.resume()

    def _answer(self, asked: bytes) -> None:
        self._counts.requests += 1
        if not asked.startswith(b"POST"):
            self.transport.write(self._about(asked.split(b" ", 2)[1]))
        elif b'"stream":true' in asked or b'"stream": true' in asked:
            wanted = json.loads(asked[asked.index(b"\r\n\r\n") :])
            self._stream = _Stream(self, wanted)
        else:
            self._counts.tokens += 1
            self.transport.write(_COMPLETION)

    def _about(self, path: bytes) -> bytes:
        if path == b"/metrics":
            return answer(self._counts.metrics(), b"text/plain; version=0.0.4")
        if path == b"/health":
            return answer(b"", b"text/plain")
        if path == b"/v1/models":
            model = {"id": messages.MODEL, "object": "model", "owned_by": "vllm", "max_model_len": 131072}
            return answer(json.dumps({"object": "list", "data": [model]}).encode())
        if path in (b"/get_server_info", b"/server_info", b"/get_model_info", b"/model_info"):
            # sglang-router looks for a tokenizer there; by the model's name it would look on the Internet.
            return answer(json.dumps({"model_path": str(Path.cwd()), "is_generation": True}).encode())
        return answer(b'{"detail":"Not Found"}', status=b"404 Not Found")

    def write(self, content: bytes) -> bool:
        """Send, and tell whether more is welcome."""
        self.transport.write(content)
        return self._writable

    def later(self, when: float, what: Callable[[], None]) -> asyncio.Handle:
        """Do something at a time of the loop's clock, or as soon as all others had their turn."""
        return self._loop.call_at(when, what) if when else self._loop.call_soon(what)

    def begun(self) -> float:
        """A stream begins: count it, and tell the loop's time."""
        self._counts.running += 1
        return self._loop.time()

    def over(self, tokens: int) -> None:
        """A stream is over."""
        self._stream = None
        self._counts.running -= 1
        self._counts.tokens += tokens

    def tell_tokens(self) -> None:
        """A token was made."""
        self._counts.tokens += 1


class _Stream:
    """One streamed answer: each event by a write of its own, on time, or as the other side takes them."""

    def __init__(self, connection: Stub, asked: dict[str, object]) -> None:
        self._connection = connection
        self._events = int(str(asked.get("max_completion_tokens") or asked.get("max_tokens") or 16))
        rate = int(str(asked.get("seed") or 0))
        options = asked.get("stream_options")
        self._usage = isinstance(options, dict) and bool(options.get("include_usage"))
        self._sent = 0
        self._pause = 1 / rate if rate else 0.0
        self._began = connection.begun()
        self._handle: asyncio.Handle | None = None
        connection.write(_STREAM_HEAD)
        self._step()

    def cancel(self) -> None:
        """The other side is gone."""
        if self._handle:
            self._handle.cancel()
        self._connection.over(0)

    def resume(self) -> None:
        """The other side takes events again."""
        if self._handle is None:
            self._step()

    def _step(self) -> None:
        self._handle = None
        self._sent += 1
        self._connection.tell_tokens()
        if self._sent < self._events:
            if self._connection.write(_FIRST if self._sent == 1 else _MIDDLE):
                when = self._began + self._sent * self._pause if self._pause else 0.0
                self._handle = self._connection.later(when, self._step)
            return
        self._connection.write(_LAST)
        if self._usage:
            self._connection.write(chunk(messages.usage_event(self._events)))
        self._connection.write(_END)
        self._connection.over(0)


async def serve(path: Path, port: int) -> None:
    """Listen at both places for ever."""
    loop = asyncio.get_running_loop()
    counts = Counts()
    await loop.create_unix_server(lambda: Stub(loop, counts), str(path), backlog=2048)
    await loop.create_server(lambda: Stub(loop, counts), "127.0.0.1", port, backlog=2048)
    # No pauses for collecting: nothing here goes round in circles.
    gc.freeze()
    gc.disable()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
