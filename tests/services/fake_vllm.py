"""Stands in for vLLM's API server: its arguments, its unix socket, its log's form, its drain.

What it leaves unproven: that vLLM takes these arguments and behaves so. That is seen on a lab host, where the
real one runs. What it does wrong stands in `--fake`.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from aiohttp import web

WORDS = {
    "no-memory": "ValueError: No available memory for the cache blocks. Try increasing it.",
    "no-architecture": "ValueError: Model architectures ['X'] are not supported for now.",
}


class Fake:
    """An engine of one model."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.running = 0
        self.tokens = 0
        self.ending = asyncio.Event()

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def metrics(self, _request: web.Request) -> web.Response:
        lines = [f"vllm:num_requests_running {self.running}", f"vllm:generation_tokens_total {self.tokens}"]
        return web.Response(text="\n".join([*lines, ""]))

    async def load(self, _request: web.Request) -> web.Response:
        return web.json_response({"server_load": self.running})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.options.fake == "slow-answer":
            await asyncio.sleep(0.3)
        if self.options.fake == "no-answer":
            return web.json_response({"error": {"message": "EngineCore encountered an issue"}}, status=500)
        if self.options.fake == "no-questions" and "prompt_logprobs" in body:
            return web.json_response({"error": {"message": "too long"}}, status=400)
        logprob = -1.5 + how_far_off()
        if "prompt_logprobs" in body:
            told = [None, *({str(number): {"logprob": logprob}} for number in range(20))]
            return web.json_response({"choices": [{"prompt_logprobs": told}]})
        if "allowed_token_ids" in body:
            told_of = {"token_logprobs": [logprob] * int(body["max_tokens"])}
            return web.json_response({"choices": [{"logprobs": told_of}]})
        if not body.get("stream"):
            self.tokens += 1
            return web.json_response({"choices": [{"text": " Paris"}], "model": body["model"]})
        self.running += 1
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(int(body["max_tokens"])):
            if self.options.fake == "hang":
                await asyncio.sleep(60)
            await response.write(f"data: {number}\n\n".encode())
            self.tokens += 1
            await asyncio.sleep(0.1)
        await response.write(b"data: [DONE]\n\n")
        self.running -= 1
        return response

    async def embed(self, request: web.Request) -> web.Response:
        texts = (await request.json())["input"]
        return web.json_response({"data": [{"embedding": [0.5, 1.0]}] * len(texts)})

    async def serve(self) -> None:
        application = web.Application()
        application.add_routes(
            [
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
                web.get("/load", self.load),
                web.post("/v1/completions" if self.options.runner == "auto" else "/unused", self.complete),
                web.post("/v1/embeddings" if self.options.runner == "pooling" else "/unused2", self.embed),
            ]
        )
        runner = web.AppRunner(application, shutdown_timeout=float(self.options.shutdown_timeout))
        await runner.setup()
        await web.UnixSite(runner, self.options.uds).start()
        say("INFO:     Application startup complete.")
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.ending.set)
        await self.ending.wait()
        await runner.cleanup()


def how_far_off() -> float:
    """By how much its log-probabilities are off: what a test has written there."""
    off = Path(os.environ["HOME"], "off")
    return float(off.read_text()) if off.exists() else 0.0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds")
    parser.add_argument("--shutdown-timeout")
    parser.add_argument("--runner", default="auto")
    parser.add_argument("--fake", default="")
    options, _ = parser.parse_known_args(sys.argv[3:])  # after: -m vllm.entrypoints.openai.api_server
    origin = "INFO 11-23 12:53:24 [cpu_model_runner.py:68]"
    say(f"(APIServer pid={os.getpid()}) {origin} Starting to load model x...")
    if options.fake in WORDS:
        say(f"(EngineCore pid=2) ERROR 11-23 12:53:30 [core.py:1] {WORDS[options.fake]}")
        sys.exit(1)
    if options.fake == "slow":
        time.sleep(60)
    core = f"(EngineCore pid={os.getpid()}) {origin}"
    say(f"{core} Initializing a V1 LLM engine (v0.32.0) with config: model='x'")
    say(f"{core} CPU KV cache size: 46,592 tokens, Maximum concurrency for 2,048 tokens per request: 22.75x")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Fake(options).serve())


main()
