"""What clients see when something fails: an engine, the key store, the client itself."""

import asyncio
import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from aiohttp import web

from .fake_engine import cut
from .gateway_site import CHAT, EMBED, Site, wait_until

QUESTION = [{"role": "user", "content": "hello"}]
ASK = {"model": CHAT, "messages": QUESTION}
CHAT_PATH = "/v1/chat/completions"


def _error(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# Engines.


def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error(site: Site) -> None:
    async def die(request: web.Request, _body: bytes) -> web.StreamResponse:
        response = await site.chat.stream(request, [site.chat.chunk("The ")], end=False)
        cut(request)
        return response

    site.chat.answer = die
    stream = site.openai().chat.completions.create(**ASK, stream=True)
    assert next(stream).choices[0].delta.content == "The "
    with pytest.raises(openai.APIError, match="broke off") as caught:
        next(stream)
    assert caught.value.code == "engine_failed"


def test_half_an_event_is_not_taken_for_part_of_the_error(site: Site) -> None:
    async def die(request: web.Request, _body: bytes) -> web.StreamResponse:
        whole = site.chat.chunk("The ")
        response = await site.chat.stream(request, [whole, whole[:25]], pause=0.05, end=False)
        cut(request)
        return response

    site.chat.answer = die
    body = site.http.post(CHAT_PATH, json={**ASK, "stream": True}, headers=site.auth).text
    events = [json.loads(line.removeprefix("data: ")) for line in body.split("\n\n") if line]
    assert [next(iter(event)) for event in events] == ["id", "error"]


def test_an_engine_that_dies_before_it_answers_is_a_502(site: Site) -> None:
    async def die(request: web.Request, _body: bytes) -> web.StreamResponse:
        cut(request)
        raise ConnectionResetError

    site.chat.answer = die
    with pytest.raises(openai.InternalServerError) as caught:
        site.openai().chat.completions.create(**ASK)
    assert caught.value.status_code == 502
    assert caught.value.code == "engine_failed"


def test_an_answer_cut_off_is_not_taken_for_a_whole_one(site: Site) -> None:
    async def die(request: web.Request, _body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "500"})
        await response.prepare(request)
        await response.write(b'{"id": "chatcmpl-1"')
        await asyncio.sleep(0.05)
        cut(request)
        return response

    site.chat.answer = die
    with pytest.raises(openai.APIConnectionError):
        site.openai().chat.completions.create(**ASK)


def test_a_stream_that_dies_before_its_first_byte_is_a_502(site: Site) -> None:
    async def die(request: web.Request, _body: bytes) -> web.StreamResponse:
        response = await site.chat.open_stream(request)
        cut(request)
        return response

    site.chat.answer = die
    response = site.http.post(CHAT_PATH, json={**ASK, "stream": True}, headers=site.auth)
    assert (response.status_code, _error(response)["code"]) == (502, "engine_failed")


def test_an_engine_that_is_down_is_a_503_with_retry_after(make_site: Any) -> None:
    site = make_site(start=(EMBED,))
    response = site.http.post(CHAT_PATH, json=ASK, headers=site.auth)
    assert (response.status_code, _error(response)["code"]) == (503, "engine_unavailable")
    assert response.headers["retry-after"] == "2"
    assert site.openai().embeddings.create(model=EMBED, input="x").data, "the other model still answers"
    site.run(site.chat.start())
    site.wait_for_state(CHAT, "up")
    assert site.openai().chat.completions.create(**ASK).choices


def test_an_engine_that_goes_away_is_noticed_at_once(make_site: Any) -> None:
    site = make_site()
    site.run(site.chat.stop())
    response = site.http.post(CHAT_PATH, json=ASK, headers=site.auth)
    assert (response.status_code, response.headers["retry-after"]) == (503, "2")
    site.wait_for_state(CHAT, "down")


