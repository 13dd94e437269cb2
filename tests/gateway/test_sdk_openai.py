"""The official OpenAI client on what test_openai_client.py leaves out: the newer paths, tools, and failures.

The engines are fakes whose answers have vLLM's form (vllm_answers.py); all else is real.
"""

import asyncio
import io
import json
from typing import Any

import httpx2
import openai
import pydantic
import pytest
from aiohttp import web

from .fake_engine import cut
from .gateway_site import ALIAS, CHAT, EMBED, Site

QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]


class Reading(pydantic.BaseModel):
    """What a structured answer is read into."""

    word: str
    number: int


def test_a_tool_is_called_and_its_result_goes_back(site: Site) -> None:
    client = site.openai()
    asked = client.chat.completions.create(model=CHAT, messages=QUESTION, tools=TOOLS)
    [call] = asked.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    turn = [*QUESTION, asked.choices[0].message.to_dict(), result]
    answer = client.chat.completions.create(model=CHAT, messages=turn, tools=TOOLS)
    assert answer.choices[0].message.content == "The end."


def test_a_structured_answer_is_read(site: Site) -> None:
    answer = site.openai().chat.completions.parse(model=CHAT, messages=QUESTION, response_format=Reading)
    assert answer.choices[0].message.parsed == Reading(word="hot", number=7)


def test_responses_whole_and_as_a_stream(site: Site) -> None:
    client = site.openai()
    answer = client.responses.create(model=ALIAS, input="Hello")
    assert (answer.output_text, answer.usage.total_tokens) == ("The end.", 8)
    assert (site.chat.seen[0].path, json.loads(site.chat.seen[0].body)["model"]) == ("/v1/responses", CHAT)
    pieces = [
        event.delta
        for event in client.responses.create(model=CHAT, input="Hello", stream=True)
        if event.type == "response.output_text.delta"
    ]
    assert pieces == ["The ", "end", "."]


@pytest.mark.parametrize("asked_for", [True, False])
def test_the_usage_of_a_stream_is_for_who_asked(site: Site, *, asked_for: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asked_for else {}
    chunks = list(
        site.openai().chat.completions.create(model=CHAT, messages=QUESTION, stream=True, **options)
    )
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == ([8] if asked_for else [])
    assert all(chunk.choices for chunk in chunks) is not asked_for
    assert json.loads(site.chat.seen[0].body)["stream_options"] == {"include_usage": True}


async def test_the_async_client_too(site: Site) -> None:
    client: Any
    async with openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key=site.key, max_retries=0) as client:
        answer = await client.responses.create(model=CHAT, input="Hello")
        assert answer.output_text == "The end."
        many = [client.chat.completions.create(model=CHAT, messages=QUESTION) for _ in range(8)]
        assert {a.choices[0].message.content for a in await asyncio.gather(*many)} == {"The end."}


def test_texts_are_ranked_scored_and_cut(site: Site) -> None:
    http, auth = site.http, site.auth
    asked = {"model": EMBED, "query": "hot", "documents": ["warm", "cold"], "top_n": 1}
    for path in ("/v1/rerank", "/rerank", "/v2/rerank"):
        assert len(http.post(path, json=asked, headers=auth).json()["results"]) == 1
    asked = {"model": EMBED, "queries": "hot", "documents": ["warm", "cold"]}
    assert len(http.post("/v1/score", json=asked, headers=auth).json()["data"]) == 2
    tokens = http.post("/v1/tokenize", json={"model": CHAT, "prompt": "hot"}, headers=auth).json()["tokens"]
    text = http.post("/v1/detokenize", json={"model": CHAT, "tokens": tokens}, headers=auth).json()["prompt"]
    assert text == "The end."
    assert {seen.path for seen in site.engines[EMBED].seen} == {"/rerank", "/score"}
    # The client that has a base URL with /v1 reaches them in the same way.
    assert site.openai().post("/tokenize", body={"model": CHAT, "prompt": "x"}, cast_to=object)["count"] == 2


