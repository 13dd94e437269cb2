"""After any mix of clients that misbehave and engines that fail, nothing is held, and all is noted once."""

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web

from .fake_engine import FakeEngine, cut
from .gateway_site import CHAT, Site, wait_until

SECOND = f"{CHAT}.2"
PATH = "/v1/chat/completions"
ROUNDS = 4
CLIENTS = 24


def misbehaving(engine: FakeEngine, chance: random.Random) -> Any:
    """An engine's answer that goes wrong in one way or another, more often than not."""

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        kind = chance.randrange(12)
        if kind == 0:
            cut(request)
            raise ConnectionResetError
        if kind == 1:
            return web.json_response({"error": {"message": "no", "code": 500}}, status=500)
        if kind == 2:
            return web.json_response({"error": {"message": "no", "code": 429}}, status=429)
        if kind == 3:
            return web.json_response({"error": {"message": "no", "code": 400}}, status=400)
        if kind == 4:
            return web.Response(status=chance.choice((204, 301, 404, 503)), text="")
        if kind in (5, 6):
            response = await engine.open_stream(request)
            for _ in range(chance.randrange(4)):
                await response.write(engine.chunk("x" * chance.choice((1, 100_000))))
                await asyncio.sleep(0.002)
            await response.write(b"data: half an ev")
            if kind == 5:
                cut(request)
                raise ConnectionResetError
            await response.write(b"ent\n\n")
            await response.write_eof()
            return response
        if kind == 7:
            await asyncio.sleep(0.1)
        if kind == 8:
            # It says that it will answer more than it does.
            response = web.StreamResponse(headers={"content-length": "100"})
            await response.prepare(request)
            await response.write(b"{")
            cut(request)
            raise ConnectionResetError
        return await engine.answer_normally(request, body)

    return answer


def a_request(site: Site, key: str, chance: random.Random) -> bytes:
    """A whole request, or one with something wrong."""
    ask: dict[str, Any] = {"model": CHAT, "messages": [{"role": "user", "content": "hello"}]}
    path, lines = PATH, [f"authorization: Bearer {chance.choice((key, key, key, site.key))}"]
    match chance.randrange(14):
        case 0:
            ask["model"] = "unknown"
        case 1:
            lines = ["authorization: Bearer ck-" + "A" * 43]
        case 2:
            lines = []
        case 3:
            lines.append("expect: 100-continue")
        case 4:
            ask["messages"][0]["content"] = "x" * chance.choice((20_000, 400_000, 1_200_000))
        case 5:
            path = chance.choice(("/health", "/v1/messages", "/v1/audio/transcriptions"))
    ask["stream"] = chance.random() < 0.6
    body = json.dumps(ask).encode()
    if chance.random() < 0.05:
        body = body[:-3]
    version = "1.0" if chance.random() < 0.1 else "1.1"
    head = [f"POST {path} HTTP/{version}", "host: x", *lines]
    if version == "1.1" and chance.random() < 0.2:
        head.append("transfer-encoding: chunked")
        half = len(body) // 2
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
        body += b"0\r\n\r\n"
    else:
        head.append(f"content-length: {len(body)}")
    return ("\r\n".join([*head, "", ""])).encode() + body


async def a_client(site: Site, key: str, chance: random.Random) -> None:
    """Sends some requests, and goes at any moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    with suppress(ConnectionError, TimeoutError):
        data = b"".join(a_request(site, key, chance) for _ in range(chance.choice((1, 1, 1, 2, 3))))
        kind = chance.randrange(6)
        if kind == 0:
            data = data[: chance.randrange(len(data))]
        for piece in (data[:100], data[100:]) if kind < 3 else (data,):
            writer.write(piece)
            async with asyncio.timeout(1):
                await writer.drain()
            await asyncio.sleep(0)
        if kind == 1:
            await asyncio.sleep(chance.random() * 0.05)
        elif kind == 2:
            async with asyncio.timeout(0.5):
                await reader.read(1)
        elif kind > 2:
            async with asyncio.timeout(chance.choice((0.05, 0.4))):
                while await reader.read(65_536):
                    pass
    writer.transport.abort() if chance.random() < 0.5 else writer.close()


@pytest.mark.lab
@pytest.mark.parametrize("seed", range(1, 7))
def test_nothing_is_held_and_all_is_noted_once(make_site: Any, seed: int) -> None:
    site: Site = make_site(
        start=(CHAT, SECOND),
        replicas=2,
        admission={"running_per_engine": 3, "queue_requests": 6, "queue_seconds": 0.5},
        routing={"ejection_seconds": 0.1, "ejection_max_seconds": 0.2, "stall_seconds": 1},
    )
    chance = random.Random(seed)  # noqa: S311 - no secret
    _, key = site.keys.create(
        "limited", concurrent_requests=16, requests_per_minute=100_000, tokens_per_minute=10**8
    )
    traffic = site.server.lifespan.state["traffic"]
    ledger, begun, twice = traffic.ledger, set[int](), list[int]()
    begin, end = ledger.begin, ledger.end

    def noting_begin(record: Any) -> int:
        number = begin(record)
        begun.add(number)
        return int(number)

    def noting_end(number: int, record: Any) -> None:
        if number not in begun:
            twice.append(number)
        begun.discard(number)
        end(number, record)

    ledger.begin, ledger.end = noting_begin, noting_end
    for name in (CHAT, SECOND):
        site.engines[name].answer = misbehaving(site.engines[name], chance)

    async def rounds() -> None:
        for number in range(ROUNDS):
            clients = [a_client(site, key, chance) for _ in range(CLIENTS)]
            if number % 4 == 3:
                # An engine dies with all that it has in hand, and comes back.
                await asyncio.gather(*clients[:8], site.engines[SECOND].stop(), *clients[8:])
                await site.engines[SECOND].start()
            else:
                await asyncio.gather(*clients)

    site.run(rounds())
    engines = list(traffic.engines)
    queues = [queue for model in traffic.engines.models for queue in (model.queue, model.local.queue)]

    def held() -> dict[str, Any]:
        state = {
            "engines": [(e.outstanding, e.outstanding_tokens, e.load) for e in engines],
            "queues": [queue.waiting for queue in queues],
            "exchanges": len(traffic.exchanges),
            "bodies": traffic.body_bytes,
            "connections": len(traffic.connections),
            "places": [limits.at_once.own for _, limits in traffic.limiter._keys.values() if limits.at_once],
            "open records": len(begun),
        }
        return {name: value for name, value in state.items() if _some(value)}

    site.http.close()
    del site.http
    try:
        wait_until(lambda: not held(), within=10)
    except AssertionError:
        raise AssertionError(held()) from None
    assert not twice
    for name in (CHAT, SECOND):
        site.engines[name].answer = None
    wait_until(lambda: _answers(site, key))


def _some(value: Any) -> bool:
    return any(map(_some, value)) if isinstance(value, list | tuple) else bool(value)


def _answers(site: Site, key: str) -> bool:
    ask = {"model": CHAT, "messages": []}
    return bool(site.http.post(PATH, json=ask, headers={"authorization": f"Bearer {key}"}).status_code == 200)
