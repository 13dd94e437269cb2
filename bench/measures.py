"""What is measured, and how: each measure puts a load on one contender and gives figures by name."""

import asyncio
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from bench import messages
from bench.load import Came, Load, Window
from bench.processes import Cores, Started, Timed

Figures = dict[str, float]
BODIES = {"0.7 KB": 700, "32 KB": 32 << 10, "200 KB": 200 << 10}
CONNECTIONS = 32
BACK_TO_BACK = 64
BACK_TO_BACK_EVENTS = 200
PACED, PACED_RATE = 200, 50
REQUESTS_A_SECOND = 200
STREAMS_A_SECOND, STREAM_EVENTS = 40, 8
OPEN_STREAMS = 1000
_MICRO = 1e6


@dataclass(frozen=True)
class Plan:
    """How long it all takes.

    Attributes:
        rounds: How often each contender has its turn.
        warm: Seconds before each window.
        requests: Seconds of a measure of requests, for each size of body.
        back_to_back: Of streams as quick as they go.
        paced: Of paced streams.
        latency: Of requests at a fixed rate, and of streams begun at a fixed rate.
        streams: How many open streams the memory is looked at with.
    """

    rounds: int
    warm: float
    requests: float
    back_to_back: float
    paced: float
    latency: float
    streams: int = OPEN_STREAMS


FULL = Plan(rounds=5, warm=0.5, requests=2.0, back_to_back=2.0, paced=4.0, latency=3.0)
QUICK = Plan(rounds=1, warm=0.3, requests=0.8, back_to_back=0.8, paced=1.5, latency=1.0, streams=300)


@dataclass
class Target:
    """Where a measure asks, and whose time it takes.

    Attributes:
        name: The contender.
        port: Where it listens.
        key: The key that it wants.
        started: Its processes; none when the stub is asked directly.
    """

    name: str
    port: int
    key: str
    started: Started | None


@dataclass
class Result:
    """What a measure gave.

    Attributes:
        figures: By name; microseconds, milliseconds, megabytes or shares, as their names say.
        errors: What went wrong, and how often.
    """

    figures: Figures
    errors: Counter[str] = field(default_factory=Counter)


class Meter:
    """CPU time of a contender, of the stub, of the load, and of all else on their cores, within a window."""

    def __init__(self, target: Target, stub: Timed, load: Timed) -> None:
        self._of: dict[str, Timed | None] = {
            "proxy": target.started,
            "stub": stub,
            "load": load,
            "others": Cores(),
        }
        self._before: Figures = {}
        self.spent: Figures = {}

    def begin(self) -> None:
        """The window begins."""
        self._before = {name: one.cpu_seconds() for name, one in self._of.items() if one}

    def end(self) -> None:
        """The window ends."""
        self.spent = {name: one.cpu_seconds() - self._before[name] for name, one in self._of.items() if one}
        ours = sum(spent for name, spent in self.spent.items() if name != "others")
        # The kernel counts a core's time in hundredths of a second.
        self.spent["others"] = max(0.0, self.spent["others"] - ours) / 2

    def shares(self, came: Came) -> Figures:
        """How busy each was, as a share of a core."""
        return {f"{name} busy": spent / came.seconds for name, spent in self.spent.items()}

    def cost(self, of: int) -> Figures:
        """Microseconds of the contender's CPU for each of so many, if there is a contender."""
        spent = self.spent.get("proxy")
        return {} if spent is None or not of else {"cpu": spent / of * _MICRO}


