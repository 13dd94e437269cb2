"""What the admin API's routes share: who may call them, and how their errors look.

The store blocks: the routes ask it in threads.
"""

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.types import Message

from citadel_llm.gateway.auth import authenticate
from citadel_llm.gateway.call import call_of
from citadel_llm.gateway.errors import (
    BodyTooLargeError,
    ConflictError,
    InvalidRequestError,
    KeyNotFoundError,
    KeysUnavailableError,
)
from citadel_llm.gateway.schemas import Error
from citadel_llm.gateway.state import State, state_of
from citadel_llm.store import (
    Actor,
    AuditEntry,
    InvalidFieldError,
    NoSuchKeyError,
    RefusedError,
    StoreUnavailableError,
)

_log = structlog.get_logger("citadel.audit")

# No request here is longer than a few hundred bytes.
_MAX_BODY_BYTES = 64 * 1024

KEY_ID_PATTERN = r"^[0-9a-f]{1,16}$"

# Only for the OpenAPI page; `require_admin` does the work, in the words of this API.
_bearer = HTTPBearer(
    scheme_name="AdminKey",
    bearerFormat="ck-…",
    description="An API key of the scope `admin`.",
    auto_error=False,
)


@dataclass(frozen=True)
class Admin:
    """Who asks, and the gateway that is asked.

    Attributes:
        state: The gateway's.
        actor: For the audit log.
    """

    state: State
    actor: Actor


async def require_admin(request: Request, _: Annotated[object, Security(_bearer)]) -> Admin:
    """Let the request pass if it carries a key of the scope `admin`.

    Raises:
        InvalidKeyError: It carries none that works.
        NotAllowedError: The key is of another scope.
    """
    state = state_of(request.scope)
    record = await authenticate(request.headers, state["keys"], admin=True)
    call_of(request.scope).key_id = record.id
    return Admin(state, Actor.key(record.id, request.client.host if request.client else ""))


AdminAccess = Annotated[Admin, Depends(require_admin)]


class AdminRoute(APIRoute):
    """A route whose errors name what is wrong, in OpenAI's shape, and never repeat what was sent."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, with its errors told in the words of this API."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                response = await handle(Request(request.scope, _replay(await _read(request))))
            except RequestValidationError as error:
                raise _invalid(error) from None
            except InvalidFieldError as error:
                raise InvalidRequestError(f"{error}.", param=error.field) from None
            except NoSuchKeyError:
                raise KeyNotFoundError("There is no key with this id; see GET /v1/admin/keys.") from None
            except RefusedError as error:
                raise ConflictError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
            except StoreUnavailableError as error:
                structlog.get_logger("citadel.gateway.admin").error("the database is away", reason=str(error))
                message = "The database cannot be used just now; nothing was changed. Try again soon."
                raise KeysUnavailableError(message, retry_after=2) from None
            # Whatever is shown here is for the one who asked, and some of it is shown once.
            response.headers["cache-control"] = "no-store"
            return response

        return answer


def admin_router(prefix: str, *, missing: bool = False) -> APIRouter:
    """A router for a part of the admin API, below /v1/admin.

    Args:
        prefix: Such as `/keys`.
        missing: Whether its routes can find that there is no such thing (404).
    """
    errors = {
        400: "A parameter or field is not valid; `param` names it.",
        401: "No API key, or not a live one.",
        403: "The key is not of the scope `admin`.",
        **({404: "There is no key with this id."} if missing else {}),
        503: "The database cannot be used just now.",
    }
    return APIRouter(
        prefix=f"/v1/admin{prefix}",
        tags=["Admin"],
        route_class=AdminRoute,
        responses={code: {"model": Error, "description": words} for code, words in errors.items()},
    )


def log_act(entry: AuditEntry) -> None:
    """Write an entry of the audit log to the gateway's own log, and so to the journal."""
    _log.info("audit", **entry.as_json())


async def _read(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise BodyTooLargeError(f"The body is larger than {_MAX_BODY_BYTES} bytes.")
    if body:
        try:
            json.loads(body)
        except (ValueError, RecursionError):
            raise InvalidRequestError("The body is not JSON in UTF-8.") from None
    return body


def _replay(body: bytes) -> Callable[[], Coroutine[Any, Any, Message]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _invalid(error: RequestValidationError) -> InvalidRequestError:
    """The first of pydantic's complaints: which parameter, and what it must be, not what was sent."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:]]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not place:
        return InvalidRequestError("The body must be a JSON object.")
    return InvalidRequestError(f"{'.'.join(place)}: {message}.", param=place[0])
