"""What a colleague with the OpenAI SDK sees, of a real model, after the host was restarted.

The prompts are those on whose answers even so small a model is sure: its first token leads the second by
a wide margin in every precision, so that rounding cannot flip it.
"""

import httpx2 as httpx
import openai
import pytest
from deployed import EMBEDDING_MODEL, MODEL, Site
from openai import OpenAI


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
    for path in ("/tokenize", "/v1/load_lora_adapter", "/collective_rpc", "/pooling", "/metrics/engine"):
        answer = httpx.post(
            f"{site.base_url}{path}", headers={"Authorization": f"Bearer {site.key}"}, json={"model": MODEL}
        )
        assert answer.status_code == 404, path
        assert "error" in answer.json(), path
