"""The manager's sockets: where gateways say what they have, and operators what they want."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from citadel_llm.residency.commands import CommandError, obey
from citadel_llm.residency.manager import Manager
from citadel_llm.residency.messages import (
    GATEWAYS,
    LONGEST_LINE,
    OPERATORS,
    Command,
    Done,
    line,
    read_command,
    read_report,
)

# Gateways speak each second. One that is silent for so long hangs, and is counted no more.
_SILENT_SECONDS = 15.0
# The folder's group may speak here: it is given to the socket by the folder's set-group-ID bit.
_MODE = 0o660


_Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Door:
    """Listens for gateways and operators.

    Args:
        manager: Who is spoken to.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._log = structlog.get_logger("citadel.residency")
        self._listeners: set[asyncio.Event] = set()
        self._connections: set[asyncio.Task[None]] = set()

    def tell(self) -> None:
        """There is a new notice."""
        for news in self._listeners:
            news.set()

    @contextlib.asynccontextmanager
    async def open(self, run_dir: Path) -> AsyncIterator[None]:
        """Listen while the context lasts.

        Raises:
            OSError: A socket cannot be made.
        """
        servers = []
        try:
            for place, serve in ((GATEWAYS, self._gateway), (OPERATORS, self._operator)):
                path = run_dir / place
                path.unlink(missing_ok=True)
                accept = functools.partial(self._accept, serve)
                servers.append(await asyncio.start_unix_server(accept, path, limit=LONGEST_LINE))
                path.chmod(_MODE)
            yield
        finally:
            for server in servers:
                server.close()
            connections = list(self._connections)
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
            for place in (GATEWAYS, OPERATORS):
                with contextlib.suppress(OSError):
                    (run_dir / place).unlink()

    async def _accept(
        self, serve: _Serve, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a callback of asyncio's runs in one
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, EOFError):
                await serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _gateway(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        manager = self._manager
        gateway = manager.connected()
        telling = asyncio.create_task(self._keep_telling(writer))
        try:
            while True:
                async with asyncio.timeout(_SILENT_SECONDS):
                    text = await reader.readline()
                if not text:
                    return
                manager.report(gateway, read_report(text))
        except (TimeoutError, ValueError, msgspec.DecodeError) as error:
            self._log.warning("a gateway cannot be understood", error=repr(error))
        finally:
            manager.gone(gateway)
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _operator(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            command = read_command(await reader.readline())
        except (ValueError, msgspec.DecodeError) as error:
            writer.write(line(Done(f"this is no command: {error}")))
            await writer.drain()
            return
        telling = asyncio.create_task(self._keep_telling(writer))
        obeying = asyncio.create_task(self._obey(command))
        # Who no longer looks on has still given the command: only the showing ends.
        hung_up = asyncio.create_task(reader.read())
        await asyncio.wait({obeying, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        if not hung_up.done():
            hung_up.cancel()
            writer.write(line(Done(await obeying)))
            await writer.drain()
        obeying.cancel()

    async def _obey(self, command: Command) -> str:
        try:
            await obey(self._manager, command)
        except CommandError as error:
            return str(error)
        return ""

    async def _keep_telling(self, writer: asyncio.StreamWriter) -> None:
        """Write the present notice, and each that follows; of many at once the last."""
        news = asyncio.Event()
        self._listeners.add(news)
        try:
            while True:
                writer.write(line(self._manager.notice()))
                await writer.drain()
                await news.wait()
                news.clear()
        finally:
            self._listeners.discard(news)