def test_an_engine_that_is_silent_too_long_is_a_504(make_site: Any) -> None:
    async def sleep(_request: web.Request, _body: bytes) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    site = make_site(upstream_timeout_seconds=0.3)
    site.chat.answer = sleep
    response = site.http.post(CHAT_PATH, json=ASK, headers=site.auth)
    assert (response.status_code, _error(response)["code"]) == (504, "engine_timeout")
    assert response.headers["x-should-retry"] == "false"
    wait_until(site.chat.disconnected.is_set)


def test_silence_in_a_stream_ends_it_with_an_error(make_site: Any) -> None:
    async def stall(request: web.Request, _body: bytes) -> web.StreamResponse:
        response: web.StreamResponse = await site.chat.stream(request, [site.chat.chunk("The ")], end=False)
        await asyncio.sleep(60)
        return response

    site = make_site(upstream_timeout_seconds=0.3)
    site.chat.answer = stall
    stream = site.openai().chat.completions.create(**ASK, stream=True)
    next(stream)
    with pytest.raises(openai.APIError) as caught:
        next(stream)
    assert caught.value.code == "engine_timeout"


def test_an_engine_that_answers_slowly_is_waited_for(site: Site) -> None:
    async def think(request: web.Request, body: bytes) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return await site.chat.answer_normally(request, body)

    site.chat.answer = think
    assert site.openai().chat.completions.create(**ASK).choices


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (500, b"Internal Server Error", 502, "engine_failed"),
        (503, b'{"detail": "x"}', 502, "engine_failed"),
        (404, b'{"detail": "Not Found"}', 400, "model_unsuited"),
        (422, b"[1, 2]", 400, "model_unsuited"),
    ],
)
def test_an_engines_error_in_another_shape_becomes_openais(
    site: Site, status: int, body: bytes, expected: int, code: str
) -> None:
    async def refuse(_request: web.Request, _body: bytes) -> web.StreamResponse:
        return web.Response(status=status, body=body, content_type="application/json")

    site.chat.answer = refuse
    response = site.http.post(CHAT_PATH, json=ASK, headers=site.auth)
    assert (response.status_code, _error(response)["code"]) == (expected, code)


def test_an_engines_error_in_openais_shape_passes_unchanged(site: Site) -> None:
    body = b'{"error":{"message":"too long","type":"BadRequestError","param":"input_tokens","code":400}}'

    async def refuse(_request: web.Request, _body: bytes) -> web.StreamResponse:
        return web.Response(status=400, body=body, content_type="application/json")

    site.chat.answer = refuse
    response = site.http.post(CHAT_PATH, json=ASK, headers=site.auth)
    assert (response.status_code, response.content) == (400, body)
    with pytest.raises(openai.BadRequestError, match="too long"):
        site.openai().chat.completions.create(**ASK)


def test_an_engine_that_talks_nonsense_is_a_502(make_site: Any) -> None:
    async def serve_nonsense(path: Path) -> asyncio.Server:
        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            writer.close()

        return await asyncio.start_unix_server(answer, path)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        await server.wait_closed()

    site = make_site(start=(EMBED,))
    server = site.run(serve_nonsense(site.chat.socket))
    site.engines[CHAT].health = 500
    response = site.http.post(CHAT_PATH, json=ASK, headers=site.auth)
    assert response.status_code in {502, 503}, "503 if its health check has failed before"
    site.run(stop(server))


# Clients.


@pytest.mark.parametrize("begun", [True, False])
def test_a_client_that_hangs_up_frees_its_engine_within_a_second(site: Site, *, begun: bool) -> None:
    async def answer_forever(request: web.Request, _body: bytes) -> web.StreamResponse:
        response = await site.chat.open_stream(request)
        if begun:
            await response.write(site.chat.chunk("x"))
        await asyncio.sleep(60)
        return response

    site.chat.answer = answer_forever
    client = httpx2.Client(base_url=site.url, timeout=10 if begun else 0.5, verify=False)
    if begun:
        with client.stream("POST", CHAT_PATH, json={**ASK, "stream": True}, headers=site.auth) as response:
            next(response.iter_bytes())
    else:
        with pytest.raises(httpx2.ReadTimeout):
            client.post(CHAT_PATH, json=ASK, headers=site.auth)
    client.close()
    hung_up = time.monotonic()
    wait_until(site.chat.disconnected.is_set, within=1)
    assert time.monotonic() - hung_up < 1