class Measures:
    """All measures, on one stub.

    Args:
        plan: How long they take.
        stub: Its processes.
        load: This process.
    """

    def __init__(self, plan: Plan, stub: Timed, load: Timed) -> None:
        self.plan, self._stub, self._load = plan, stub, load

    def all(self) -> dict[str, Callable[[Target], Awaitable[Result]]]:
        """Those of a round, by name, in their order."""

        def of_size(size: int) -> Callable[[Target], Awaitable[Result]]:
            return lambda target: self.requests(target, size)

        return {
            **{f"requests {name}": of_size(size) for name, size in BODIES.items()},
            "events back to back": self.events_back_to_back,
            "events paced": self.events_paced,
            "latency": self.latency,
            "first token": self.first_token,
        }

    async def requests(self, target: Target, size: int, *, seconds: float | None = None) -> Result:
        """Requests a second and their cost, on 32 connections that ask again at once."""
        asked = messages.request(messages.chat_body(size), target.key)
        meter = self._meter(target)
        window = self._window(meter, self.plan.requests if seconds is None else seconds)
        came = await Load(target.port).again_and_again(asked, CONNECTIONS, window)
        rate = {"rate": came.answers / came.seconds}
        return Result(rate | meter.cost(came.answers) | meter.shares(came), came.errors)

    async def events_back_to_back(self, target: Target) -> Result:
        """Cost of an event when 64 streams come as quickly as they are taken."""
        body = messages.chat_body(700, events=BACK_TO_BACK_EVENTS)
        meter = self._meter(target)
        window = self._window(meter, self.plan.back_to_back)
        came = await Load(target.port).again_and_again(
            messages.request(body, target.key), BACK_TO_BACK, window, streamed=BACK_TO_BACK_EVENTS
        )
        rate = {"rate": came.events / came.seconds}
        return Result(rate | meter.cost(came.events) | meter.shares(came), came.errors)

    async def events_paced(self, target: Target) -> Result:
        """Cost of an event when 200 streams have 50 a second each, and how late they come."""
        warm = self.plan.warm + 0.5
        events = int((self.plan.paced + warm + 30) * PACED_RATE)
        body = messages.chat_body(700, events=events, rate=PACED_RATE)
        meter = self._meter(target)
        window = self._window(meter, self.plan.paced, warm=warm)
        came = await Load(target.port).paced(messages.request(body, target.key), PACED, PACED_RATE, window)
        figures: Figures = {"in time": came.events / (came.seconds * PACED * PACED_RATE)}
        if came.times:
            figures["late p99 ms"] = percentile(came.times, 99) * 1000
        return Result(figures | meter.cost(came.events) | meter.shares(came), came.errors)

    async def latency(self, target: Target) -> Result:
        """From a request's first byte to its answer's last, at 200 a second."""
        asked = messages.request(messages.chat_body(700), target.key)
        meter = self._meter(target)
        window = self._window(meter, self.plan.latency)
        came = await Load(target.port).at_a_rate(asked, REQUESTS_A_SECOND, window)
        return Result(_times(came) | meter.shares(came), came.errors)

    async def first_token(self, target: Target) -> Result:
        """From a request's first byte to the first event of its stream, 40 streams begun a second."""
        body = messages.chat_body(700, events=STREAM_EVENTS, rate=PACED_RATE)
        meter = self._meter(target)
        window = self._window(meter, self.plan.latency)
        came = await Load(target.port).at_a_rate(
            messages.request(body, target.key), STREAMS_A_SECOND, window, first=True
        )
        return Result(_times(came) | meter.shares(came), came.errors)

    async def memory(self, target: Target) -> Result:
        """Memory after some requests, and then with 1,000 open streams of an event a second each."""
        warm = await self.requests(target, 700, seconds=0.3)
        if target.started is None:
            raise ValueError("there is nothing whose memory could be looked at")
        await asyncio.sleep(0.5)
        idle, _ = target.started.memory()
        body = messages.chat_body(700, events=600, rate=1)
        seen: list[tuple[int, int]] = []
        started = target.started
        window = Window(2.0, 0.2, lambda: None, lambda: seen.append(started.memory()))
        came = await Load(target.port).paced(messages.request(body, target.key), self.plan.streams, 1, window)
        pss, rss = seen[0]
        figures: Figures = {
            "idle MB": idle / 1e6,
            "open MB": pss / 1e6,
            "open rss MB": rss / 1e6,
            "stream KB": (pss - idle) / 1e3 / self.plan.streams,
            "streams": came.answers,
        }
        return Result(figures, came.errors + warm.errors)

    def _meter(self, target: Target) -> Meter:
        return Meter(target, self._stub, self._load)

    def _window(self, meter: Meter, seconds: float, warm: float | None = None) -> Window:
        return Window(self.plan.warm if warm is None else warm, seconds, meter.begin, meter.end)


def percentile(values: list[float], which: int) -> float:
    """A percentile, 1 to 99, of at least one value."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[which - 1]


def _times(came: Came) -> Figures:
    if not came.times:
        return {}
    return {"p50 ms": percentile(came.times, 50) * 1000, "p99 ms": percentile(came.times, 99) * 1000}
