"""The gateway's application. `create_app` puts it together; its lifespan begins and ends all that runs."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from citadel_llm import __version__
from citadel_llm.config import Settings
from citadel_llm.gateway import admin, docs, health, metrics_page, models, usage
from citadel_llm.gateway.accounting import Ledger
from citadel_llm.gateway.admin.access import log_act
from citadel_llm.gateway.auth import KeyCache
from citadel_llm.gateway.call import call_of
from citadel_llm.gateway.cors import CrossOrigin, CrossOriginAnswers
from citadel_llm.gateway.errors import (
    GatewayError,
    InvalidRequestError,
    MethodNotAllowedError,
    UnknownPathError,
    error_response,
    shape_of,
)
from citadel_llm.gateway.key_snapshot import KeySnapshot
from citadel_llm.gateway.limits import Limiter
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.gateway.middleware import ErrorAnswers, RequestLog
from citadel_llm.gateway.openapi import describe
from citadel_llm.gateway.paths import BY_PATH, dialect_of
from citadel_llm.gateway.proxies import BelievedProxies, TrustedProxies
from citadel_llm.gateway.routing import EngineRegistry, peers
from citadel_llm.gateway.state import State
from citadel_llm.gateway.traffic import Traffic
from citadel_llm.gateway.workers import ALONE, Workers
from citadel_llm.store import KeyStore
from citadel_llm.store.usage import UsageStore

_NOT_FOUND = 404
_METHOD_NOT_ALLOWED = 405


def create_app(settings: Settings, workers: Workers = ALONE) -> FastAPI:
    """Make the gateway's ASGI application.

    Nothing is opened here: the lifespan connects to the key store and begins to watch the engines. A store
    or an engine that is away does not keep the app from starting.

    Args:
        settings: The host's settings.
        workers: The processes that serve it; this one alone unless said.
    """
    app = FastAPI(
        title="Citadel",
        version=__version__,
        lifespan=_lifespan(settings, workers),
        openapi_url="/openapi.json" if settings.gateway.docs else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for name in BY_PATH:
        app.router.routes.append(Route(name, _not_on_the_wire, methods=["POST"]))
    for module in (models, usage, health, metrics_page, peers, admin):
        app.include_router(module.router)
    if settings.gateway.docs:
        app.include_router(docs.router)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    # The last one added is the outermost.
    app.add_middleware(ErrorAnswers)
    cors = CrossOrigin(settings.gateway.cors)
    if cors:
        app.add_middleware(CrossOriginAnswers, cors=cors)
    app.add_middleware(RequestLog)
    proxies = TrustedProxies(settings.gateway.trusted_proxies)
    if proxies:
        app.add_middleware(BelievedProxies, proxies=proxies)
    app.openapi = describe(app)  # type: ignore[method-assign]  # FastAPI's documented way to replace it
    return app


def _lifespan(
    settings: Settings, workers: Workers
) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
        metrics = GatewayMetrics()
        store = KeyStore(settings.gateway.database_url(), on_act=log_act)
        snapshot = KeySnapshot(settings.gateway.state_dir, settings.gateway.database)
        keys = KeyCache(store, settings.gateway.keys_refresh_seconds, metrics, snapshot)
        engines = EngineRegistry(settings, metrics)
        ledger = Ledger(settings, metrics.registry)
        spent = partial(asyncio.to_thread, UsageStore(store.database).spent)
        limiter = Limiter(settings.gateway.limits, metrics.registry, spent)
        traffic = Traffic(
            settings, keys=keys, limiter=limiter, engines=engines, ledger=ledger, metrics=metrics
        )
        async with engines.running(), keys.running(), limiter.running(), ledger.running(), traffic.running():
            yield State(
                settings=settings,
                keys=keys,
                engines=engines,
                metrics=metrics,
                traffic=traffic,
                workers=workers,
                started=int(time.time()),
            )

    return lifespan


async def _not_on_the_wire(request: Request) -> Response:
    """A path of the engines' in a form that `wire.server` does not know, such as percent-encoded."""
    return _answer(request, UnknownPathError("This API has no such path."))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (no such path, not this method) in the API's shape."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    if error.status_code == _NOT_FOUND:
        answer: GatewayError = UnknownPathError("This API has no such path.")
    elif error.status_code == _METHOD_NOT_ALLOWED:
        answer = MethodNotAllowedError("This path does not take this method; the header Allow says which.")
    else:
        answer = InvalidRequestError("The request cannot be understood.")
    response = _answer(request, answer)
    response.headers.update(error.headers or {})
    call_of(request.scope).error = str(shape_of(answer).code)
    return response


async def _answer_validation_error(request: Request, _error: Exception) -> Response:
    """FastAPI's error for a bad parameter, without the value that was sent."""
    answer = InvalidRequestError("A parameter of the request is not valid.")
    call_of(request.scope).error = shape_of(answer).type
    return _answer(request, answer)


def _answer(request: Request, error: GatewayError) -> Response:
    return error_response(error, dialect_of(request.url.path), call_of(request.scope).request_id)