def test_a_client_that_reads_slowly_slows_its_engine_down(site: Site) -> None:
    written = 0

    async def flood(request: web.Request, _body: bytes) -> web.StreamResponse:
        nonlocal written
        response = await site.chat.open_stream(request)
        for _ in range(2000):
            await response.write(b"data: " + b"x" * 32768 + b"\n\n")
            written += 32768
        return response

    site.chat.answer = flood
    with (
        httpx2.Client(base_url=site.url, timeout=10, verify=False) as client,
        client.stream("POST", CHAT_PATH, json={**ASK, "stream": True}, headers=site.auth) as response,
    ):
        next(response.iter_bytes())
        time.sleep(0.5)
        held = written
        time.sleep(0.3)
        assert written == held, "the engine is held back"
        assert held < 20_000_000, "and what lies in between is bounded by the sockets' buffers"


def test_events_are_relayed_as_they_come(site: Site) -> None:
    async def pause(request: web.Request, _body: bytes) -> web.StreamResponse:
        return await site.chat.stream(request, [site.chat.chunk("x")] * 3, pause=0.2)

    site.chat.answer = pause
    times = [time.monotonic() for _ in site.openai().chat.completions.create(**ASK, stream=True)]
    assert times[2] - times[0] > 0.3


# Keys.


def test_a_key_works_as_soon_as_it_is_made(make_site: Any) -> None:
    site = make_site(keys_refresh_seconds=60)
    _, key = site.keys.create("new")
    assert site.openai(key).models.list().data


def test_a_revoked_key_is_refused_within_the_refresh_time(make_site: Any) -> None:
    site = make_site(keys_refresh_seconds=0.5)
    record, key = site.keys.create("old")
    assert site.openai(key).models.list().data
    site.keys.revoke(record.id)
    revoked = time.monotonic()

    def refused() -> bool:
        headers = {"authorization": f"Bearer {key}"}
        return bool(site.http.get("/v1/models", headers=headers).status_code == 401)

    wait_until(refused, within=2)
    assert time.monotonic() - revoked < 1.5
    assert site.openai().models.list().data, "the other key still works"


def test_guessing_keys_does_not_flood_the_database(make_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(keys_refresh_seconds=60)
    reads = 0
    real = type(site.keys).list

    def counted(store: Any, **kwargs: Any) -> Any:
        nonlocal reads
        reads += store._url == site.keys._url
        return real(store, **kwargs)

    monkeypatch.setattr(type(site.keys), "list", counted)
    began = time.monotonic()

    def guess(number: int) -> object:
        headers = {"authorization": f"Bearer ck-{number:043d}"}
        return site.http.get("/v1/models", headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(guess, range(40))) == {401}
    assert reads <= 2 + (time.monotonic() - began) / 0.25


def test_without_its_database_the_gateway_says_so_and_recovers(make_site: Any) -> None:
    site = make_site()
    database = Path(site.settings.gateway.database.removeprefix("sqlite:///"))
    assert site.openai().models.list().data
    site.keys.close()
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE api_keys RENAME TO hidden")
    connection.close()
    wait_until(lambda: "citadel_gateway_key_read_errors_total 0.0" not in site.http.get("/metrics").text)
    assert site.openai().models.list().data, "the keys that are known stay in use"
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE hidden RENAME TO api_keys")
    connection.close()
    _, key = site.keys.create("after")
    assert site.openai(key).models.list().data


def test_keys_that_could_never_be_read_are_a_503(make_site: Any, tmp_path: Path) -> None:
    site = make_site()
    lost = make_site(start=(), database=f"sqlite:///{tmp_path}/missing/citadel.db", make_key=False)
    response = lost.http.get("/v1/models", headers=site.auth)
    assert (response.status_code, _error(response)["code"]) == (503, "keys_unavailable")
    assert response.headers["retry-after"] == "2"
    (tmp_path / "missing").mkdir()
    _, key = lost.keys.create("late")
    assert lost.openai(key).models.list().data
