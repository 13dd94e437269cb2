"""/health: the process lives. /ready: it can answer something."""

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Request, Response, status
from pydantic import BaseModel, Field

from citadel_llm.gateway.routing import Engine, ServedModel
from citadel_llm.gateway.state import state_of


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class EngineState(BaseModel):
    """How one engine is."""

    engine: str = Field(
        description="Its id; behind another node's gateway, that node's name stands before it.",
        examples=["smollm2-135m-instruct.2"],
    )
    state: Literal["up", "down", "unknown", "ejected", "suspect", "stalled", "asleep"] = Field(
        description="`ejected`: requests failed, it gets none for a while; `suspect`: its health check is "
        "late; `stalled`: it has requests in hand and makes no progress; `asleep`: another node brings it up "
        "for the first request."
    )
    reason: str = Field(description="Why it is down; empty otherwise.")
    since: datetime = Field(description="When it went up or down.")
    outstanding: int = Field(description="Requests of this gateway that it has in hand.")


class ModelState(BaseModel):
    """How one model is, and each of its engines."""

    model: str = Field(examples=["smollm2-135m-instruct"])
    state: Literal["up", "down", "unknown", "asleep"] = Field(
        description="`up` while one of its engines is; `unknown` until they were asked once; `asleep`: it is "
        "brought up by the first request."
    )
    reason: str = Field(description="Why it is down; empty otherwise.")
    since: datetime = Field(description="When it came into this state.")
    waiting: int = Field(description="Requests that wait for one of its engines.")
    engines: list[EngineState]


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
        status.HTTP_503_SERVICE_UNAVAILABLE: {
            "model": Readiness,
            "description": "No model answers, or would.",
        }
    },
)
async def ready(request: Request, response: Response) -> Readiness:
    """200 when at least one model answers, or is brought up for who asks; with the state of each."""
    models = state_of(request.scope)["engines"].models
    states = [_of_model(model) for model in models]
    if any(model.shown_state in {"up", "asleep"} for model in models):
        return Readiness(status="ready", models=states)
    response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Readiness(status="not ready", models=states)


def _of_model(model: ServedModel) -> ModelState:
    return ModelState(
        model=model.name,
        state=model.shown_state,
        reason=model.reason,
        since=datetime.fromtimestamp(model.since, UTC),
        waiting=model.waiting,
        engines=[_of_engine(engine) for engine in model.engines],
    )


def _of_engine(engine: Engine) -> EngineState:
    return EngineState(
        engine=engine.id,
        state=engine.condition,
        reason=engine.reason,
        since=datetime.fromtimestamp(engine.since, UTC),
        outstanding=engine.outstanding,
    )
