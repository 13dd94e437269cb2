"""The description of the API, and the page that shows it."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from starlette.routing import Route

from citadel_llm.gateway.app import create_app
from citadel_llm.gateway.docs import _HEADERS
from citadel_llm.gateway.paths import INFERENCE_PATHS, dialect_of

from .gateway_site import CHAT, EMBED, Site


@pytest.fixture
def api(site: Site) -> dict[str, Any]:
    document: dict[str, Any] = site.http.get("/openapi.json").json()
    return document


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _operations(api: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in api["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_every_route_is_described(site: Site, api: dict[str, Any]) -> None:
    described = {(path, method.upper()) for path, method, _ in _operations(api)}
    assert described >= {
        ("/health", "GET"),
        ("/metrics", "GET"),
        ("/ready", "GET"),
        ("/v1/models", "GET"),
        ("/v1/models/{model}", "GET"),
        *((inference.path, "POST") for inference in INFERENCE_PATHS),
    }
    also = {name for inference in INFERENCE_PATHS for name in inference.also}
    bare = {route.path for route in create_app(site.settings).routes if type(route) is Route}
    assert bare - {"/openapi.json"} <= {path for path, _ in described} | also
    for inference in INFERENCE_PATHS:
        description = api["paths"][inference.path]["post"]["description"]
        assert all(f"`{name}`" in description for name in inference.also)


def test_the_description_is_sound(api: dict[str, Any]) -> None:
    assert api["openapi"].startswith("3.1")
    names = set()
    for path, method, operation in _operations(api):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["operationId"] not in names, where
        names.add(operation["operationId"])
        assert {tag["name"] for tag in api["tags"]} >= set(operation["tags"]), where
        assert "422" not in operation["responses"], where
        secured = path.startswith("/v1/")
        expected = {"AnthropicKey", "ApiKey"} if dialect_of(path) == "anthropic" else {"ApiKey"}
        asked = {name for each in operation.get("security", []) for name in each}
        if path.startswith("/v1/admin/"):
            expected = {"AdminKey"}
        assert asked == (expected if secured else set()), where
        for response in operation["responses"].values():
            shape = str(response.get("content", {}).get("application/json", {}).get("schema", ""))
            assert ("AnthropicError" in shape) <= (dialect_of(path) == "anthropic"), where
        assert ("401" in operation["responses"]) == secured, where
        declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path)), where
    schemas = api["components"]["schemas"]
    for reference in _references(api):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert api["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"


def test_the_examples_fit_their_schemas(api: dict[str, Any]) -> None:
    for inference in INFERENCE_PATHS:
        content = api["paths"][inference.path]["post"]["requestBody"]["content"]
        if inference.body == "json":
            content = content["application/json"]
            assert content["example"]["model"], inference.path
            jsonschema.validate(content["example"], {**content["schema"], "components": api["components"]})


def test_the_examples_work(site: Site, api: dict[str, Any]) -> None:
    """Each of them, with a model of this site, whole and as a stream; its answer fits what is described."""
    for inference in INFERENCE_PATHS:
        if inference.body != "json":
            continue
        operation = api["paths"][inference.path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        model = CHAT if "generate" in inference.tasks else EMBED
        answer = site.http.post(inference.path, json={**example, "model": model}, headers=site.auth)
        assert answer.status_code == 200, inference.path
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), {**schema, "components": api["components"]})
        if inference.streams:
            asked = {**example, "model": model, "stream": True}
            stream = site.http.post(inference.path, json=asked, headers=site.auth)
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert "text/event-stream" in operation["responses"]["200"]["content"]


def test_real_answers_fit_their_schemas(site: Site, api: dict[str, Any]) -> None:
    def check(name: str, content: object) -> None:
        schema = api["components"]["schemas"][name]
        jsonschema.validate(content, {**schema, "components": api["components"]})

    check("ModelList", site.http.get("/v1/models", headers=site.auth).json())
    check("Readiness", site.http.get("/ready").json())
    check("Error", site.http.get("/v1/models").json())
    check("AnthropicError", site.http.post("/v1/messages").json())


def test_the_page_needs_nothing_but_this_server(site: Site) -> None:
    page = site.http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == _HEADERS["content-security-policy"]
    needed = re.findall(r'(?:src|href)="(/[^"]*)"', page.text)
    assert set(needed) == {"/docs/docs.css", "/docs/docs.js", "/openapi.json"}
    for path in needed:
        assert site.http.get(path).status_code == 200
    assert site.http.get("/docs/docs.js").headers["content-type"] == "text/javascript; charset=utf-8"
    for path in ("/docs", "/docs/docs.js", "/docs/docs.css"):
        text = site.http.get(path).text
        assert "://" not in text.replace("${", ""), "nothing from another server"


def test_the_page_can_be_left_out(make_site: Any) -> None:
    site = make_site(docs=False)
    for path in ("/docs", "/docs/docs.js", "/openapi.json"):
        assert site.http.get(path).json()["error"]["code"] == "unknown_url"
    assert site.openai().models.list().data
