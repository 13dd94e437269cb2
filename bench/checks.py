"""Whether a contender really does the work: same bytes, nothing held back, connections kept."""

import asyncio
import json
import time
from collections.abc import Callable

from bench import messages
from bench.client import Client, unchunked
from bench.measures import Target

_EVENTS, _RATE = 6, 20
_WITHIN = 30.0


class CheckError(Exception):
    """A contender does not do the work."""


async def wait_until_it_answers(target: Target, alive: Callable[[], bool]) -> None:
    """Ask until there is an answer.

    Raises:
        CheckError: There is none in time, or the contender ended.
    """
    end = time.monotonic() + _WITHIN
    wrong = ""
    while time.monotonic() < end:
        if not alive():
            raise CheckError(f"{target.name} ended")
        try:
            await ask(target, messages.chat_body(700))
        except (CheckError, OSError) as error:
            wrong = str(error)
            await asyncio.sleep(0.1)
        else:
            return
    raise CheckError(f"{target.name} does not answer: {wrong}")


async def check(target: Target, stub_port: int) -> None:
    """Compare its answers with the stub's own.

    Raises:
        CheckError: It says something else, holds events back, or connects anew for each request.
    """
    client = await ask(target, messages.chat_body(200 << 10))
    plain = b"".join(client.body or [])
    told = json.loads(unchunked([plain]) if not plain.startswith(b"{") else plain)
    meant = json.loads(messages.completion())
    if told["choices"][0]["message"]["content"] != meant["choices"][0]["message"]["content"]:
        raise CheckError(f"{target.name} changes the answer")
    await _check_stream(target)
    before = await connections(stub_port)
    for _ in range(20):
        await ask(target, messages.chat_body(700))
    # One of its own to read the counter, and its health checks, may be among them.
    if await connections(stub_port) - before > 5:  # noqa: PLR2004
        raise CheckError(f"{target.name} connects to the engine anew for each request")


async def _check_stream(target: Target) -> None:
    """Whether a stream comes as it is, and event by event: once in five, for the machine may be busy."""
    for last in (False, False, False, False, True):
        client = await ask(target, messages.chat_body(700, events=_EVENTS, rate=_RATE))
        if unchunked(client.body or []) != messages.stream_text(_EVENTS):
            raise CheckError(f"{target.name} changes the stream")
        pieces, first = len(client.body or []), client.first_at - client.asked_at
        over = time.perf_counter() - client.asked_at
        # Two may meet on a busy machine.
        if pieces >= _EVENTS - 2 and over - first >= (_EVENTS - 2) / _RATE:
            return
        if last:
            raise CheckError(
                f"{target.name} holds events back: {pieces} pieces, the first after {first:.2f} s"
            )


async def connections(port: int) -> int:
    """How many connections the stub has seen."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: stub\r\n\r\n")
    text = b""
    while b"bench_requests_total " not in text:
        text += await asyncio.wait_for(reader.read(65536), 5)
    writer.close()
    return int(text.split(b"\nbench_connections_total ")[1].split()[0])


async def ask(target: Target, body: bytes) -> Client:
    """Ask one thing, and give the client with the answer's body.

    Raises:
        CheckError: There is no right answer.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[str] = loop.create_future()

    def ended(_client: Client, wrong: str) -> None:
        if not over.done():
            over.set_result(wrong)

    _, client = await loop.create_connection(lambda: Client(ended), "127.0.0.1", target.port)
    client.body = []
    client.ask(messages.request(body, target.key))
    try:
        wrong = await asyncio.wait_for(over, 10)
    except TimeoutError:
        wrong = "no answer within 10 s"
    finally:
        client.close()
    if wrong:
        raise CheckError(f"{target.name}: {wrong}")
    return client
