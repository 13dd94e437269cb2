"""What colleagues do: the official OpenAI client against the gateway.

The engines are fakes on real unix sockets (fake_engine.py says what that leaves unproven); all else is real.
"""

import json
from typing import Any

import openai
import pytest

from .gateway_site import ALIAS, CHAT, EMBED, Site

QUESTION = [{"role": "user", "content": "What is the opposite of hot?"}]


def test_lists_the_models(site: Site) -> None:
    models = {model.id: model for model in site.openai().models.list()}
    assert set(models) == {CHAT, EMBED}
    assert models[CHAT].owned_by == "citadel"
    assert models[CHAT].model_extra == {
        "aliases": [ALIAS, "org/chat"],
        "task": "generate",
        "max_model_len": 2048,
        "state": "up",
    }


@pytest.mark.parametrize("name", [CHAT, ALIAS, "org/chat"])
def test_describes_a_model_by_any_of_its_names(site: Site, name: str) -> None:
    assert site.openai().models.retrieve(name).id == CHAT


def test_chat(site: Site) -> None:
    answer = site.openai().chat.completions.create(model=CHAT, messages=QUESTION)
    assert answer.choices[0].message.content == "The end."
    assert answer.usage.total_tokens == 8


def test_completion(site: Site) -> None:
    answer = site.openai().completions.create(model=CHAT, prompt="The capital of France is")
    assert answer.choices[0].text == "The end."


def test_stream(site: Site) -> None:
    stream = site.openai().chat.completions.create(model=CHAT, messages=QUESTION, stream=True)
    assert "".join(chunk.choices[0].delta.content for chunk in stream) == "The end."


def test_completion_stream(site: Site) -> None:
    stream = site.openai().completions.create(model=CHAT, prompt="x", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "The end."


def test_embeddings(site: Site) -> None:
    answer = site.openai().embeddings.create(model=EMBED, input=["hot", "cold"], encoding_format="float")
    assert [item.embedding for item in answer.data] == [[0.5, -0.25, 0.0], [0.5, -0.25, 1.0]]


async def test_async_chat_and_stream(site: Site) -> None:
    client: Any
    async with openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key=site.key, max_retries=0) as client:
        answer = await client.chat.completions.create(model=CHAT, messages=QUESTION)
        assert answer.choices[0].message.content == "The end."
        stream = await client.chat.completions.create(model=CHAT, messages=QUESTION, stream=True)
        assert "".join([chunk.choices[0].delta.content async for chunk in stream]) == "The end."


def test_wrong_key(site: Site) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        site.openai("ck-" + "A" * 43).models.list()
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        site.openai("not a key").chat.completions.create(model=CHAT, messages=QUESTION)
    assert site.chat.seen == []


def test_unknown_model(site: Site) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        site.openai().chat.completions.create(model="no-such-model", messages=QUESTION)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "no-such-model" in caught.value.message
    with pytest.raises(openai.NotFoundError) as caught:
        site.openai().models.retrieve("no/such/model")
    assert caught.value.code == "model_not_found"


def test_a_model_is_not_asked_for_what_it_does_not_do(site: Site) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        site.openai().embeddings.create(model=CHAT, input="hot")
    assert caught.value.code == "model_unsuited"
    with pytest.raises(openai.BadRequestError):
        site.openai().chat.completions.create(model=EMBED, messages=QUESTION)


def test_an_alias_becomes_the_real_name(site: Site) -> None:
    site.openai().chat.completions.create(model=ALIAS, messages=QUESTION, temperature=0.25)
    seen = json.loads(site.chat.seen[0].body)
    assert {name: seen[name] for name in ("messages", "model", "temperature")} == {
        "messages": QUESTION,
        "model": CHAT,
        "temperature": 0.25,
    }


def test_the_client_reads_the_request_id(site: Site) -> None:
    answer = site.openai().chat.completions.create(
        model=CHAT, messages=QUESTION, extra_headers={"x-request-id": "mine-1"}
    )
    assert answer._request_id == "mine-1"
    assert site.chat.seen[0].headers["x-request-id"] == "mine-1"
