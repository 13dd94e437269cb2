"""/v1/models: the catalogue, as OpenAI lists models, with what else a client may want to know.

A key sees the models that it may use, and no others. Anthropic's clients, known by their header
`anthropic-version`, get the same in Anthropic's words.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from citadel_llm.gateway.auth import authenticate
from citadel_llm.gateway.call import call_of
from citadel_llm.gateway.paths import Task
from citadel_llm.gateway.routing import ServedModel
from citadel_llm.gateway.state import State, state_of
from citadel_llm.store import KeyRecord

# Only for the OpenAPI page; `require_key` does the work, in the words of this API.
bearer = HTTPBearer(
    scheme_name="ApiKey", bearerFormat="ck-…", description="An API key of Citadel.", auto_error=False
)


class ModelCard(BaseModel):
    """One model: OpenAI's fields, and Citadel's own."""

    id: str = Field(description="What to ask for in `model`.", examples=["smollm2-135m-instruct"])
    object: Literal["model"] = "model"
    created: int = Field(description="When the gateway started, in Unix time.")
    owned_by: str = "citadel"
    aliases: list[str] = Field(description="Other names for the same model.")
    task: Task = Field(
        description="Whether it writes text, gives embeddings, scores texts, or writes down speech."
    )
    max_model_len: int | None = Field(description="Longest context in tokens, where the site says.")
    state: Literal["up", "down", "unknown", "asleep"] = Field(
        description="Whether an engine of it answers; `asleep`: it is brought up by the first request."
    )


class ModelList(BaseModel):
    """The models that the key may use."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


@dataclass(frozen=True)
class Asked:
    """Who asks, and of what.

    Attributes:
        state: The gateway's.
        key: The key that was sent.
        anthropic: Whether the client is one of Anthropic's.
    """

    state: State
    key: KeyRecord
    anthropic: bool


async def require_key(request: Request, _: Annotated[object, Security(bearer)]) -> Asked:
    """Let the request pass if it carries a live key.

    Raises:
        InvalidKeyError: It does not.
    """
    state = state_of(request.scope)
    record = await authenticate(request.headers, state["keys"])
    call_of(request.scope).key_id = record.id
    return Asked(state=state, key=record, anthropic="anthropic-version" in request.headers)


router = APIRouter(prefix="/v1", tags=["Models"])

Gateway = Annotated[Asked, Depends(require_key)]


@router.get("/models", summary="List the models", response_model=ModelList)
async def list_models(asked: Gateway) -> ModelList | JSONResponse:
    """The models that the key may use, those too whose engines are down just now."""
    engines = asked.state["engines"]
    cards = [_card(model, asked.state) for model in engines.visible_to(asked.key)]
    for name, models in engines.aliases_visible_to(asked.key).items():
        cards.append(_card(models[0], asked.state).model_copy(update={"id": name, "aliases": []}))
    if asked.anthropic:
        return JSONResponse(_anthropic_list(cards))
    return ModelList(data=cards)


@router.get("/models/{model:path}", summary="Describe one model", response_model=ModelCard)
async def get_model(model: str, asked: Gateway) -> ModelCard | JSONResponse:
    """One model, by its name or an alias."""
    # As a request for it would find it: in the same words for one that the key may not use as for none.
    card = _card(asked.state["engines"].route(model, asked.key, b"\0")[0], asked.state)
    return JSONResponse(_anthropic_card(card)) if asked.anthropic else card


def _card(model: ServedModel, state: State) -> ModelCard:
    return ModelCard(
        id=model.name,
        created=state["started"],
        aliases=list(model.aliases),
        task=model.task,
        max_model_len=model.max_model_len,
        state=model.shown_state,
    )


def _anthropic_list(cards: Iterable[ModelCard]) -> dict[str, Any]:
    """All on one page: https://docs.anthropic.com/en/api/models-list."""
    data = [_anthropic_card(card) for card in cards]
    ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": False, "first_id": ends[0], "last_id": ends[1]}


def _anthropic_card(card: ModelCard) -> dict[str, Any]:
    created = datetime.fromtimestamp(card.created, UTC)
    return {
        "type": "model",
        "id": card.id,
        "display_name": card.id,
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "max_input_tokens": card.max_model_len,
        "aliases": card.aliases,
        "task": card.task,
        "state": card.state,
    }