def test_what_a_tokenizer_does_not_know_is_not_sent_to_it(site: Site) -> None:
    site.http.post(
        "/v1/tokenize", json={"model": CHAT, "prompt": "hot"}, headers=site.auth
    ).raise_for_status()
    assert json.loads(site.chat.seen[0].body) == {"model": CHAT, "prompt": "hot"}


def test_speech_is_written_down(make_site: Any) -> None:
    site = make_site(task="transcribe")
    client, sound = site.openai(), ("hello.wav", io.BytesIO(b"RIFF\r\n--" + bytes(range(256)) * 64))
    answer = client.audio.transcriptions.create(model=CHAT, file=sound)
    assert answer.text == "The end of hello.wav."
    sound[1].seek(0)
    stream = client.audio.transcriptions.create(model=CHAT, file=sound, stream=True)
    assert len(list(stream)) == 3
    sound[1].seek(0)
    with pytest.raises(openai.NotFoundError):
        client.audio.transcriptions.create(model="no-such-model", file=sound)
    for content in (b"", b"not a form", b"--x\r\n"):
        headers = {**site.auth, "content-type": "multipart/form-data; boundary=x"}
        refused = site.http.post("/v1/audio/transcriptions", content=content, headers=headers)
        assert refused.status_code == 400


# What goes wrong.


@pytest.mark.parametrize("path", ["chat", "responses"])
def test_an_engine_that_breaks_off_in_a_stream_is_an_error_to_the_client(site: Site, path: str) -> None:
    async def answer(request: web.Request, _body: bytes) -> web.StreamResponse:
        response = await site.chat.open_stream(request)
        await response.write(site.chat.chunk("The "))
        await asyncio.sleep(0.05)
        cut(request)
        return response

    site.chat.answer = answer
    client = site.openai()
    if path == "chat":
        stream = client.chat.completions.create(model=CHAT, messages=QUESTION, stream=True)
    else:
        stream = client.responses.create(model=CHAT, input="Hello", stream=True)
    with pytest.raises(openai.APIError) as broken:
        list(stream)
    assert broken.value.code == "engine_failed"


def test_an_engines_own_refusal_reaches_the_client_in_its_words(site: Site) -> None:
    async def answer(_request: web.Request, _body: bytes) -> web.StreamResponse:
        refusal = {
            "message": "max_tokens=99999 cannot be …",
            "type": "BadRequestError",
            "param": "max_tokens",
        }
        return web.json_response({"error": {**refusal, "code": 400}}, status=400)

    site.chat.answer = answer
    with pytest.raises(openai.BadRequestError, match="max_tokens=99999") as refused:
        site.openai().chat.completions.create(model=CHAT, messages=QUESTION, max_tokens=99999)
    assert refused.value.param == "max_tokens"


def test_the_clients_own_timeout_is_its_own(site: Site) -> None:
    async def answer(_request: web.Request, _body: bytes) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    site.chat.answer = answer
    with pytest.raises(openai.APITimeoutError):
        site.openai().with_options(timeout=0.2).chat.completions.create(model=CHAT, messages=QUESTION)

    async def noticed() -> None:
        await asyncio.wait_for(site.chat.disconnected.wait(), 5)

    site.run(noticed())


def test_the_clients_own_retry_succeeds(site: Site) -> None:
    """What the gateway itself cannot mend, the client tries again: here an engine that answers 500 once."""
    failures = 1

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            return web.json_response(
                {"error": {"message": "not yet", "type": "InternalServerError"}}, status=500
            )
        return await site.chat.answer_normally(request, body)

    site.chat.answer = answer
    client: Any = openai.OpenAI(
        base_url=f"{site.url}/v1", api_key=site.key, max_retries=2, http_client=httpx2.Client(verify=False)
    )
    with client:
        answered = client.chat.completions.create(model=CHAT, messages=QUESTION)
    assert answered.choices[0].message.content == "The end."
