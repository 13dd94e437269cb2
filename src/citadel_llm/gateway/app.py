"""The gateway's application. `create_app` puts it together; its lifespan begins and ends all that runs."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from citadel_llm import __version__
from citadel_llm.config import Settings
from citadel_llm.gateway import docs, health, metrics_page, models
from citadel_llm.gateway.auth import KeyCache
from citadel_llm.gateway.call import call_of
from citadel_llm.gateway.errors import (
    GatewayError,
    InvalidRequestError,
    MethodNotAllowedError,
    UnknownPathError,
    error_response,
    shape_of,
)
from citadel_llm.gateway.inference import INFERENCE_PATHS, InferenceEndpoint
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.gateway.middleware import ErrorAnswers, RequestLog
from citadel_llm.gateway.openapi import describe
from citadel_llm.gateway.routing import EngineRegistry
from citadel_llm.gateway.state import State
from citadel_llm.store import KeyStore

_NOT_FOUND = 404
_METHOD_NOT_ALLOWED = 405


def create_app(settings: Settings) -> FastAPI:
    """Make the gateway's ASGI application.

    Nothing is opened here: the lifespan connects to the key store and begins to watch the engines. A store
    or an engine that is away does not keep the app from starting.
    """
    app = FastAPI(
        title="Citadel",
        version=__version__,
        lifespan=_lifespan(settings),
        openapi_url="/openapi.json" if settings.gateway.docs else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for path in INFERENCE_PATHS:
        endpoint = InferenceEndpoint(path, settings.gateway.max_body_bytes)
        app.router.routes.append(Route(path.path, endpoint, methods=["POST"]))
    for module in (models, health, metrics_page):
        app.include_router(module.router)
    if settings.gateway.docs:
        app.include_router(docs.router)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    # The last one added is the outermost.
    app.add_middleware(ErrorAnswers)
    app.add_middleware(RequestLog)
    app.openapi = describe(app)  # type: ignore[method-assign]  # FastAPI's documented way to replace it
    return app


def _lifespan(settings: Settings) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
        metrics = GatewayMetrics()
        store = KeyStore(settings.gateway.database_url())
        keys = KeyCache(store, settings.gateway.keys_refresh_seconds, metrics)
        engines = EngineRegistry(settings, metrics)
        async with engines.running(), keys.running():
            yield State(
                settings=settings, keys=keys, engines=engines, metrics=metrics, started=int(time.time())
            )

    return lifespan


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (no such path, not this method) in the API's shape."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    if error.status_code == _NOT_FOUND:
        answer: GatewayError = UnknownPathError("This API has no such path.")
    elif error.status_code == _METHOD_NOT_ALLOWED:
        answer = MethodNotAllowedError("This path does not take this method; the header Allow says which.")
    else:
        answer = InvalidRequestError("The request cannot be understood.")
    response = error_response(answer)
    response.headers.update(error.headers or {})
    call_of(request.scope).error = str(shape_of(answer).code)
    return response


async def _answer_validation_error(request: Request, _error: Exception) -> Response:
    """FastAPI's error for a bad parameter, without the value that was sent."""
    answer = InvalidRequestError("A parameter of the request is not valid.")
    call_of(request.scope).error = shape_of(answer).type
    return error_response(answer)
