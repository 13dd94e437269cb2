"""A request on its way: who answers it, what the engine is told, what is noted, when it must wait."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, text

from .fake_engine import FakeEngine, cut
from .gateway_site import ALIAS, CHAT, EMBED, LogLines, Site, wait_until

SECOND = f"{CHAT}.2"
PATH = "/v1/chat/completions"
ASK = {"model": CHAT, "messages": [{"role": "user", "content": "hello"}]}
STREAM = {**ASK, "stream": True}


@pytest.fixture
def pair(make_site: Any) -> Site:
    """Two engines of one model."""
    site: Site = make_site(
        start=(CHAT, SECOND), replicas=2, routing={"ejection_seconds": 0.2, "stall_seconds": 0.5}
    )
    return site


def ask(site: Site, body: dict[str, Any] = ASK, **headers: str) -> httpx2.Response:
    return site.http.post(PATH, json=body, headers={**site.auth, **headers})


def metric(site: Site, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(site.http.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def records(site: Site) -> list[dict[str, Any]]:
    """What the database knows of the requests so far."""
    engine = create_engine(site.settings.gateway.database_url())
    try:
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT * FROM usage_records ORDER BY began"))
            return [dict(row._mapping) for row in rows]
    finally:
        engine.dispose()


async def die(request: web.Request, _body: bytes) -> web.StreamResponse:
    cut(request)
    raise ConnectionResetError


async def fail(_request: web.Request, _body: bytes) -> web.StreamResponse:
    error = {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}
    return web.json_response({"error": error}, status=500)


async def hang(_request: web.Request, _body: bytes) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


class Gate:
    """An engine's answer that waits until it is let go."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.open = threading.Event()

    async def __call__(self, request: web.Request, body: bytes) -> web.StreamResponse:
        await asyncio.to_thread(self.open.wait, 30)
        return await self._engine.answer_normally(request, body)


# What the engine is told.


def test_an_engine_is_told_salt_priority_and_usage(site: Site) -> None:
    _, high = site.keys.create("of a team", team="blue", priority="high")
    _, same = site.keys.create("of the same team", team="blue")
    _, other = site.keys.create("of another", team="red")
    for key in (high, same, other, site.key):
        forged = {**STREAM, "cache_salt": "forged", "priority": -99}
        assert ask(site, forged, authorization=f"Bearer {key}").status_code == 200
    seen = [json.loads(each.body) for each in site.chat.seen]
    salts = [each["cache_salt"] for each in seen]
    assert salts[0] == salts[1]
    assert len(set(salts)) == 3, "each team its own, and a key of no team is one of its own"
    assert "forged" not in salts
    assert [each["priority"] for each in seen] == [-10, 0, 0, 0]
    assert all(each["stream_options"] == {"include_usage": True} for each in seen)


def test_only_the_usage_that_was_asked_for_is_shown(site: Site) -> None:
    shown = ask(site, {**STREAM, "stream_options": {"include_usage": True}}).text
    hidden = ask(site, STREAM).text
    assert shown.count('"usage"') == 1
    assert "usage" not in hidden
    assert hidden.endswith("data: [DONE]\n\n")


# What is noted.


def test_every_request_that_reached_an_engine_has_its_record(make_site: Any) -> None:
    site = make_site()
    ask(site)
    ask(site, STREAM)
    site.http.post("/v1/embeddings", json={"model": EMBED, "input": "x"}, headers=site.auth)
    ask(site, {"model": "unknown"})
    wait_until(lambda: len(records(site)) >= 3)
    rows = records(site)
    assert [(row["model"], row["tokens_in"], row["tokens_out"]) for row in rows] == [
        (CHAT, 5, 3),
        (CHAT, 5, 3),
        (EMBED, 2, 0),
    ]
    assert {row["status"] for row in rows} == {200}
    assert not any(row["estimated"] for row in rows)
    assert all(row["duration"] >= row["first_byte"] > 0 for row in rows)
    assert metric(site, "citadel_gateway_tokens_total", model=CHAT, kind="output") == 6


def test_what_was_produced_before_a_client_hung_up_is_noted(make_site: Any) -> None:
    site = make_site()

    async def answer(request: web.Request, _body: bytes) -> web.StreamResponse:
        response = await site.chat.stream(request, [site.chat.chunk("x")] * 4, pause=0.05, end=False)
        await asyncio.sleep(60)
        return response  # type: ignore[no-any-return]

    site.chat.answer = answer
    with site.http.stream("POST", PATH, json=STREAM, headers=site.auth) as response:
        seen = b""
        for data in response.iter_bytes():
            seen += data
            if seen.count(b"\n\n") == 4:
                break
    wait_until(lambda: len(records(site)) == 1)
    row = records(site)[0]
    assert (row["status"], row["tokens_out"], bool(row["estimated"])) == (499, 4, True)
    assert row["tokens_in"] > 0


# Which engine answers.


