"""The OpenAPI description: FastAPI's, completed by the paths that are bare ASGI and by the errors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from citadel_llm import __version__
from citadel_llm.gateway import schemas

_REF = "#/components/schemas/{model}"

_DESCRIPTION = """The OpenAI-compatible API of this site. Point any OpenAI SDK at `<this host>/v1` with a key
of Citadel's; GET /v1/models says what there is. Every answer carries `x-request-id`: quote it when reporting
a problem."""

_ERRORS = {
    "400": "The request cannot be understood, or the model does not do this.",
    "401": "No API key, or not a live one.",
    "404": "There is no such model.",
    "413": "The body is too large.",
    "502": "The engine broke off; trying again may help.",
    "503": "The model's engine is down; `Retry-After` says when to try again.",
    "504": "The engine sent nothing for too long.",
}
_LIST_ERRORS = ("401", "503")
_ITEM_ERRORS = ("401", "404", "503")


@dataclass(frozen=True)
class _Operation:
    name: str
    summary: str
    description: str
    request: type[BaseModel]
    answer: type[BaseModel]
    example: dict[str, Any]
    streams: bool


_OPERATIONS = {
    "/v1/chat/completions": _Operation(
        "createChatCompletion",
        "Continue a conversation",
        "The model's answer to the messages, whole or as a stream of events.",
        schemas.ChatCompletionRequest,
        schemas.ChatCompletion,
        {
            "model": "smollm2-135m-instruct",
            "messages": [{"role": "user", "content": "What is the opposite of hot?"}],
            "max_tokens": 32,
            "temperature": 0,
        },
        streams=True,
    ),
    "/v1/completions": _Operation(
        "createCompletion",
        "Continue a text",
        "The text that follows the prompt, whole or as a stream of events.",
        schemas.CompletionRequest,
        schemas.Completion,
        {
            "model": "smollm2-135m-instruct",
            "prompt": "The capital of France is",
            "max_tokens": 8,
            "temperature": 0,
        },
        streams=True,
    ),
    "/v1/embeddings": _Operation(
        "createEmbedding",
        "Turn texts into vectors",
        "One vector for each text, for search and comparison.",
        schemas.EmbeddingRequest,
        schemas.EmbeddingList,
        {"model": "all-minilm-l6-v2", "input": ["hot", "cold"]},
        streams=False,
    ),
}


def describe(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What to put in place of `app.openapi`: makes the description once and keeps it."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    return openapi


def _describe(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="Citadel", version=__version__, description=_DESCRIPTION, routes=app.routes, tags=_TAGS
    )
    components: dict[str, Any] = document["components"]
    used: list[type[BaseModel]] = [schemas.Error]
    for described in _OPERATIONS.values():
        used += [described.request, described.answer]
    _, definitions = models_json_schema([(model, "validation") for model in used], ref_template=_REF)
    components["schemas"].update(definitions["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for path, item in document["paths"].items():
        for operation in item.values():
            # FastAPI's own error for a bad parameter: here it comes as a 400.
            operation["responses"].pop("422", None)
            if path.startswith("/v1/"):
                operation["responses"].update(_errors(_ITEM_ERRORS if "{" in path else _LIST_ERRORS))
    document["paths"]["/metrics"]["get"]["responses"]["403"] = _error("This address may not read them.")
    for path, operation in _OPERATIONS.items():
        document["paths"][path] = {"post": _describe_operation(operation)}
    return document


_TAGS = [
    {"name": "Inference", "description": "What the models do."},
    {"name": "Models", "description": "What there is."},
    {"name": "Health", "description": "For those who run the gateway; no key needed."},
]


def _describe_operation(operation: _Operation) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(operation.answer)}}
    if operation.streams:
        content["text/event-stream"] = {
            "schema": {"type": "string"},
            "example": 'data: {"choices": [{"delta": {"content": "The"}}]}\n\ndata: [DONE]\n\n',
        }
    return {
        "tags": ["Inference"],
        "summary": operation.summary,
        "description": operation.description,
        "operationId": operation.name,
        "security": [{"ApiKey": []}],
        "parameters": [
            {
                "name": "x-request-id",
                "in": "header",
                "required": False,
                "description": "An id of your own for this request; made up when absent.",
                "schema": {"type": "string", "maxLength": 128, "pattern": "^[A-Za-z0-9._:/@=+-]{1,128}$"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref(operation.request), "example": operation.example}
            },
        },
        "responses": {
            "200": {"description": "The engine's answer, as it came.", "content": content},
            **_errors(tuple(_ERRORS)),
        },
    }


def _errors(codes: tuple[str, ...]) -> dict[str, Any]:
    return {code: _error(_ERRORS[code]) for code in codes}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(schemas.Error)}}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
