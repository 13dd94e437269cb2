"""The connections to an engine: kept and used again, given up when they age, and silent once nobody asks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from citadel_llm.gateway.errors import EngineDownError, EngineError, EngineTimeoutError
from citadel_llm.gateway.wire.heads import AnswerHead
from citadel_llm.gateway.wire.upstream import Connection, EngineClient, UnixAddress

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Recorder:
    """An asker that writes down what it is told, and asks when it is connected."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.changed = asyncio.Event()

    def _tell(self, what: object) -> None:
        self.told.append(what)
        self.changed.set()

    def on_connected(self, connection: Connection) -> None:
        self._tell(connection)
        connection.ask(self, REQUEST)

    def on_head(self, head: AnswerHead) -> None:
        self._tell(head.status)

    def on_data(self, data: bytes) -> None:
        self._tell(data)

    def on_end(self) -> None:
        self._tell("end")

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        self.told += ["at once", head.status, body]
        self._tell("end")

    def on_failed(self, error: EngineError, *, reused: bool) -> None:
        self._tell((type(error), reused))

    async def until(self, what: object) -> None:
        async with asyncio.timeout(10):
            while what not in self.told:
                self.changed.clear()
                await self.changed.wait()


class Engine:
    """A server that answers as it is told, and knows its connections."""

    def __init__(self) -> None:
        self.answer: bytes | None = ANSWER
        self.close = False
        self.accepted = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if self.answer is not None:
                    writer.write(self.answer)
                if self.close or self.answer is None:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Engine, EngineClient]]:
    engine = Engine()
    server = await asyncio.start_unix_server(engine.serve, folder / "engine.sock")
    client = EngineClient("m", UnixAddress(folder / "engine.sock"), connect_timeout=5)
    yield engine, client
    await client.close()
    server.close()
    await server.wait_closed()


async def ask(client: EngineClient, *, fresh: bool = False) -> Recorder:
    asker = Recorder()
    client.connect(asker, fresh=fresh)
    await asker.until("end")
    return asker


async def test_a_connection_is_used_again(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, client):
        first = await ask(client)
        assert first.told[1:] == [200, b"ok", "end"]
        second = await ask(client)
        assert second.told[0] is first.told[0]
        await ask(client, fresh=True)
        assert engine.accepted == 2


async def test_an_answer_whose_head_is_known_comes_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, client):
        head = b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: %d\r\n\r\n"
        told = []
        for answer in (head % 2 + b"ok", head % 5 + b"again", head % 0, ANSWER, ANSWER):
            engine.answer = answer
            told.append((await ask(client)).told[1:])
        assert told == [
            [200, b"ok", "end"],
            ["at once", 200, b"again", "end"],
            ["at once", 200, b"", "end"],
            [200, b"ok", "end"],
            ["at once", 200, b"ok", "end"],
        ]
        # An interim answer before it, or another status: not the same head.
        engine.answer = b"HTTP/1.1 103 Early Hints\r\n\r\n" + ANSWER
        assert (await ask(client)).told[1:] == [200, b"ok", "end"]
        engine.answer = ANSWER.replace(b"200 OK", b"500 Oh")
        assert [(await ask(client)).told[1:] for _ in range(2)] == [[500, b"ok", "end"]] * 2
        assert engine.accepted == 1


async def test_an_engine_that_speaks_unasked_is_asked_on_another_connection(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, client):
        engine.answer = ANSWER + b"HTTP/1.1 200 OK\r\nx: "
        for _ in range(3):
            assert (await ask(client)).told[1:] == [200, b"ok", "end"]
        assert engine.accepted == 3


async def test_idle_connections_are_given_up_before_the_engine_does(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, client):
        await ask(client)
        client.sweep(asyncio.get_running_loop().time() + 2)
        await ask(client)
        client.sweep(asyncio.get_running_loop().time() + 4)
        await ask(client)
        assert engine.accepted == 2


async def test_a_kept_connection_that_breaks_off_may_just_have_aged(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, client):
        await ask(client)
        engine.answer = None
        aged, broken = Recorder(), Recorder()
        client.connect(aged)
        client.connect(broken, fresh=True)
        for asker in (aged, broken):
            async with asyncio.timeout(10):
                while len(asker.told) < 2:
                    asker.changed.clear()
                    await asker.changed.wait()
        assert [asker.told[1][1] for asker in (aged, broken)] == [True, False]  # type: ignore[index]


@pytest.mark.parametrize("answer", [b"no HTTP at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000])
async def test_nonsense_is_a_failure(tmp_path: Path, answer: bytes) -> None:
    async with running(tmp_path) as (engine, client):
        engine.answer, engine.close = answer, True
        asker = Recorder()
        client.connect(asker)
        async with asyncio.timeout(10):
            while not isinstance(asker.told[-1] if asker.told else None, tuple):
                asker.changed.clear()
                await asker.changed.wait()


async def test_who_has_given_up_connecting_is_called_back_no_more(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, client):
        asker = Recorder()
        connecting = client.connect(asker)
        assert connecting is not None
        connecting.cancel()
        await ask(client)
        assert asker.told == []


async def test_who_drops_a_connection_hears_nothing_more(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, client):
        engine.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"
        asker = Recorder()
        client.connect(asker)
        await asker.until(b"ok")
        connection = asker.told[0]
        assert isinstance(connection, Connection)
        connection.drop()
        engine.answer = ANSWER
        await ask(client)
        assert asker.told[1:] == [200, b"ok"]


async def test_without_an_engine(tmp_path: Path) -> None:
    client = EngineClient("m", UnixAddress(tmp_path / "none.sock"), connect_timeout=5)
    with pytest.raises(EngineDownError):
        await client.get("/health", within=5)
    await client.close()


async def test_a_page_that_does_not_come(tmp_path: Path) -> None:
    async with running(tmp_path) as (engine, client):
        assert await client.get("/health", within=5) == (200, b"ok")
        engine.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"
        with pytest.raises(EngineTimeoutError):
            await client.get("/health", within=0.2)
