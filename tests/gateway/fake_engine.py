"""An engine for tests: a real HTTP server on a real unix socket that answers as vLLM does, without a model.

Headers, server-sent events, error bodies and metrics have the form that vLLM 0.32 was seen to write;
vllm_answers.py has the bodies. What the
fake leaves unproven: that a model answers sensibly, that vLLM stops generating when its client goes away, and
how vLLM behaves while it starts, drains or runs out of memory. The molecule scenarios run a real engine.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from . import vllm_answers

Handler = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]

METRICS = """\
# HELP python_info Python platform information
# TYPE python_info gauge
python_info{implementation="CPython",major="3",minor="11",patchlevel="2",version="3.11.2"} 1.0
# HELP process_resident_memory_bytes Resident memory size in bytes.
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 7.2e+08
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="%(model)s"} 2.0
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="%(model)s"} 1234.0
# HELP vllm:generation_tokens_created Number of generation tokens processed.
# TYPE vllm:generation_tokens_created gauge
vllm:generation_tokens_created{engine="0",model_name="%(model)s"} 1.7e+09
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="%(model)s"} 3.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="%(model)s"} 5.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="%(model)s"} 5.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="%(model)s"} 0.9
"""


def cut(request: web.Request) -> None:
    """Break the connection off, as the kernel does for a process that is killed."""
    assert request.transport
    request.transport.abort()


@dataclass
class Seen:
    """A request as the engine got it."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeEngine:
    """One engine. `answer` replaces what it does with a request; None is vLLM's normal answer."""

    model: str
    socket: Path
    answer: Handler | None = None
    health: int = 200
    metrics: str = METRICS
    seen: list[Seen] = field(default_factory=list)
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_route("*", "/{path:.*}", self._ask)
        # vLLM's server notices a client that goes away in the middle, and so must this one.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self.socket.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self.socket)).start()

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=self.health)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(text=self.metrics.replace("%(model)s", self.model))

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(Seen(request.path, {k.lower(): v for k, v in request.headers.items()}, body))
        try:
            if self.answer is not None:
                return await self.answer(request, body)
            try:
                return await self.answer_normally(request, body)
            except (AttributeError, LookupError, TypeError) as wrong:
                # A body that does not fit what the path takes.
                return web.json_response(vllm_answers.error(f"1 validation error: {wrong!r}"), status=400)
        except (asyncio.CancelledError, ConnectionResetError):
            self.disconnected.set()
            raise

    async def answer_normally(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if request.content_type == "multipart/form-data":
            return await self._transcribe(request, body)
        try:
            # As vLLM does, before it looks at anything else.
            asked = json.loads(body)
        except ValueError:
            return web.json_response(vllm_answers.error("There was an error parsing the body"), status=400)
        if request.path in ("/v1/chat/completions", "/v1/completions"):
            return await self._complete(request, asked)
        if asked.get("stream") and request.path in vllm_answers.STREAMS:
            return await self.stream(request, vllm_answers.STREAMS[request.path](self.model), end=False)
        if request.path == "/v1/embeddings":
            return web.json_response(self._embeddings(asked))
        make = vllm_answers.WHOLE.get(request.path)
        answer = make(self.model, asked) if make else {"detail": "Not Found"}
        return web.json_response(answer, status=200 if make else 404)

    async def _complete(self, request: web.Request, asked: vllm_answers.Answer) -> web.StreamResponse:
        chat = request.path.endswith("chat/completions")
        if asked.get("stream"):
            events = [self.chunk(word, chat=chat) for word in vllm_answers.WORDS]
            if (asked.get("stream_options") or {}).get("include_usage"):
                events.append(self.usage_chunk(chat=chat))
            return await self.stream(request, events)
        if chat and asked.get("tools"):
            return web.json_response(vllm_answers.tool_call(self.model, asked))
        text = vllm_answers.structured(asked) if "response_format" in asked else vllm_answers.TEXT
        return web.json_response(self._completion(text, chat=chat))

    async def _transcribe(self, request: web.Request, body: bytes) -> web.StreamResponse:
        # `request` was read to its end; the form is read again from what it held.
        form = vllm_answers.form_fields(body, request.headers["content-type"])
        if form.get("stream") == "true":
            words = vllm_answers.WORDS
            return await self.stream(request, [vllm_answers.transcription_chunk(word) for word in words])
        seconds = {"type": "duration", "seconds": 1}
        return web.json_response({"text": f"The end of {form['file']}.", "usage": seconds})

    async def stream(
        self, request: web.Request, events: list[bytes], *, pause: float = 0, end: bool = True
    ) -> web.StreamResponse:
        response = await self.open_stream(request)
        for event in events:
            await response.write(event)
            await asyncio.sleep(pause)
        if end:
            await response.write(b"data: [DONE]\n\n")
            await response.write_eof()
        return response

    async def open_stream(self, request: web.Request) -> web.StreamResponse:
        headers = {"content-type": "text/event-stream; charset=utf-8", "server": "uvicorn"}
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        return response

    def answer_endlessly(self, most: int) -> Callable[[], int]:
        """Answer with events of 64 KiB, `most` bytes of them; what is given back tells how many it wrote."""
        written = 0

        async def answer(request: web.Request, _body: bytes) -> web.StreamResponse:
            nonlocal written
            response = await self.open_stream(request)
            event = self.chunk("x" * 65_536)
            while written < most:
                await response.write(event)
                written += len(event)
            return response

        self.answer = answer
        return lambda: written

    def chunk(self, text: str, *, chat: bool = True) -> bytes:
        choice = {"index": 0, "logprobs": None, "finish_reason": None}
        choice.update({"delta": {"content": text}} if chat else {"text": text})  # type: ignore[dict-item]
        kind = "chat.completion.chunk" if chat else "text_completion"
        event = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": self.model, "choices": [choice]}
        return b"data: " + json.dumps(event).encode() + b"\n\n"

    def usage_chunk(self, *, chat: bool = True) -> bytes:
        """What vLLM writes before the end when it is asked for the usage."""
        kind = "chat.completion.chunk" if chat else "text_completion"
        usage = {"prompt_tokens": 5, "total_tokens": 8, "completion_tokens": 3}
        event = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": self.model}
        return b"data: " + json.dumps({**event, "choices": [], "usage": usage}).encode() + b"\n\n"

    def _completion(self, text: str, *, chat: bool) -> dict[str, object]:
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion" if chat else "text_completion",
            "created": 1,
            "model": self.model,
            "choices": [choice],
            "usage": {"prompt_tokens": 5, "total_tokens": 8, "completion_tokens": 3},
        }

    def _embeddings(self, asked: dict[str, object]) -> dict[str, object]:
        texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
        data = [
            {"index": i, "object": "embedding", "embedding": [0.5, -0.25, float(i)]}
            for i in range(len(texts))
        ]
        usage = {"prompt_tokens": 2, "total_tokens": 2, "completion_tokens": 0}
        return {
            "id": "embd-1",
            "object": "list",
            "created": 1,
            "model": self.model,
            "data": data,
            "usage": usage,
        }
