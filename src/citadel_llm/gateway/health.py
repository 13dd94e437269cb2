"""/health: the process lives. /ready: it can answer something."""

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Request, Response, status
from pydantic import BaseModel, Field

from citadel_llm.gateway.state import state_of


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class ModelState(BaseModel):
    """How one model's engine is."""

    model: str = Field(examples=["smollm2-135m-instruct"])
    state: Literal["up", "down", "unknown"] = Field(description="`unknown` until it was asked once.")
    reason: str = Field(description="Why it is down; empty otherwise.")
    since: datetime = Field(description="When it came into this state.")


class Readiness(BaseModel):
    """Whether anything can be answered, and which models can."""

    status: Literal["ready", "not ready"]
    models: list[ModelState]


router = APIRouter(tags=["Health"])


@router.get("/health", summary="Is the gateway alive?")
async def health() -> Health:
    """Always 200 while the process can answer. Says nothing about engines."""
    return Health()


@router.get(
    "/ready",
    summary="Can the gateway answer?",
    responses={
        status.HTTP_503_SERVICE_UNAVAILABLE: {"model": Readiness, "description": "No engine answers."}
    },
)
async def ready(request: Request, response: Response) -> Readiness:
    """200 when the engine of at least one model answers; with the state of each."""
    engines = state_of(request.scope)["engines"]
    models = [
        ModelState(
            model=engine.name,
            state=engine.state,
            reason=engine.reason,
            since=datetime.fromtimestamp(engine.since, UTC),
        )
        for engine in engines
    ]
    if any(engine.state == "up" for engine in engines):
        return Readiness(status="ready", models=models)
    response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Readiness(status="not ready", models=models)
