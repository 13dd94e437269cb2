"""The gateway as plain HTTP shows it: what passes, what does not, and errors in OpenAI's shape everywhere."""

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .gateway_site import ALIAS, CHAT, Site

PATH = "/v1/chat/completions"
ASK = {"model": CHAT, "messages": []}

ADDED = {"cache_salt", "priority"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PER_TEST = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _code(response: httpx2.Response) -> tuple[int, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["content-type"] == "application/json"
    return response.status_code, error["code"]


# What passes through.


@PER_TEST
@given(
    fields=st.dictionaries(
        st.text().filter(lambda key: key not in {"model", "stream", *ADDED}), JSON, max_size=4
    ),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 2]),
)
def test_a_body_reaches_the_engine_byte_for_byte(
    site: Site, fields: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    body = json.dumps({**fields, "model": CHAT}, ensure_ascii=ascii_only, indent=indent).encode()
    site.http.post(PATH, content=body, headers=site.auth).raise_for_status()
    seen = site.chat.seen.pop().body
    # What is the gateway's own to say is appended to the object.
    assert seen.startswith(body[: body.rindex(b"}")])
    added = {name: value for name, value in json.loads(seen).items() if name in ADDED}
    assert json.loads(seen) == {**json.loads(body), **added}
    assert set(added) == ADDED


@PER_TEST
@given(body=st.binary(max_size=4096))
def test_an_answer_reaches_the_client_byte_for_byte(site: Site, body: bytes) -> None:
    async def answer(_request: web.Request, _body: bytes) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    site.chat.answer = answer
    response = site.http.post(PATH, json=ASK, headers=site.auth)
    assert response.content == body
    assert response.headers["content-length"] == str(len(body))


@PER_TEST
@given(pieces=st.lists(st.binary(min_size=1, max_size=64) | st.just(b"\n\n"), max_size=8))
def test_a_stream_reaches_the_client_byte_for_byte(site: Site, pieces: list[bytes]) -> None:
    async def answer(request: web.Request, _body: bytes) -> web.StreamResponse:
        return await site.chat.stream(request, pieces, end=False)

    site.chat.answer = answer
    response = site.http.post(PATH, json=ASK, headers=site.auth)
    assert response.content == b"".join(pieces)


def test_of_the_headers_only_harmless_ones_reach_the_engine(site: Site) -> None:
    sent = {
        **site.auth,
        "content-type": "application/x-www-form-urlencoded",
        "cookie": "a=b",
        "user-agent": "curl/8",
        "x-data-parallel-rank": "1",
        "x-forwarded-for": "10.0.0.1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    site.http.post(PATH, content=json.dumps(ASK), headers=sent).raise_for_status()
    got = site.chat.seen[0].headers
    assert set(got) == {"host", "accept", "content-type", "content-length", "traceparent", "x-request-id"}
    assert got["content-type"] == "application/json"
    assert site.key not in str(got)


def test_of_the_engines_headers_those_of_its_connection_stay_behind(site: Site) -> None:
    async def answer(_request: web.Request, _body: bytes) -> web.StreamResponse:
        headers = {
            "server": "uvicorn",
            "connection": "x-hop, keep-alive",
            "x-hop": "1",
            "keep-alive": "timeout=5",
            "x-request-id": "the engine's",
            "x-end-to-end": "kept",
        }
        return web.json_response({"ok": True}, headers=headers)

    site.chat.answer = answer
    got = site.http.post(PATH, json=ASK, headers={**site.auth, "x-request-id": "mine"}).headers
    assert set(got) == {"content-length", "content-type", "date", "x-end-to-end", "x-request-id"}
    assert got.get_list("x-request-id") == ["mine"]


# Request ids.


def test_a_request_without_an_id_gets_one(site: Site) -> None:
    response = site.http.post(PATH, json=ASK, headers=site.auth)
    request_id = response.headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", request_id)
    assert site.chat.seen[0].headers["x-request-id"] == request_id
    assert site.http.get("/health").headers["x-request-id"] != request_id


@pytest.mark.parametrize("bad", ["", "a" * 129, "with space", 'quote"', "ümlaut", "semi;colon"])
def test_an_id_that_could_do_harm_is_replaced(site: Site, bad: str) -> None:
    response = site.http.get("/health", headers=[(b"x-request-id", bad.encode())])
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_errors_carry_the_request_id(site: Site) -> None:
    response = site.http.get("/nowhere", headers={"x-request-id": "mine"})
    assert (response.status_code, response.headers["x-request-id"]) == (404, "mine")


# What is refused.


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/responses/resp_1",
        "/v1/models/",
        "/v1/chat/completions/",
        "/v1/audio/translations",
        "/v1/files",
        "/collective_rpc",
        "/redoc",
    ],
)
def test_other_paths_are_unknown(site: Site, path: str) -> None:
    expected = (404, "model_not_found") if path == "/v1/models/" else (404, "unknown_url")
    assert _code(site.http.get(path, headers=site.auth)) == expected
    assert site.chat.seen == []


