"""Requests that are sent before the one ahead of them is answered: the one in hand is still looked after."""

import asyncio
import json
import socket
import threading
import time
from typing import Any

import psutil
from aiohttp import web

from .gateway_site import CHAT, Site, wait_until
from .test_abuse import BODY, raw

STREAM = json.dumps({"model": CHAT, "stream": True, "messages": []}).encode()


def _whole(connection: Any, body: bytes = STREAM) -> bytes:
    return bytes(connection.head(f"content-length: {len(body)}").encode() + body)


async def _for_ever(site: Site, request: web.Request, event: bytes, pause: float) -> web.StreamResponse:
    response = await site.chat.open_stream(request)
    while True:
        await response.write(event)
        await asyncio.sleep(pause)


def test_a_client_that_hangs_up_with_more_in_its_pipeline_frees_its_engine(site: Site) -> None:
    async def answer(request: web.Request, _body: bytes) -> web.StreamResponse:
        return await _for_ever(site, request, site.chat.chunk("x"), 0.01)

    site.chat.answer = answer
    with raw(site) as connection:
        connection.send(_whole(connection), connection.head(method="GET", path="/health"), _whole(connection))
        connection.socket.recv(100)
    wait_until(site.chat.disconnected.is_set, within=5)
    assert len(site.chat.seen) == 1


def test_a_pipeline_does_not_lift_back_pressure(site: Site) -> None:
    written = site.chat.answer_endlessly(128 << 20)
    with raw(site) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        connection.send(_whole(connection), _whole(connection))
        before, until = -1, time.monotonic() + 10
        while written() != before and time.monotonic() < until:
            before = written()
            threading.Event().wait(0.3)
        assert 0 < written() < 64 << 20


def test_a_long_pipeline_is_answered_to_its_end(site: Site) -> None:
    """Also where each is refused at once: one answer begins the next, without end."""
    gate = asyncio.Event()

    async def answer(_request: web.Request, _body: bytes) -> web.StreamResponse:
        await gate.wait()
        return web.json_response({})

    site.chat.answer = answer
    with raw(site) as connection:
        connection.send(_whole(connection, BODY), b"POST /v1/completions HTTP/1.1\r\n\r\n" * 1500)
        wait_until(lambda: bool(site.chat.seen))
        site.loop.loop.call_soon_threadsafe(gate.set)
        assert connection.answer()[0] == 200
        assert {connection.answer()[0] for _ in range(1500)} == {401}


def test_a_head_without_end_is_not_read_while_an_answer_is_under_way(site: Site) -> None:
    async def answer(request: web.Request, _body: bytes) -> web.StreamResponse:
        return await _for_ever(site, request, site.chat.chunk("x"), 0.05)

    site.chat.answer = answer
    with raw(site) as connection:
        connection.send(_whole(connection))
        connection.socket.recv(100)
        connection.socket.settimeout(0.5)
        before = psutil.Process().memory_info().rss
        connection.send("GET / HTTP/1.1\r\n")
        lines = (b"x-more: " + b"y" * 1000 + b"\r\n") * 1000
        sent = 0
        try:
            while sent < 48 << 20:
                sent += connection.socket.send(lines)
        except (TimeoutError, ConnectionError):
            pass
        assert sent < 32 << 20, psutil.Process().memory_info().rss - before


def test_a_body_that_does_not_come_is_given_up_in_a_pipeline_too(make_site: Any) -> None:
    site = make_site(body_timeout_seconds=0.5)
    with raw(site) as connection:
        first = _whole(connection, BODY)
        connection.send(first, connection.head("content-length: 100"), b"{")
        assert [connection.answer()[0] for _ in range(2)] == [200, 408]
        assert connection.is_closed()


def test_a_large_body_behind_one_that_is_refused_is_read(site: Site) -> None:
    """Its bytes may come between the refusal of the one before it and the moment at which it is begun."""
    gate = asyncio.Event()

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        await gate.wait()
        return await site.chat.answer_normally(request, body)

    site.chat.answer = answer
    large = json.dumps({"model": CHAT, "messages": [{"role": "user", "content": "x" * 900_000}]}).encode()
    with raw(site) as connection:
        refused = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
        sender = threading.Thread(
            target=connection.send,
            args=(_whole(connection, BODY), refused, refused, _whole(connection, large)),
        )
        sender.start()
        wait_until(lambda: bool(site.chat.seen))
        site.loop.loop.call_soon_threadsafe(gate.set)
        assert [connection.answer()[0] for _ in range(4)] == [200, 401, 401, 200]
        sender.join()


def test_a_large_body_behind_one_that_is_refused_at_once_is_read(site: Site) -> None:
    large = json.dumps({"model": CHAT, "messages": [{"role": "user", "content": "x" * 900_000}]}).encode()
    with raw(site) as connection:
        refused = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
        sender = threading.Thread(target=connection.send, args=(refused, _whole(connection, large)))
        sender.start()
        assert [connection.answer()[0] for _ in range(2)] == [401, 200]
        sender.join()
