"""What a colleague with the OpenAI SDK sees, of a real model, after the host was restarted.

The prompts are those on whose answers even so small a model is sure: its first token leads the second by
a wide margin in every precision, so that rounding cannot flip it.
"""

import json
from typing import Any

import anthropic
import httpx2 as httpx
import openai
import pytest
from deployed import EMBEDDING_MODEL, MODEL, Site
from langchain_openai import ChatOpenAI
from openai import OpenAI

QUESTION = "What is the opposite of hot?"
# Anthropic's SDK has no such parameter any more.
SURE = {"temperature": 0}


def test_lists_the_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, EMBEDDING_MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_answers_a_question(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the opposite of hot?"}],
        temperature=0,
        max_tokens=16,
    )
    assert answer.choices[0].message.content is not None
    assert answer.choices[0].message.content.startswith("The opposite of hot is cold")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_completes_a_sentence(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=4
    )
    assert answer.choices[0].text.startswith(" Paris")


def test_streams_an_answer_piece_by_piece(client: OpenAI) -> None:
    with client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the opposite of hot?"}],
        temperature=0,
        max_tokens=16,
        stream=True,
    ) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces).startswith("The opposite of hot is cold")


def test_refuses_a_wrong_key(site: Site) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        site.client(key="ck-wrong").models.list()
    assert refused.value.code == "invalid_api_key"


def test_names_the_unknown_model_in_openais_shape(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "Hello"}])
    assert unknown.value.code == "model_not_found"
    assert "no-such-model" in unknown.value.message


def test_passes_the_request_id_through(site: Site) -> None:
    answer = httpx.get(
        f"{site.base_url}/v1/models",
        headers={"Authorization": f"Bearer {site.key}", "X-Request-Id": "a-request-of-mine"},
    )
    assert answer.headers["x-request-id"] == "a-request-of-mine"


def test_reaches_nothing_else_of_an_engine(site: Site) -> None:
    for path in ("/v1/load_lora_adapter", "/collective_rpc", "/pooling", "/invocations", "/metrics/engine"):
        answer = httpx.post(
            f"{site.base_url}{path}", headers={"Authorization": f"Bearer {site.key}"}, json={"model": MODEL}
        )
        assert answer.status_code == 404, path
        assert "error" in answer.json(), path


def test_answers_in_openais_newer_form(client: OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input=QUESTION, temperature=0, max_output_tokens=16)
    assert answer.output_text.startswith("The opposite of hot is cold")
    stream = client.responses.create(
        model=MODEL, input=QUESTION, temperature=0, max_output_tokens=16, stream=True
    )
    pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(pieces).startswith("The opposite of hot is cold")


def test_answers_in_anthropics_form(site: Site) -> None:
    with anthropic.Anthropic(base_url=site.base_url, api_key=site.key, max_retries=0, timeout=120) as client:
        asked: Any = {"role": "user", "content": QUESTION}
        answer = client.messages.create(model=MODEL, messages=[asked], max_tokens=16, extra_body=SURE)
        assert answer.content[0].type == "text"
        assert answer.content[0].text.startswith("The opposite of hot is cold")
        assert answer.usage.output_tokens > 0
        with client.messages.stream(model=MODEL, messages=[asked], max_tokens=16, extra_body=SURE) as stream:
            assert "".join(stream.text_stream).startswith("The opposite of hot is cold")
        assert client.messages.count_tokens(model=MODEL, messages=[asked]).input_tokens > 5
        assert MODEL in {model.id for model in client.models.list()}
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(model="no-such-model", messages=[asked], max_tokens=16)


def test_keeps_to_a_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"word": {"type": "string", "enum": ["cold", "warm"]}},
        "required": ["word"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=32,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    )
    assert json.loads(answer.choices[0].message.content or "")["word"] in {"cold", "warm"}


@pytest.mark.parametrize("asked_for", [True, False])
def test_tells_the_usage_of_a_stream_to_who_asked(client: OpenAI, *, asked_for: bool) -> None:
    with client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": asked_for},
    ) as stream:
        told = [chunk.usage.completion_tokens for chunk in stream if chunk.usage]
    assert told == ([4] if asked_for else [])


def test_langchain_streams(site: Site) -> None:
    chat = ChatOpenAI(
        base_url=f"{site.base_url}/v1", api_key=lambda: site.key, model=MODEL, temperature=0, max_retries=0
    )
    assert "".join(str(chunk.content) for chunk in chat.stream(QUESTION)).startswith(
        "The opposite of hot is cold"
    )


def test_the_fields_of_the_gateway_win(site: Site) -> None:
    """Of a name given twice vLLM takes the last: a salt that it would refuse is not the one that counts."""
    headers = {"Authorization": f"Bearer {site.key}"}
    for path, body in (
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 1, "priority": -5, "cache_salt": "a/b"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 1, "cache_salt": "@"}),
        ("/v1/tokenize", {"prompt": "Hello"}),
    ):
        answer = httpx.post(
            f"{site.base_url}{path}", headers=headers, json={"model": MODEL, **body}, timeout=120
        )
        assert answer.status_code == 200, f"{path}: {answer.text}"


def test_cuts_texts_into_tokens_and_back(site: Site) -> None:
    headers = {"Authorization": f"Bearer {site.key}"}
    cut = httpx.post(
        f"{site.base_url}/v1/tokenize", headers=headers, json={"model": MODEL, "prompt": QUESTION}
    ).json()
    joined = httpx.post(
        f"{site.base_url}/v1/detokenize", headers=headers, json={"model": MODEL, "tokens": cut["tokens"]}
    ).json()
    assert joined["prompt"] == QUESTION