@pytest.mark.parametrize(("method", "path"), [("GET", PATH), ("DELETE", "/v1/models"), ("POST", "/health")])
def test_other_methods_are_refused(site: Site, method: str, path: str) -> None:
    response = site.http.request(method, path, headers=site.auth)
    assert _code(response) == (405, "method_not_allowed")
    assert response.headers["allow"]


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Basic Y2s=", "Bearer ck-short", "Bearer ck-" + "é" * 43, "ck-" + "A" * 43],
)
@pytest.mark.parametrize("path", [PATH, "/v1/embeddings", "/tokenize", "/v1/models", "/v1/models/x"])
def test_without_a_key_there_is_nothing(site: Site, path: str, authorization: str | None) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    method = "GET" if "models" in path else "POST"
    response = site.http.request(method, path, headers=headers)
    assert _code(response) == (401, "invalid_api_key")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/models"])
@pytest.mark.parametrize("authorization", [{}, {"authorization": "Bearer"}, {"authorization": "Basic eDp4"}])
def test_a_key_may_come_as_anthropics_clients_send_it(
    site: Site, path: str, authorization: dict[str, str]
) -> None:
    headers = {**authorization, "x-api-key": site.key}
    body = {"model": CHAT, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}
    asked = None if path == "/v1/models" else body
    answer = site.http.request("POST" if asked else "GET", path, json=asked, headers=headers)
    assert answer.status_code == 200, answer.text


def test_the_scheme_is_read_in_any_case(site: Site) -> None:
    assert site.http.get("/v1/models", headers={"authorization": f"bearer {site.key}"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"model"',
        b"null",
        b'{"messages": []}',
        b'{"model": ""}',
        b'{"model": 7}',
        b'{"model": null}',
        b'\xff{"model": "chat-model"}',
        '{"model": "chat-model"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"model": "chat-model"}',
        b"[" * 100_000,
        b'{"n": NaN, "model": "chat-model"}',
        b'{"model": "chat-model"} more',
    ],
)
def test_a_body_that_cannot_be_understood_is_a_400(site: Site, body: bytes) -> None:
    assert _code(site.http.post(PATH, content=body, headers=site.auth)) == (400, None)
    assert site.chat.seen == []


def test_what_only_the_engine_looks_at_is_the_engines_to_refuse(site: Site) -> None:
    body = b'{"n": ' + b"9" * 5000 + b', "model": "chat-model"}'
    refused = site.http.post(PATH, content=body, headers=site.auth)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "Bad Request")


def test_a_long_model_name_is_not_repeated_at_length(site: Site) -> None:
    response = site.http.post(PATH, json={"model": "x" * 10_000}, headers=site.auth)
    assert _code(response) == (404, "model_not_found")
    assert len(response.content) < 500


def _chunked(size: int) -> Iterator[bytes]:
    for _ in range(size // 65536):
        yield b" " * 65536


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_is_too_large_is_a_413(site: Site, *, chunked: bool) -> None:
    size = 4 * site.settings.gateway.max_body_bytes
    content: Any = _chunked(size) if chunked else b" " * size
    assert _code(site.http.post(PATH, content=content, headers=site.auth)) == (413, "request_too_large")
    assert site.http.post(PATH, json=ASK, headers=site.auth).status_code == 200, "the connection goes on"


def test_a_body_announced_as_too_large_is_not_waited_for(site: Site) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {site.key}\r\n"
    with socket.create_connection(("127.0.0.1", site.port), timeout=5) as connection:
        connection.sendall(f"{head}content-length: 999999999999\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_the_largest_body_passes(site: Site) -> None:
    start = b'{"model": "chat-model", "x": "'
    size = site.settings.gateway.max_body_bytes
    body = start + b"x" * (size - len(start) - 2) + b'"}'
    assert site.http.post(PATH, content=body, headers=site.auth).status_code == 200
    assert site.http.post(PATH, content=body + b" ", headers=site.auth).status_code == 413


def test_a_body_that_ends_too_soon_asks_no_engine(site: Site) -> None:
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {site.key}\r\ncontent-length: 500\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", site.port)) as connection:
        connection.sendall(head.encode() + b'{"model": "chat-model"')
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert site.chat.seen == []


def test_a_mistake_of_our_own_says_nothing_of_the_inside(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise RuntimeError("marked-inside")

    monkeypatch.setattr("citadel_llm.gateway.dispatch.read_fields", fail)
    response = site.http.post(PATH, json=ASK, headers={**site.auth, "x-request-id": "mine"})
    assert _code(response) == (500, "internal_error")
    assert "mine" in response.json()["error"]["message"]
    assert "marked-inside" not in response.text
    assert "RuntimeError" not in response.text


# Health.


def test_health_and_readiness(site: Site) -> None:
    assert site.http.get("/health").json() == {"status": "ok"}
    ready = site.http.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert [(m["model"], m["state"], m["reason"]) for m in ready.json()["models"]] == [
        ("chat-model", "up", ""),
        ("embed-model", "up", ""),
    ]


def test_not_ready_without_an_engine(make_site: Any) -> None:
    site = make_site(start=())
    site.wait_for_state(CHAT, "down")
    ready = site.http.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
    assert ready.json()["models"][0]["reason"] == "No such file or directory"
    assert site.http.get("/health").status_code == 200
    assert site.openai().models.retrieve(ALIAS).model_extra["state"] == "down"


def test_an_engine_that_says_it_is_ill_is_down(make_site: Any) -> None:
    site = make_site()
    site.chat.health = 503
    site.wait_for_state(CHAT, "down")
    assert site.http.get("/ready").json()["models"][0]["reason"] == "its health check says 503"
    assert _code(site.http.post(PATH, json=ASK, headers=site.auth)) == (503, "engine_unavailable")
    site.chat.health = 200
    site.wait_for_state(CHAT, "up")
