"""The processes of one gateway: what each is called, and where it finds the others.

They accept from one socket, and each has a folder for its sockets, beside the others' (`RuntimeDirectory=` of
its unit): `gateway`, `gateway.2`, `gateway.3`. There a worker hands its listening socket to whoever asks
(`services.hand_over`), and tells its metrics: whoever connects gets the page, and the end of the connection.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from citadel_llm.services.hand_over import POINT, open_door, runtime_folder

FIRST = 1
# Below Prometheus' own limit of 10 s: a worker that hangs must not cost the others' metrics.
_TIMEOUT_SECONDS = 4.0
_METRICS = "metrics.sock"


def worker_name(number: int) -> str:
    """What people call a worker, and its folder: `gateway`, `gateway.2` and so on."""
    return "gateway" if number == FIRST else f"gateway.{number}"


@dataclass(frozen=True)
class Workers:
    """The workers of a gateway, as one of them sees them.

    Attributes:
        number: Its own number.
        count: How many there are.
        folder: Its own folder; none where systemd made none.
    """

    number: int = FIRST
    count: int = 1
    folder: Path | None = None

    @classmethod
    def of_this_process(cls, number: int, count: int) -> "Workers":
        """With the folder that systemd made for this process."""
        return cls(number, count, runtime_folder())

    def hand_over_points(self) -> list[Path]:
        """Where the others hand out the listening socket."""
        return [folder / POINT for folder in self._others().values()]

    async def pages(self) -> dict[int, str | None]:
        """The metrics page of each other worker, by its number; none of one that does not answer in time."""
        others = self._others()
        pages = await asyncio.gather(*(_read(folder / _METRICS) for folder in others.values()))
        return dict(zip(others, pages, strict=True))

    @contextlib.asynccontextmanager
    async def telling(self, page: Callable[[], bytes]) -> AsyncIterator[None]:
        """Tell the others this one's metrics while the context lasts.

        Args:
            page: Makes the page. Called in a thread.

        Raises:
            StartError: The socket cannot be made.
        """
        if self.folder is None:
            yield
            return

        async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, TimeoutError), contextlib.closing(writer):
                writer.write(await asyncio.to_thread(page))
                await asyncio.wait_for(writer.drain(), _TIMEOUT_SECONDS)

        server = await asyncio.start_unix_server(tell, sock=open_door(self.folder / _METRICS))
        try:
            yield
        finally:
            server.close()

    def _others(self) -> dict[int, Path]:
        if self.folder is None:
            return {}
        numbers = (number for number in range(FIRST, self.count + 1) if number != self.number)
        return {number: self.folder.with_name(worker_name(number)) for number in numbers}


ALONE = Workers()
"""One, that knows of no other."""


async def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            with contextlib.closing(writer):
                return (await reader.read()).decode()
    return None
