"""/v1/models: the catalogue, as OpenAI lists models, with what else a client may want to know."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from citadel_llm.gateway.auth import authenticate
from citadel_llm.gateway.call import call_of
from citadel_llm.gateway.routing import Engine
from citadel_llm.gateway.state import State, state_of

# Only for the OpenAPI page; `require_key` does the work, in the words of this API.
bearer = HTTPBearer(
    scheme_name="ApiKey", bearerFormat="ck-…", description="An API key of Citadel.", auto_error=False
)


async def require_key(request: Request, _: Annotated[object, Security(bearer)]) -> State:
    """Let the request pass if it carries a live key; returns the gateway's state for the route's use.

    Raises:
        InvalidKeyError: It does not.
    """
    state = state_of(request.scope)
    record = await authenticate(request.headers, state["keys"])
    call_of(request.scope).key_id = record.id
    return state


class ModelCard(BaseModel):
    """One model: OpenAI's fields, and Citadel's own."""

    id: str = Field(description="What to ask for in `model`.", examples=["smollm2-135m-instruct"])
    object: Literal["model"] = "model"
    created: int = Field(description="When the gateway started, in Unix time.")
    owned_by: str = "citadel"
    aliases: list[str] = Field(description="Other names for the same model.")
    task: Literal["generate", "embed"] = Field(description="Whether it writes text or gives embeddings.")
    max_model_len: int | None = Field(description="Longest context in tokens, where the site says.")
    state: Literal["up", "down", "unknown"] = Field(description="Whether its engine answers.")


class ModelList(BaseModel):
    """All models of the site."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


router = APIRouter(prefix="/v1", tags=["Models"])

Gateway = Annotated[State, Depends(require_key)]


@router.get("/models", summary="List the models")
async def list_models(state: Gateway) -> ModelList:
    """All models of the site, those too whose engine is down just now."""
    return ModelList(data=[_card(engine, state) for engine in state["engines"]])


@router.get("/models/{model:path}", summary="Describe one model")
async def get_model(model: str, state: Gateway) -> ModelCard:
    """One model, by its name or an alias."""
    return _card(state["engines"].find(model), state)


def _card(engine: Engine, state: State) -> ModelCard:
    model = engine.model
    return ModelCard(
        id=model.name,
        created=state["started"],
        aliases=list(model.aliases),
        task=model.task,
        max_model_len=model.max_model_len,
        state=engine.state,
    )
