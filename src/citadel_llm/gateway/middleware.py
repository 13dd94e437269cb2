"""What surrounds every request: its id, its line in the access log, and the answer when it fails."""

import asyncio
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from citadel_llm.gateway.access_log import AccessLine, milliseconds
from citadel_llm.gateway.call import Call, attach_call, call_of
from citadel_llm.gateway.errors import (
    CLIENT_GONE_STATUS,
    ClientGoneError,
    GatewayError,
    ServerError,
    StoppingError,
    error_response,
    shape_of,
)
from citadel_llm.gateway.headers import is_request_id
from citadel_llm.gateway.paths import dialect_of
from citadel_llm.gateway.state import state_of
from citadel_llm.gateway.unexpected import log_unexpected

# Asked every few seconds by health checks, Prometheus and other nodes: if all is well, they are only counted.
_PROBES = {"/health", "/ready", "/metrics", "/internal/engines"}
_OK = 200


class RequestLog:
    """Gives each request its id, and notes how it went: one line in the log, and the metrics.

    The line holds neither text nor key: only what `Call` holds, times, and the number of bytes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note it when it has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = Call(_request_id(Headers(scope=scope)))
        attach_call(scope, call)
        answer = _Answer(call, send)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            answer.note(scope)


class _Answer:
    """Sends an answer and measures it."""

    def __init__(self, call: Call, send: Send) -> None:
        self._call = call
        self._send = send
        self._began = time.perf_counter()
        self._first_byte: float | None = None
        self._bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._call.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self._call.request_id
        elif body := message.get("body"):
            if self._first_byte is None:
                self._first_byte = time.perf_counter() - self._began
            self._bytes += len(body)
        await self._send(message)

    def note(self, scope: Scope) -> None:
        call, duration = self._call, time.perf_counter() - self._began
        call.route = call.route or getattr(scope.get("route"), "path_format", "")
        status = CLIENT_GONE_STATUS if call.error == "client_gone" else call.status or 0
        traffic = state_of(scope)["traffic"]
        traffic.metrics.tallies.count("", call.route, status, first_byte=self._first_byte, duration=duration)
        if call.route in _PROBES and status == _OK:
            return
        traffic.access_log.write(
            AccessLine(
                request_id=call.request_id,
                key_id=call.key_id,
                method=scope["method"],
                route=call.route,
                status=status,
                error=call.error,
                first_byte_ms=None if self._first_byte is None else milliseconds(self._first_byte),
                duration_ms=milliseconds(duration),
                bytes=self._bytes,
                client=(scope.get("client") or ("", 0))[0],
            )
        )


class ErrorAnswers:
    """Turns whatever goes wrong with a request into an answer in OpenAI's error shape.

    Of an unexpected exception the log gets its type and where it came from, not its text, which may hold
    some of the request's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; answer in its stead if it fails before its answer began."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = call_of(scope)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # The task ends here in any case; passed on, the server would log it as a crash.
            stopping = StoppingError()
            call.error = str(shape_of(stopping).code)
            await _answer(stopping, scope, receive, send)
        except ClientGoneError as error:
            call.error = str(shape_of(error).code)
        except GatewayError as error:
            call.error = str(shape_of(error).code or shape_of(error).type)
            await _answer(error, scope, receive, send)
        except Exception as error:
            # It must not reach the server, which would log its text.
            call.error = "internal_error"
            log_unexpected(call.request_id, error)
            message = f"The gateway failed. Quote the request id {call.request_id} when reporting this."
            await _answer(ServerError(message), scope, receive, send)


async def _answer(error: GatewayError, scope: Scope, receive: Receive, send: Send) -> None:
    if call_of(scope).status is None:
        response = error_response(error, dialect_of(scope["path"]), call_of(scope).request_id)
        await response(scope, receive, send)


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if is_request_id(given) else uuid.uuid4().hex
