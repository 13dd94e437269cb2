"""The proxy that everyone writes first: a FastAPI route, and httpx.

PORT and UPSTREAM come from the environment. The pool has no limit, for with httpx's own of 100 connections it
would refuse the benchmark's streams; no keys, no limits, no accounting.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one client for all requests."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=os.environ["UPSTREAM"], timeout=None, limits=limits) as client:  # noqa: S113
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Ask the engine, and hand its answer on."""
    client: httpx.AsyncClient = request.app.state.client
    asked = await request.json()
    if not asked.get("stream"):
        answer = await client.post("/v1/chat/completions", json=asked)
        return JSONResponse(answer.json(), status_code=answer.status_code)

    async def relay() -> AsyncIterator[bytes]:
        async with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            async for part in answer.aiter_bytes():
                yield part

    return StreamingResponse(relay(), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False, log_level="warning")
