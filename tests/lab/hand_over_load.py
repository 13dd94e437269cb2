"""The clients of test_hand_over.py, run on the lab host with its own Python; prints what they saw as JSON.

A client of each kind: one that connects anew for each request, ones that keep their connections and ask again
and again, also after pauses, and ones that read long streams. A request that was sent and got no whole answer
is a failure, whatever the reason.
"""

import asyncio
import collections
import json
import random
import sys
from dataclasses import dataclass, field

HOST, PORT = "127.0.0.1", 8000


@dataclass
class Seen:
    """What the clients saw."""

    done: collections.Counter[str] = field(default_factory=collections.Counter)
    told_to_close: int = 0
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0


class Client:
    """One connection at a time."""

    def __init__(self, key: str, model: str, seen: Seen) -> None:
        self.key, self.model, self.seen = key, model, seen
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, kind: str, *, stream: bool) -> None:
        """Ask once, and note how it went."""
        began = asyncio.get_running_loop().time()
        if self.streams is not None and self.streams[0].at_eof():
            # As every client does that keeps connections: one that was closed meanwhile is not used.
            self.close()
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection(HOST, PORT)
            status, body = await self._exchange(*self.streams, stream=stream)
            whole = body.rstrip().endswith(b"data: [DONE]") if stream else b'"choices"' in body
            if status != 200 or not whole:
                self.seen.failures.append(f"{kind}: {status} {body[-200:]!r}")
        except Exception as error:
            self.seen.failures.append(f"{kind}: {type(error).__name__} {error}")
            self.close()
        self.seen.done[kind] += 1
        self.seen.longest = max(self.seen.longest, asyncio.get_running_loop().time() - began)

    def close(self) -> None:
        """Give the connection up."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, stream: bool
    ) -> tuple[int, bytes]:
        body = json.dumps(
            {"model": self.model, "messages": [{"role": "user", "content": "x"}], "stream": stream}
        ).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if "transfer-encoding: chunked" in answer:
            text = b""
            while size := int((await reader.readuntil(b"\r\n")).strip() or b"0", 16):
                text += (await reader.readexactly(size + 2))[:-2]
            await reader.readuntil(b"\r\n")
        else:
            length = answer.split("content-length: ")[1].split("\r\n")[0]
            text = await reader.readexactly(int(length))
        if "connection: close" in answer:
            self.seen.told_to_close += 1
            self.close()
        return int(answer.split()[1]), text


async def _new(client: Client, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await client.ask("new connection", stream=False)
        client.close()


async def _kept(client: Client, stop: asyncio.Event, pause: float) -> None:
    while not stop.is_set():
        await client.ask("kept connection", stream=False)
        await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret


async def _streams(client: Client, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await client.ask("stream", stream=True)


async def main() -> None:
    """Ask until told to stop by the end of the standard input."""
    key, model = sys.argv[1:]
    seen, stop = Seen(), asyncio.Event()

    def client() -> Client:
        return Client(key, model, seen)

    work = [_new(client(), stop) for _ in range(3)]
    work += [_kept(client(), stop, pause) for pause in (0.0, 0.01, 0.1, 0.5, 3.0, 3.0)]
    work += [_streams(client(), stop) for _ in range(8)]
    tasks = [asyncio.create_task(each) for each in work]
    await asyncio.to_thread(sys.stdin.read)
    stop.set()
    await asyncio.gather(*tasks)
    told = {"told_to_close": seen.told_to_close, "longest": round(seen.longest, 2)}
    print(json.dumps({"done": seen.done, "failures": seen.failures, **told}))  # noqa: T201 - its answer


asyncio.run(main())
