"""A real PostgreSQL, killed and started again under load; and a gateway's process killed with it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter
from tests.postgres import PostgresServer, postgres_server

from citadel_llm.gateway.accounting import Ledger
from citadel_llm.store.database import Database

from .spools import begun, by_request, check_sums, ended, make_settings, until

pytestmark = pytest.mark.lab
PROJECT = Path(__file__).parents[2]

# A gateway's accounting under load: what it was asked to note, it says when that was noted.
GATEWAY = """
import asyncio, os, random, sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter
from citadel_llm.gateway.accounting import Ledger
from tests.accounting.spools import begun, ended, make_settings

async def main():
    ledger = Ledger(make_settings(sys.argv[1], Path(sys.argv[2])), CollectorRegistry())
    async with ledger.running():
        opened, count = [], 0
        while True:
            for _ in range(20):
                count += 1
                name = f"{os.getpid()}-{count}"
                number = ledger.begin(begun(name))
                os.write(1, f"begun {name}\\n".encode())
                opened.append((name, number))
            while len(opened) > 50:
                name, number = opened.pop(random.randrange(50))
                ledger.end(number, ended(1))
                os.write(1, f"ended {name}\\n".encode())
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


async def test_a_database_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with postgres_server() as server:
        registry = CollectorRegistry()
        ledger = Ledger(make_settings(server.url, tmp_path / "spool"), registry)
        slowest, number, stop = 0.0, 0, False

        async def load() -> None:
            nonlocal slowest, number
            open_: list[int] = []
            while not stop:
                for _ in range(8):
                    number += 1
                    begin = time.perf_counter()
                    open_.append(ledger.begin(begun(f"request-{number}")))
                    if len(open_) > 100:
                        ledger.end(open_.pop(number * 31 % 100), ended(number % 7))
                    slowest = max(slowest, time.perf_counter() - begin)
                await asyncio.sleep(0.01)
            for each in open_:
                ledger.end(each, ended(1))

        async with ledger.running():
            loading = asyncio.create_task(load())
            for kill in range(5):
                await asyncio.sleep(0.5 + kill / 7)
                await asyncio.to_thread(server.stop)
                await until(more_than(ledger.metrics.errors, ledger.metrics.errors._value.get()))
                delivered = ledger.metrics.counted._value.get()
                await asyncio.to_thread(server.start)
                await until(more_than(ledger.metrics.counted, delivered), 60)
            stop = True
            await loading
            await until(lambda: ledger.metrics.counted._value.get() >= number - 1000, 120)
        database = Database(server.url)
        found = by_request(database)
        assert set(found) == {f"request-{each}" for each in range(1, number + 1)}
        assert not [record for record in found.values() if record["estimated"]]
        check_sums(database)
        database.close()
        assert slowest < 1, "no request waited for the database"
        assert registry.get_sample_value("citadel_gateway_usage_lost_total") == 0
        print(f"{number} requests, slowest {slowest * 1e3:.1f} ms")  # noqa: T201


async def test_gateways_that_are_killed_with_their_database_lose_and_double_nothing(tmp_path: Path) -> None:
    with postgres_server() as server:
        said = "".join([run_and_kill(server, tmp_path / "spool", end) for end in ("gateway", "both", "both")])
        told = [line.split() for line in said.split("\n") if line.count(" ") == 1]
        begun_ = {name for word, name in told if word == "begun"}
        ended_ = {name for word, name in told if word == "ended"}
        ledger = Ledger(make_settings(server.url, tmp_path / "spool"), CollectorRegistry())
        async with ledger.running():
            await until(lambda: len(list((tmp_path / "spool").iterdir())) == 1, 60)
        database = Database(server.url)
        found = by_request(database)
        assert begun_ <= set(found)
        assert len(found) <= len(begun_) + 3, "each killed process may have noted one that it did not tell"
        cut_off = {name for name, record in found.items() if record["estimated"]}
        assert not cut_off & ended_
        assert len(begun_ - ended_ - cut_off) <= 3, "nor more ends"
        assert 3 * 30 < len(cut_off) < 3 * 80
        check_sums(database)
        database.close()


def more_than(counter: Counter, count: float) -> Callable[[], bool]:
    return lambda: bool(counter._value.get() > count)


def run_and_kill(server: PostgresServer, spool: Path, what: str) -> str:
    """Let a gateway work for a while, kill it, or the database and then it, and return what it said."""
    command = [sys.executable, "-c", GATEWAY, server.url, str(spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT) as child:
        assert child.stdout
        said = b""
        try:
            for lines in (4000, 6000):
                while said.count(b"\n") < lines:
                    more = os.read(child.stdout.fileno(), 65536)
                    assert more, "the gateway ended by itself"
                    said += more
                if lines == 4000 and what == "both":
                    server.stop()
        finally:
            child.send_signal(signal.SIGKILL)
        said += child.stdout.read()
    if what == "both":
        server.start()
    return said.decode()
