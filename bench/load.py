"""The load: who asks how often, over how many connections, and what came of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field

from bench.client import Client

# After so many failures in one measure there is nothing to learn from more.
_MOST_FAILURES = 200
_OPENED_AT_ONCE = 50


@dataclass
class Came:
    """What came of a load within its window.

    Attributes:
        seconds: How long the window was.
        answers: Answers that were right and whole.
        events: Events of streams.
        errors: What went wrong, and how often, in and before the window.
        times: Seconds of each answer, or to its first event; or how late each event of paced streams came.
    """

    seconds: float = 0.0
    answers: int = 0
    events: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    hopeless: asyncio.Event = field(default_factory=asyncio.Event)

    def failed(self, what: str) -> None:
        """Something went wrong; too often, and the measure ends."""
        self.errors[what] += 1
        if self.errors.total() >= _MOST_FAILURES:
            self.hopeless.set()


class Window:
    """The time in which things count: told when it begins and ends, to take the processes' times then.

    Args:
        warm: Seconds before it, in which the load runs already.
        seconds: Of the window itself.
        begin: Called when it begins.
        end: Called when it ends.
    """

    def __init__(
        self, warm: float, seconds: float, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self.warm, self.seconds, self.begin, self.end = warm, seconds, begin, end
        self.open = False

    async def pass_by(self, came: Came) -> None:
        """Wait for it to begin and to end, or for the load to have failed too often."""
        await self._wait(self.warm, came)
        self.begin()
        began, self.open = time.perf_counter(), True
        await self._wait(self.seconds, came)
        self.open = False
        self.end()
        came.seconds = time.perf_counter() - began

    async def _wait(self, seconds: float, came: Came) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(came.hopeless.wait(), seconds)


class Load:
    """Connections to one port, and what they do.

    Args:
        port: On the loopback.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._clients: set[Client] = set()
        self._closing = False
        self._connecting: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Hang up all connections."""
        self._closing = True
        for task in self._connecting:
            task.cancel()
        for client in self._clients:
            client.close()
        self._clients.clear()

    async def again_and_again(
        self, request: bytes, connections: int, window: Window, *, streamed: int = 0
    ) -> Came:
        """Ask on each connection, and again as soon as the answer is there.

        Args:
            request: What is asked.
            connections: How many ask.
            window: When it counts.
            streamed: Events of each answer, 0 when it is not streamed.
        """
        came = Came()

        def ended(client: Client, wrong: str) -> None:
            if self._closing:
                return
            if not wrong and streamed and client.events < streamed * 0.98:
                wrong = f"{client.events} events of {streamed}"
            if wrong:
                came.failed(wrong)
                self._clients.discard(client)
                client.close()
                if not came.hopeless.is_set():
                    self._later(self._open_and_ask(ended, request, came))
                return
            if window.open:
                came.answers += 1
                came.events += client.events
            client.ask(request)

        for _ in range(connections):
            await self._open_and_ask(ended, request, came)
        await window.pass_by(came)
        self.close()
        return came

    async def at_a_rate(self, request: bytes, rate: float, window: Window, *, first: bool = False) -> Came:
        """Ask so many times a second, whether or not earlier answers are there.

        Args:
            request: What is asked.
            rate: Requests a second.
            window: When it counts: the times of answers that end in it, from the request to the last byte.
            first: Take the time to the first event instead.
        """
        came = Came()
        idle: list[Client] = []

        def ended(client: Client, wrong: str) -> None:
            if self._closing:
                return
            if wrong:
                came.failed(wrong)
                self._clients.discard(client)
                client.close()
                return
            if window.open:
                came.answers += 1
                until = client.first_at if first else time.perf_counter()
                came.times.append(until - client.asked_at)
            idle.append(client)

        async def ask_on_time() -> None:
            due = time.perf_counter()
            while not came.hopeless.is_set():
                due += 1 / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                if idle:
                    idle.pop().ask(request)
                else:
                    self._later(self._open_and_ask(ended, request, came))

        asking = asyncio.create_task(ask_on_time())
        await window.pass_by(came)
        asking.cancel()
        self.close()
        return came

    async def paced(self, request: bytes, streams: int, rate: int, window: Window) -> Came:
        """Hold so many streams open, each of so many events a second, and take what comes.

        Args:
            request: What is asked: a stream that is longer than all of this.
            streams: How many.
            rate: Events a second of each.
            window: When it counts, from when all are open.
        """
        came = Came()
        clients: list[Client] = []

        def ended(client: Client, wrong: str) -> None:  # noqa: ARG001
            if not self._closing:
                came.failed(wrong or "ended too soon")

        for number in range(streams):
            client = await self._open(ended, came)
            if client is None:
                continue
            client.pause = 1 / rate
            client.ask(request)
            clients.append(client)
            # Not all in one moment: people do not either, and the events would come in step.
            if number % _OPENED_AT_ONCE == _OPENED_AT_ONCE - 1:
                await asyncio.sleep(0.1)
        before = [0] * len(clients)

        def begin() -> None:
            for index, client in enumerate(clients):
                before[index] = client.events
                client.late = came.times
            begin_counting()

        def end() -> None:
            end_counting()
            came.events = sum(client.events for client in clients) - sum(before)
            came.answers = sum(client.events > 0 for client in clients)
            for client in clients:
                client.late = None

        begin_counting, end_counting = window.begin, window.end
        window.begin, window.end = begin, end
        await window.pass_by(came)
        self.close()
        return came

    async def _open(self, ended: Callable[[Client, str], None], came: Came) -> Client | None:
        try:
            _, client = await self._loop.create_connection(lambda: Client(ended), "127.0.0.1", self._port)
        except OSError as error:
            came.failed(f"no connection: {error.strerror}")
            return None
        self._clients.add(client)
        return client

    async def _open_and_ask(self, ended: Callable[[Client, str], None], request: bytes, came: Came) -> None:
        client = await self._open(ended, came)
        if client:
            client.ask(request)

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
