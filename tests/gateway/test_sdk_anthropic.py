"""The official Anthropic client against the gateway: /v1/messages, its errors in Anthropic's words."""

import asyncio
import json
from typing import Any

import anthropic
import pytest
from aiohttp import web

from .fake_engine import cut
from .gateway_site import ALIAS, CHAT, EMBED, Site

QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
ASK: Any = {"model": CHAT, "max_tokens": 16, "messages": QUESTION}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}]


@pytest.fixture
def client(site: Site) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=site.url, api_key=site.key, max_retries=0)


def test_a_message_whole_and_as_a_stream(client: anthropic.Anthropic, site: Site) -> None:
    answer = client.messages.create(**{**ASK, "model": ALIAS})
    assert answer.content[0].text == "The end."
    assert answer.usage.output_tokens == 3
    assert json.loads(site.chat.seen[0].body)["model"] == CHAT
    assert site.key not in str(site.chat.seen[0].headers)
    with client.messages.stream(**ASK) as stream:
        assert list(stream.text_stream) == ["The ", "end", "."]
        assert stream.get_final_message().stop_reason == "end_turn"


def test_a_bearer_does_as_well(site: Site) -> None:
    client = anthropic.Anthropic(base_url=site.url, auth_token=site.key, api_key=None, max_retries=0)
    assert client.messages.count_tokens(model=CHAT, messages=QUESTION).input_tokens == 5


def test_a_tool_is_called_and_its_result_goes_back(client: anthropic.Anthropic) -> None:
    asked = client.messages.create(**ASK, tools=TOOLS)
    [call] = asked.content
    assert (call.type, call.name, call.input) == ("tool_use", "weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    turn = [*QUESTION, {"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(**{**ASK, "messages": turn}, tools=TOOLS)
    assert answer.content[0].text == "The end."


def test_the_models_in_its_words(client: anthropic.Anthropic) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {CHAT, EMBED}
    assert client.models.retrieve(ALIAS).display_name == CHAT
    assert models[CHAT].created_at.tzinfo is not None


async def test_the_async_client_too(site: Site) -> None:
    async with anthropic.AsyncAnthropic(base_url=site.url, api_key=site.key, max_retries=0) as client:
        answer = await client.messages.create(**ASK)
        assert answer.content[0].text == "The end."
        async with client.messages.stream(**ASK) as stream:
            assert [text async for text in stream.text_stream] == ["The ", "end", "."]


def test_errors_are_in_its_words(client: anthropic.Anthropic, site: Site) -> None:
    expected: list[tuple[type[anthropic.APIStatusError], Any, str]] = [
        (anthropic.NotFoundError, {"model": "no-such-model"}, "not_found_error"),
        (anthropic.BadRequestError, {"model": EMBED}, "invalid_request_error"),
        (anthropic.RequestTooLargeError, {"system": "x" * (2 << 20)}, "request_too_large"),
    ]
    with pytest.raises(anthropic.AuthenticationError) as unknown:
        client.with_options(api_key="ck-wrong").messages.create(**ASK)
    assert unknown.value.type == "authentication_error"
    for kind, wrong, name in expected:
        with pytest.raises(kind) as refused:
            client.messages.create(**{**ASK, **wrong})
        body: Any = refused.value.body
        assert (body["type"], body["error"]["type"]) == ("error", name)
        assert body["request_id"] == refused.value.response.headers["x-request-id"]
    for path, status in (("/v1/messages/batches", 404), ("/v1/messages", 405)):
        answer = site.http.get(path, headers=site.auth)
        assert (answer.status_code, answer.json()["type"]) == (status, "error")


def test_an_engines_own_refusal_comes_in_its_words(client: anthropic.Anthropic, site: Site) -> None:
    async def answer(_request: web.Request, _body: bytes) -> web.StreamResponse:
        # vLLM 0.32 answers in OpenAI's shape when the body does not fit.
        return web.json_response(
            {"error": {"message": "max_tokens: field required", "code": 400}}, status=400
        )

    site.chat.answer = answer
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**ASK)
    body: Any = refused.value.body
    assert body["error"] == {"type": "invalid_request_error", "message": "max_tokens: field required"}


def test_an_engine_that_breaks_off_in_a_stream_is_an_error(client: anthropic.Anthropic, site: Site) -> None:
    async def answer(request: web.Request, _body: bytes) -> web.StreamResponse:
        response = await site.chat.open_stream(request)
        await response.write(b'event: ping\ndata: {"type": "ping"}\n\n')
        await asyncio.sleep(0.05)
        cut(request)
        return response

    site.chat.answer = answer
    with pytest.raises(anthropic.APIStatusError) as broken, client.messages.stream(**ASK) as stream:
        list(stream.text_stream)
    body: Any = broken.value.body
    assert body["error"]["type"] == "api_error"


def test_its_timeout_and_its_retries(client: anthropic.Anthropic, site: Site) -> None:
    slow = True

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        nonlocal slow
        if slow:
            slow = False
            await asyncio.sleep(60)
        return await site.chat.answer_normally(request, body)

    site.chat.answer = answer
    with pytest.raises(anthropic.APITimeoutError):
        client.with_options(timeout=0.2).messages.create(**ASK)
    slow = True
    again = client.with_options(timeout=0.5, max_retries=2).messages.create(**ASK)
    assert again.usage.output_tokens == 3