@pytest.mark.parametrize("failure", [die, fail])
def test_a_request_whose_answer_has_not_begun_is_tried_elsewhere(pair: Site, failure: Any) -> None:
    pair.engines[CHAT].answer = failure
    answers = [ask(pair, {**ASK, "user": str(number)}) for number in range(12)]
    assert [answer.status_code for answer in answers] == [200] * 12
    assert len(pair.engines[CHAT].seen) >= 1
    assert metric(pair, "citadel_gateway_upstream_errors_total", model=CHAT) >= 1
    assert metric(pair, "citadel_gateway_requests_total", model=CHAT, status="200") == 12


def test_an_engine_that_is_gone_costs_no_request(pair: Site) -> None:
    pair.run(pair.engines[CHAT].stop())
    assert {ask(pair, {**ASK, "user": str(number)}).status_code for number in range(12)} == {200}


def test_an_engine_that_hangs_costs_no_request(pair: Site) -> None:
    pair.engines[CHAT].answer = hang
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda user: ask(pair, {**ASK, "user": str(user)}), range(16)))
    assert [answer.status_code for answer in answers] == [200] * 16
    assert pair.engines[CHAT].seen, "it was asked, and gave no answer"


def test_what_a_failed_engine_said_of_its_answer_does_not_bind_the_next(pair: Site) -> None:
    """The first begins a stream and dies before its first event; the next answers in one piece."""
    asked = 0

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked > 1:
            return web.json_response({"whole": True})
        await pair.chat.open_stream(request)
        return await die(request, body)

    for engine in pair.engines.values():
        engine.answer = answer
    answers = [ask(pair, STREAM), ask(pair)]
    assert [(each.status_code, each.json()) for each in answers] == [(200, {"whole": True})] * 2


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_is_none(site: Site, status: int) -> None:
    async def answer(_request: web.Request, _body: bytes) -> web.StreamResponse:
        return web.Response(status=status)

    site.chat.answer = answer
    refused = [ask(site), ask(site, STREAM)]
    assert [(each.status_code, each.json()["error"]["code"]) for each in refused] == [
        (400, "model_unsuited")
    ] * 2


def test_an_answer_that_has_begun_is_never_tried_again(pair: Site) -> None:
    async def break_off(request: web.Request, _body: bytes) -> web.StreamResponse:
        response = await pair.chat.stream(request, [pair.chat.chunk("x")], end=False)
        cut(request)
        return response

    for engine in pair.engines.values():
        engine.answer = break_off
    assert '"code": "engine_failed"' in ask(pair, STREAM).text
    assert sum(len(engine.seen) for engine in pair.engines.values()) == 1


def test_when_all_fail_the_client_hears_of_it_once(pair: Site) -> None:
    for name in (CHAT, SECOND):
        pair.engines[name].answer = die
    response = ask(pair)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_failed")
    # On a kept connection that breaks off, the same engine is asked once more: it may just have aged.
    assert all(1 <= len(pair.engines[name].seen) <= 2 for name in (CHAT, SECOND))


def test_a_session_stays_with_its_engine(pair: Site) -> None:
    for session in ("a", "b", "c"):
        for _ in range(3):
            ask(pair, ASK, **{"x-session-id": session})
    engines = [pair.engines[CHAT], pair.engines[SECOND]]
    assert sum(len(engine.seen) for engine in engines) == 9
    assert all(len(engine.seen) % 3 == 0 for engine in engines)


def test_a_fallback_answers_for_a_model_that_cannot(make_site: Any) -> None:
    site = make_site(start=(EMBED,), fallbacks={EMBED: [CHAT], CHAT: [EMBED]})
    # The embedding model may stand in for the chat model by its settings, and cannot by what it does.
    assert ask(site).json()["error"]["code"] == "engine_unavailable"


def test_the_accounts_name_the_model_that_answered(make_site: Any) -> None:
    """Its engine dies with the request; the one of another model stands in."""
    site = make_site(fallbacks={CHAT: [EMBED]})
    site.chat.answer = die
    body = {"model": CHAT, "prompt": "hello"}
    assert site.http.post("/v1/tokenize", json=body, headers=site.auth).status_code == 200
    wait_until(lambda: len(records(site)) == 1)
    row = records(site)[0]
    assert (row["model"], row["engine"], row["status"]) == (EMBED, EMBED, 200)


def test_a_weighted_alias_leads_to_its_models(make_site: Any) -> None:
    site = make_site(aliases=[{"name": "fast", "models": [{"model": CHAT}]}])
    answer = ask(site, {**ASK, "model": "fast"})
    assert (answer.status_code, answer.json()["model"]) == (200, CHAT)
    assert json.loads(site.chat.seen[0].body)["model"] == CHAT
    assert [model.id for model in site.openai().models.list()] == [CHAT, EMBED, "fast"]
    assert site.openai().models.retrieve("fast").max_model_len == 2048


