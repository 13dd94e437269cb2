"""The paths where tokens flow, as bare ASGI: key, body, engine, and the engine's bytes back.

A request's answer begins with the engine's first byte. Until then every failure becomes an HTTP error of its
own; after it, an event in the stream (`streaming.relay_events`).
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from citadel_llm.gateway.auth import authenticate
from citadel_llm.gateway.body import read_body, read_fields, replace_model
from citadel_llm.gateway.call import Call, call_of
from citadel_llm.gateway.errors import EngineError, EngineFailedError, ModelUnsuitedError, shape_of
from citadel_llm.gateway.headers import to_client, to_engine
from citadel_llm.gateway.routing import Engine, refuse_if_down
from citadel_llm.gateway.state import State, state_of
from citadel_llm.gateway.streaming import relay_bytes, relay_events, while_connected
from citadel_llm.gateway.upstream import UpstreamResponse

_ERRORS_FROM = 400
_SERVER_ERRORS_FROM = 500


@dataclass(frozen=True)
class InferencePath:
    """One path of the API that engines answer.

    Attributes:
        path: The same for the client and for the engine.
        task: What a model must be able to do.
    """

    path: str
    task: Literal["generate", "embed"]


INFERENCE_PATHS = (
    InferencePath("/v1/chat/completions", "generate"),
    InferencePath("/v1/completions", "generate"),
    InferencePath("/v1/embeddings", "embed"),
)


class InferenceEndpoint:
    """The ASGI application of one path.

    Args:
        path: The path it serves.
        max_body_bytes: The largest body it reads.
    """

    def __init__(self, path: InferencePath, max_body_bytes: int) -> None:
        self._path = path
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            GatewayError: With no answer begun; `ErrorAnswers` tells the client.
        """
        call, state, headers = call_of(scope), state_of(scope), Headers(scope=scope)
        call.route = self._path.path
        call.key_id = (await authenticate(headers, state["keys"])).id
        body = await read_body(headers, receive, self._max_body_bytes)
        fields = read_fields(body)
        call.stream = fields.stream
        engine = state["engines"].find(fields.model)
        call.model = engine.name
        self._refuse_if_unsuited(engine)
        refuse_if_down(engine)
        if fields.model != engine.name:
            body = replace_model(body, engine.name)
        request = to_engine(headers, call.request_id)
        with _watching(engine, call, state):
            await while_connected(receive, self._ask(engine, request, body, send))

    def _refuse_if_unsuited(self, engine: Engine) -> None:
        if engine.model.task != self._path.task:
            does = "gives embeddings" if engine.model.task == "embed" else "writes text"
            message = f"The model '{engine.name}' {does}; it does not answer {self._path.path}."
            raise ModelUnsuitedError(message, param="model")

    async def _ask(self, engine: Engine, headers: Mapping[str, str], body: bytes, send: Send) -> None:
        async with engine.client.post(self._path.path, headers, body) as response:
            if response.status >= _ERRORS_FROM:
                await _pass_error_on(response, engine, send)
            else:
                await _pass_answer_on(response, send)


@contextmanager
def _watching(engine: Engine, call: Call, state: State) -> Iterator[None]:
    """Count a request while its engine works on it, and take note if the engine fails.

    A failure after the answer began has been told in the answer, and ends here.
    """
    metrics = state["metrics"]
    with metrics.in_flight.labels(engine.name).track_inprogress():
        try:
            yield
        except EngineError as error:
            call.error = str(shape_of(error).code)
            metrics.upstream_errors.labels(engine.name, call.error).inc()
            state["engines"].note_failure(engine, error)
            if call.status is None:
                raise


async def _pass_answer_on(response: UpstreamResponse, send: Send) -> None:
    async with aclosing(response.chunks()) as chunks:
        # Only with its first byte here does the answer begin: before it, a failure is an error of its own.
        first = await anext(chunks, b"")
        await _start(response, send)
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        relay = relay_events if is_stream else relay_bytes
        await relay(_chain(first, chunks), send)


async def _pass_error_on(response: UpstreamResponse, engine: Engine, send: Send) -> None:
    """An engine's own error, if it is one that an SDK understands; else one of ours that says as much."""
    body = await response.read()
    if _is_openai_error(body):
        await _start(response, send)
        await send({"type": "http.response.body", "body": body})
    elif response.status >= _SERVER_ERRORS_FROM:
        raise EngineFailedError(f"The engine of the model '{engine.name}' failed; try again.")
    else:
        message = f"The model '{engine.name}' cannot be asked this (its engine says HTTP {response.status})."
        raise ModelUnsuitedError(message)


def _is_openai_error(body: bytes) -> bool:
    try:
        content = json.loads(body)
    except ValueError:
        return False
    return isinstance(content, dict) and isinstance(content.get("error"), dict)


async def _start(response: UpstreamResponse, send: Send) -> None:
    headers = to_client(response.headers)
    await send({"type": "http.response.start", "status": response.status, "headers": headers})


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
