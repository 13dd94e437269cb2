"""The access log: a line for each request with what matters, and never a key or what was said."""

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from aiohttp import web

from .fake_engine import cut
from .gateway_site import CHAT, EMBED, LogLines, Site, wait_until

PATH = "/v1/chat/completions"
SAID = "marked-said-4711"
TOLD = "marked-told-4712"
KEY = "ck-MARKEDKEY" + "x" * 34


def test_a_request_leaves_one_line(site: Site, log: LogLines) -> None:
    headers = {**site.auth, "x-request-id": "mine"}
    ask = {"model": CHAT, "messages": [], "stream": True}
    answer = site.http.post(PATH, json=ask, headers=headers)
    wait_until(lambda: len(log.requests()) == 1)
    line = log.requests()[0]
    assert line.pop("duration_ms") >= line.pop("first_byte_ms") > 0
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": "mine",
        "key_id": site.key_id,
        "method": "POST",
        "route": PATH,
        "model": CHAT,
        "engine": CHAT,
        "stream": True,
        "status": 200,
        "error": "",
        "bytes": len(answer.content),
        "attempts": 1,
        "queue_ms": 0.0,
        "client": "127.0.0.1",
        # The fake tells no usage in this stream: both are estimates.
        "tokens_in": line["tokens_in"],
        "tokens_out": line["tokens_out"],
    }


def test_the_line_of_a_refusal_says_why(site: Site, log: LogLines) -> None:
    site.http.get("/v1/models/unknown", headers=site.auth)
    site.http.get("/no/such/path")
    wait_until(lambda: len(log.requests()) == 2)
    known, unknown = log.requests()
    assert (known["route"], known["status"], known["error"]) == ("/v1/models/{model}", 404, "model_not_found")
    assert (unknown["route"], unknown["status"], unknown["error"]) == ("", 404, "unknown_url")


def test_probes_that_find_all_well_leave_none(site: Site, log: LogLines) -> None:
    """They come every few seconds, for ever: of those only what is wrong is of interest."""
    for path in ("/health", "/ready", "/metrics"):
        assert site.http.get(path).status_code == 200
    assert site.http.get("/internal/engines").status_code == 401
    wait_until(lambda: len(log.requests()) == 1)
    assert [line["route"] for line in log.requests()] == ["/internal/engines"]
    assert 'route="/health",status="200"' in site.http.get("/metrics").text


def test_no_line_holds_a_key_or_a_text(
    make_site: Any, log: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marked texts through every route and every way to fail, with everything logged at the finest level."""
    site = make_site(upstream_timeout_seconds=0.3)
    for _ in _every_way(site, monkeypatch):
        pass
    with pytest.raises(openai.APIStatusError):
        site.openai(KEY).chat.completions.create(model=CHAT, messages=[{"role": "user", "content": SAID}])
    wait_until(lambda: {500, 502, 503, 504, 499} <= {line["status"] for line in log.requests()})
    assert len(log.requests()) > 20
    for line in log.lines:
        for secret in (SAID, TOLD, KEY, site.key):
            assert secret not in line


def _every_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ask in every way that there is; yields after each."""
    ask = {"model": CHAT, "messages": [{"role": "user", "content": SAID}], SAID: SAID}

    def post(path: str, **kwargs: Any) -> httpx2.Response:
        return site.http.post(path, headers={**site.auth, "x-marked": SAID}, **kwargs)

    async def tell(request: web.Request, _body: bytes) -> web.StreamResponse:
        return await site.chat.stream(request, [site.chat.chunk(TOLD)])

    async def die_telling(request: web.Request, _body: bytes) -> web.StreamResponse:
        response = await site.chat.stream(request, [site.chat.chunk(TOLD)], end=False)
        cut(request)
        return response

    async def die(request: web.Request, _body: bytes) -> web.StreamResponse:
        cut(request)
        raise ConnectionResetError

    async def refuse(_request: web.Request, _body: bytes) -> web.StreamResponse:
        return web.json_response({"error": {"message": TOLD}}, status=400)

    async def refuse_oddly(_request: web.Request, _body: bytes) -> web.StreamResponse:
        return web.Response(text=TOLD, status=500)

    async def stall(_request: web.Request, _body: bytes) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    for answer in (None, tell, die_telling, die, refuse, refuse_oddly, stall):
        site.chat.answer = answer
        for path in (PATH, "/v1/completions"):
            post(path, json={**ask, "stream": answer is tell})
            yield
    site.chat.answer = None
    post("/v1/embeddings", json={"model": EMBED, "input": SAID})
    bad = [
        f'{{"{SAID}',
        f'"{SAID}"',
        json.dumps({"model": SAID}),
        SAID.encode("utf-16"),
        f'{SAID}"' * 100_000,
    ]
    for body in bad:
        post(PATH, content=body)
        yield
    for path in (
        f"/{SAID}",
        f"/v1/models/{SAID}",
        f"/health?{SAID}",
        f"/docs?{SAID}",
        "/openapi.json",
        "/metrics",
    ):
        site.http.get(path, headers=site.auth)
        yield
    for headers in (
        {"authorization": f"Bearer {KEY}"},
        {"authorization": SAID},
        {"x-request-id": f"{SAID} {KEY}"},
    ):
        site.http.get("/v1/models", headers=headers)
        yield
    site.chat.answer = stall
    with pytest.raises(httpx2.ReadTimeout):
        post(PATH, json=ask, timeout=0.1)
    site.chat.answer = None

    def fail(body: bytes) -> None:
        raise RuntimeError(body.decode())

    with monkeypatch.context() as patched:
        patched.setattr("citadel_llm.gateway.dispatch.read_fields", fail)
        assert post(PATH, json=ask).status_code == 500
    yield
    site.run(site.chat.stop())
    assert post(PATH, json=ask).status_code == 503
    yield
