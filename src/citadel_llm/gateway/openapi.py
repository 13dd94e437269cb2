"""The OpenAPI description: FastAPI's, completed by the paths that engines answer and by the errors.

What the operations are stands in `operations.py`; here they become a document.
"""

from collections.abc import Callable, Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from citadel_llm import __version__
from citadel_llm.gateway import schemas
from citadel_llm.gateway.operations import OPERATIONS, Operation
from citadel_llm.gateway.paths import BY_PATH, Dialect, InferencePath, dialect_of

_REF = "#/components/schemas/{model}"
_MEDIA_TYPES = {"json": "application/json", "multipart": "multipart/form-data"}

_DESCRIPTION = """The OpenAI-compatible API of this site. Point any OpenAI SDK at `<this host>/v1` with a key
of Citadel's, or Anthropic's at `<this host>`; GET /v1/models says what there is. Every answer carries
`x-request-id`: quote it when reporting a problem."""

_ERRORS = {
    "400": "The request cannot be understood, or the model does not do this.",
    "401": "No API key, or not a live one.",
    "404": "There is no such model, or the key may not use it.",
    "413": "The body is too large.",
    "429": "The key asked for more than it may; `Retry-After` says when to try again.",
    "502": "The engine broke off; trying again may help.",
    "503": "The model's engines are down or all its places are taken; `Retry-After` says when to try again.",
    "504": "The engine sent nothing for too long.",
}
_LIST_ERRORS = ("401", "503")
_ITEM_ERRORS = ("401", "404", "503")

_TAGS = [
    {"name": "Inference", "description": "What the models do."},
    {"name": "Models", "description": "What there is."},
    {"name": "Health", "description": "For those who run the gateway; no key needed."},
]

_SECURITY_SCHEMES = {
    "ApiKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "ck-…",
        "description": "An API key of Citadel.",
    },
    "AnthropicKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The same key, as Anthropic's clients send it.",
    },
}
_SECURITY: dict[Dialect, list[dict[str, list[str]]]] = {
    "openai": [{"ApiKey": []}],
    "anthropic": [{"AnthropicKey": []}, {"ApiKey": []}],
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
    components.setdefault("securitySchemes", {}).update(_SECURITY_SCHEMES)
    _add_schemas(components["schemas"])
    for path, item in document["paths"].items():
        for operation in item.values():
            # FastAPI's own error for a bad parameter: here it comes as a 400.
            if operation["responses"].pop("422", None) and path.startswith("/v1/"):
                operation["responses"].setdefault("400", _error("A parameter is not valid.", "openai"))
            if path.startswith("/v1/"):
                errors = _ITEM_ERRORS if "{" in path else _LIST_ERRORS
                for code, answer in _errors(errors, "openai").items():
                    operation["responses"].setdefault(code, answer)
            _name_tags(document, operation.get("tags", []))
    document["paths"]["/metrics"]["get"]["responses"]["403"] = _error(
        "This address may not read them.", "openai"
    )
    for path, described in OPERATIONS.items():
        document["paths"][path] = {"post": _describe_operation(BY_PATH[path], described)}
    return document


def _name_tags(document: dict[str, Any], tags: Iterable[str]) -> None:
    """Give each tag that routes bring along a place on the page."""
    known = {tag["name"] for tag in document["tags"]}
    document["tags"] += [{"name": tag, "description": ""} for tag in tags if tag not in known]


def _add_schemas(known: dict[str, Any]) -> None:
    used: list[type[BaseModel]] = [schemas.Error, schemas.AnthropicError]
    for described in OPERATIONS.values():
        used += [described.request, described.answer]
    _, definitions = models_json_schema([(model, "validation") for model in used], ref_template=_REF)
    known.update(definitions["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):
        known.pop(name, None)


def _describe_operation(path: InferencePath, described: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _ref(described.answer)}}
    if path.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}, "example": described.stream_example}
    also = "".join(f" The same at `{other}`." for other in path.also)
    request: dict[str, Any] = {"schema": _ref(described.request)}
    if path.body == "json":
        request["example"] = described.example
    return {
        "tags": ["Inference"],
        "summary": described.summary,
        "description": described.description + also,
        "operationId": described.name,
        "security": _SECURITY[dialect_of(path.path)],
        "parameters": [
            {
                "name": "x-request-id",
                "in": "header",
                "required": False,
                "description": "An id of your own for this request; made up when absent.",
                "schema": {"type": "string", "maxLength": 128, "pattern": "^[A-Za-z0-9._:/@=+-]{1,128}$"},
            }
        ],
        "requestBody": {"required": True, "content": {_MEDIA_TYPES[path.body]: request}},
        "responses": {
            "200": {"description": "The engine's answer, as it came.", "content": content},
            **_errors(_ERRORS, path.dialect),
        },
    }


def _errors(codes: Iterable[str], dialect: Dialect) -> dict[str, Any]:
    return {code: _error(_ERRORS[code], dialect) for code in codes}


def _error(description: str, dialect: Dialect) -> dict[str, Any]:
    schema = _ref(schemas.AnthropicError if dialect == "anthropic" else schemas.Error)
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