def test_a_key_may_be_held_to_some_models(site: Site) -> None:
    _, key = site.keys.create("for embeddings", models=(EMBED,))
    held = {"authorization": f"Bearer {key}"}
    for name in (CHAT, ALIAS):
        refused = ask(site, {**ASK, "model": name}, **held)
        unknown = ask(site, {**ASK, "model": "no-such"}, **held)
        assert refused.status_code == unknown.status_code == 404
        assert refused.text.replace(name, "X") == unknown.text.replace("no-such", "X")
    assert [model["id"] for model in site.http.get("/v1/models", headers=held).json()["data"]] == [EMBED]


# Waiting.


@pytest.fixture
def narrow(make_site: Any) -> Iterator[tuple[Site, Gate]]:
    """A site whose engine takes one request at a time, and whose queue holds two."""
    admission = {"running_per_engine": 1, "queue_requests": 2, "queue_seconds": 30}
    site = make_site(admission=admission)
    gate = Gate(site.chat)
    site.chat.answer = gate
    yield site, gate
    gate.open.set()


def _waiting(site: Site) -> int:
    models = site.http.get("/ready").json()["models"]
    return next(int(model["waiting"]) for model in models if model["model"] == CHAT)


def test_what_an_engine_cannot_take_waits_and_what_the_queue_cannot_is_refused(
    narrow: tuple[Site, Gate],
) -> None:
    site, gate = narrow
    _, urgent = site.keys.create("urgent", priority="high")
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, site, {**ASK, "user": "first"})
        wait_until(lambda: len(site.chat.seen) == 1)
        waits = pool.submit(ask, site, {**ASK, "user": "waits"})
        wait_until(lambda: _waiting(site) == 1)
        goes_before = pool.submit(ask, site, {**ASK, "user": "urgent"}, authorization=f"Bearer {urgent}")
        wait_until(lambda: _waiting(site) == 2)
        refused = ask(site)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        gate.open.set()
        assert [each.result().status_code for each in (first, waits, goes_before)] == [200] * 3
    assert [json.loads(seen.body)["user"] for seen in site.chat.seen] == ["first", "urgent", "waits"]


def test_a_client_that_hangs_up_gives_its_place_in_the_queue_back(narrow: tuple[Site, Gate]) -> None:
    site, gate = narrow
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, site)
        wait_until(lambda: len(site.chat.seen) == 1)
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(site.url + PATH, json=ASK, headers=site.auth, timeout=0.3, verify=False)
        wait_until(lambda: _waiting(site) == 0)
        gate.open.set()
        assert first.result().status_code == 200
    assert len(site.chat.seen) == 1


def test_who_waits_too_long_is_told_when_to_come_again(make_site: Any) -> None:
    site = make_site(admission={"running_per_engine": 1, "queue_seconds": 0.3})
    gate = Gate(site.chat)
    site.chat.answer = gate
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, site)
        wait_until(lambda: len(site.chat.seen) == 1)
        late = ask(site)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "queue_timeout")
        assert int(late.headers["retry-after"]) >= 1
        gate.open.set()
        assert first.result().status_code == 200


# Limits.


def test_a_limit_is_told_in_headers_and_then_enforced(site: Site) -> None:
    _, key = site.keys.create("limited", requests_per_minute=2)
    answers = [ask(site, authorization=f"Bearer {key}") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert 0 < int(answers[2].headers["retry-after"]) <= 60
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert len(site.chat.seen) == 2


def test_a_place_is_free_again_when_a_client_hangs_up(site: Site) -> None:
    _, key = site.keys.create("one at a time", concurrent_requests=1)
    headers = {"authorization": f"Bearer {key}"}
    site.chat.answer = hang
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(site.url + PATH, json=ASK, headers=headers, timeout=0.3, verify=False)
    site.chat.answer = None
    wait_until(lambda: ask(site, authorization=f"Bearer {key}").status_code == 200, within=5)


# The log.


def test_the_line_says_which_engine_answered_after_how_many(pair: Site, log: LogLines) -> None:
    pair.engines[CHAT].answer = die
    for number in range(12):
        ask(pair, {**ASK, "user": str(number)})
    wait_until(lambda: sum(line["route"] == PATH for line in log.requests()) == 12)
    again = [line for line in log.requests() if line.get("attempts") == 2]
    assert again
    assert {line["engine"] for line in again} == {SECOND}
    assert {line["error"] for line in again} == {""}
    assert all(line["tokens_out"] == 3 for line in again)


# Memory.


def test_bodies_together_are_bounded(make_site: Any) -> None:
    site = make_site(body_memory_bytes=1 << 20, max_body_bytes=1 << 20)
    gate = Gate(site.chat)
    site.chat.answer = gate
    large = {**ASK, "messages": [{"role": "user", "content": "x" * 700_000}]}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, site, large)
        wait_until(lambda: len(site.chat.seen) == 1)
        refused = ask(site, large)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        gate.open.set()
        assert first.result().status_code == 200
    assert ask(site, large).status_code == 200, "what was held is free again"
    wait_until(lambda: site.server.lifespan.state["traffic"].body_bytes == 0)
