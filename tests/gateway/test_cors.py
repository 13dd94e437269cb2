"""Web pages of other origins: none may read an answer, unless the site names it."""

from typing import Any

from citadel_llm.config.gateway import Cors
from citadel_llm.gateway.cors import CrossOrigin

from .gateway_site import CHAT, Site

PAGE = "https://chat.example.com"
QUESTION = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
ASK = {"model": CHAT, "messages": []}


def test_without_the_setting_there_is_none_of_it(site: Site) -> None:
    answer = site.http.options("/v1/chat/completions", headers={"origin": PAGE, **QUESTION})
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    for answer in (
        site.http.get("/v1/models", headers={**site.auth, "origin": PAGE}),
        site.http.post("/v1/chat/completions", json=ASK, headers={**site.auth, "origin": PAGE}),
    ):
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_page_that_is_named_may_ask_and_read(make_site: Any) -> None:
    site = make_site(cors={"origins": [PAGE]})
    for path in ("/v1/chat/completions", "/v1/models", "/nowhere"):
        question = site.http.options(path, headers={"origin": PAGE, **QUESTION})
        assert question.status_code == 204
        assert question.headers["access-control-allow-origin"] == PAGE
        assert question.headers["access-control-allow-headers"] == "authorization"
        assert "POST" in question.headers["access-control-allow-methods"]
        assert question.headers["x-request-id"]
    for method, path, body, auth in (
        ("GET", "/v1/models", None, site.auth),
        ("GET", "/nowhere", None, site.auth),
        ("POST", "/v1/chat/completions", ASK, site.auth),
        ("POST", "/v1/chat/completions", {**ASK, "stream": True}, site.auth),
        # An error, too, or the page would be told of a failing network.
        ("POST", "/v1/chat/completions", ASK, {}),
        ("POST", "/v1/messages", {"model": "no-such-model"}, site.auth),
    ):
        answer = site.http.request(method, path, json=body, headers={**auth, "origin": PAGE})
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE], path
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers
        other = site.http.request(method, path, json=body, headers={**auth, "origin": f"{PAGE}.evil.test"})
        assert "access-control-allow-origin" not in other.headers
    other = site.http.options("/v1/models", headers={"origin": "https://evil.test", **QUESTION})
    assert other.status_code == 405


def test_every_page_when_asked_for() -> None:
    every = CrossOrigin(Cors(origins=("*",)))
    assert dict(every.headers("https://any.test"))["access-control-allow-origin"] == "*"
    assert every.lines(b"null").startswith(b"access-control-allow-origin: *\r\n")
    one = CrossOrigin(Cors(origins=("https://Chat.Example.com",)))
    assert dict(one.headers("https://chat.example.com"))["access-control-allow-origin"]
    assert one.lines(b"https://chat.example.com:8443") == b""
    assert one.lines(b"x\r\nset-cookie: a=b") == b""
    assert not CrossOrigin(Cors())
