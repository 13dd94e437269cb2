"""One run: the stub, the contenders, their rounds, and the end of all of them."""

import asyncio
import gc
import os
import platform
import resource
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.key_limits.valkey_server import ValkeyServer

from bench import contenders, messages, ours, processes
from bench.checks import check, wait_until_it_answers
from bench.command import Say
from bench.contender import Contender, Engine
from bench.figures import DIRECT, WORKERS
from bench.measures import Measures, Plan, Result, Target
from bench.peers import ROOT, Peers
from bench.processes import Myself, Started

_FILES = 16384


@dataclass
class Run:
    """What a run gave.

    Attributes:
        figures: By contender, measure and figure: the values of the rounds.
        errors: By contender and measure: what went wrong, and how often.
        left_out: Contenders that did not do the work, and why.
        seconds: How long it took.
    """

    figures: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    errors: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def note(self, contender: str, measure: str, result: Result) -> None:
        """Keep a measure's result."""
        figures = self.figures.setdefault(contender, {}).setdefault(measure, {})
        for name, value in result.figures.items():
            figures.setdefault(name, []).append(round(value, 4))
        if result.errors:
            errors = self.errors.setdefault(contender, {})
            errors[measure] = dict(Counter(errors.get(measure, {})) + result.errors)


class Bench:
    """Puts all contenders through all measures.

    Args:
        plan: How long it takes.
        peers: Where the peers are; without, our gateway runs alone.
        only: Names of those to run; all when empty.
        say: Told what goes on.
    """

    def __init__(self, plan: Plan, peers: Peers | None, only: set[str], say: Say) -> None:
        self._plan, self._peers, self._only, self._say = plan, peers, only, say
        self.contenders: list[Contender] = []
        self.run = Run()

    async def go(self) -> Run:
        """Run; nothing that it started is left, however it ends."""
        began = time.monotonic()
        proxies, load = processes.cores()
        with _folder() as folder, _on_core(load):
            async with _stub(folder, load) as (stub, engine):
                self.contenders = [
                    one
                    for one in contenders.all_of(engine, self._peers)
                    if not self._only or one.name in self._only
                ]
                measures = Measures(self._plan, stub, Myself())
                await self._rounds(measures, engine, proxies)
                await self._memory(measures, engine, proxies)
                if not self._only or ours.GATEWAY in self._only:
                    await self._workers(measures, engine, proxies)
        self.run.seconds = round(time.monotonic() - began, 1)
        return self.run

    async def _rounds(self, measures: Measures, engine: Engine, core: int) -> None:
        targets = [Target(DIRECT, engine.port, "", None)]
        started: list[Started] = []
        try:
            for contender in self.contenders:
                target = await self._start(contender, engine, core, started)
                if target:
                    targets.append(target)
            for target in targets:
                self._say(f"warming up: {target.name}")
                await measures.requests(target, 700, seconds=0.5)
            # Of what is there by now, nothing is garbage; what comes is collected between measures.
            gc.collect()
            gc.freeze()
            for number in range(self._plan.rounds):
                # Whoever was first is last the next time.
                order = [*targets[number % len(targets) :], *targets[: number % len(targets)]]
                for name, measure in measures.all().items():
                    for target in order:
                        await self._take(f"round {number + 1} of {self._plan.rounds}", name, target, measure)
        finally:
            for one in started:
                one.end()

    async def _memory(self, measures: Measures, engine: Engine, core: int) -> None:
        """Each anew, so that nothing of the rounds is in it."""
        for contender in self.contenders:
            if contender.name in self.run.left_out:
                continue
            started: list[Started] = []
            try:
                target = await self._start(contender, engine, core, started)
                if target:
                    await self._take("memory", "memory", target, measures.memory)
            finally:
                for one in started:
                    one.end()

    async def _workers(self, measures: Measures, engine: Engine, core: int) -> None:
        """One worker and two, in turn, with a store for their limits."""
        store = ValkeyServer(engine.folder)
        started: list[Started] = []
        try:
            store.start()
            targets = [
                await self._start(ours.gateway(engine, count, store.url), engine, core, started)
                for count in WORKERS
            ]
            for number in range(self._plan.rounds):
                for target in filter(None, targets):
                    when = f"workers {number + 1} of {self._plan.rounds}"
                    await self._take(when, "workers", target, lambda each: measures.requests(each, 700))
        finally:
            for one in started:
                one.end()
            store.kill()

    async def _take(self, when: str, name: str, target: Target, measure: Callable[[Target], Any]) -> None:
        gc.collect()
        gc.disable()
        try:
            result = await measure(target)
        finally:
            gc.enable()
        self.run.note(target.name, name, result)
        told = ", ".join(f"{figure} {value:,.4g}" for figure, value in result.figures.items())
        errors = f"; ERRORS {dict(result.errors.most_common(3))}" if result.errors else ""
        self._say(f"{when}, {name}: {target.name}: {told}{errors}")
        # What it still has to clear away is not the next one's load.
        await asyncio.sleep(0.2)

    async def _start(
        self, contender: Contender, engine: Engine, core: int, started: list[Started]
    ) -> Target | None:
        """Start one and look whether it does the work; one that does not is left out, and said to be."""
        folder = engine.folder / contender.name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        port = free_port()
        try:
            process = contender.start(folder, port, core)
            started.append(process)
            target = Target(contender.name, port, contender.key(), process)
            await wait_until_it_answers(target, lambda: process.process.poll() is None)
            await check(target, engine.port)
        except Exception as error:
            tail = _tail(folder)
            self.run.left_out[contender.name] = str(error)
            self._say(f"LEFT OUT: {contender.name}: {error}{tail}")
            return None
        self._say(f"ready: {contender.name}")
        return target


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder with a short name: sockets' paths may have 107 letters."""
    folder = Path(tempfile.mkdtemp(prefix="citadel-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Run on one core for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@asynccontextmanager
async def _stub(folder: Path, core: int) -> AsyncIterator[tuple[Started, Engine]]:
    (folder / "engines").mkdir()
    engine = Engine(folder, folder / "engines" / f"{messages.MODEL}.sock", free_port())
    log = folder / "stub.log"
    started = processes.start(
        "stub",
        [ROOT / ".venv/bin/python", "-m", "bench.stub", engine.socket, str(engine.port)],
        core=core,
        log=log,
        environment={"PYTHONPATH": str(ROOT)},
    )
    try:
        end = time.monotonic() + 10
        while "ready" not in log.read_text():
            if time.monotonic() > end or started.process.poll() is not None:
                raise RuntimeError(f"the stub did not start: {log.read_text()[-500:]}")
            await asyncio.sleep(0.05)
        yield started, engine
    finally:
        started.end()


def free_port() -> int:
    """A port of the loopback that is free, as is the next one."""
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                with socket.create_server(("127.0.0.1", port + 1)):
                    return port
            except (OSError, OverflowError):
                continue
    raise RuntimeError("no free port")


def machine() -> dict[str, Any]:
    """What it ran on."""
    told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "kernel": platform.release().split("-")[0],
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "python": platform.python_version(),
    }


def raise_limits() -> None:
    """Allow as many open files as there are connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _tail(folder: Path) -> str:
    logs = sorted(folder.glob("log*"))
    text = "".join(log.read_text(errors="replace")[-1500:] for log in logs)
    return f"\n{text}" if text else ""
