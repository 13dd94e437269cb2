"""The engine of test_hand_over.py, run on the lab host: it answers as vLLM does, and streams for seconds."""

import asyncio
import os
import sys
from pathlib import Path

from aiohttp import web
from tests.gateway.fake_engine import FakeEngine

CHUNKS = 50


async def main() -> None:
    """Serve a model on a socket, both named in the arguments, until killed."""
    model, socket, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    engine = FakeEngine(model, socket)

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        if b'"stream": true' not in body and b'"stream":true' not in body:
            return await engine.answer_normally(request, body)
        return await engine.stream(request, [engine.chunk("x")] * CHUNKS, pause=seconds / CHUNKS)

    engine.answer = answer
    await engine.start()
    os.chmod(socket, 0o666)  # noqa: PTH101, S103 - the gateway's user is another
    await asyncio.Event().wait()


asyncio.run(main())
