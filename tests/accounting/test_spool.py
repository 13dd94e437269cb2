"""The spool when there is no room, when two processes share it, and when one is killed."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from citadel_llm.gateway.accounting import AccountingMetrics, Ledger, spool
from citadel_llm.gateway.accounting.folders import abandoned_runs, clear, make_run, remove_run, segments_of
from citadel_llm.gateway.accounting.reader import RunReader
from citadel_llm.gateway.accounting.spool import SpoolWriter
from citadel_llm.store.database import Database
from citadel_llm.store.usage_delivery import Position, UsageRecord

from .spools import begun, by_request, check_sums, ended, make_settings, make_writer, until

PROJECT = Path(__file__).parents[2]


def read_all(writer: SpoolWriter) -> list[UsageRecord]:
    """What another process would find in a closed spool."""
    writer.close()
    writer.release()
    damaged: list[None] = []
    reader = RunReader(writer.folder, Position(0, 0), None, lambda: damaged.append(None))
    found: list[UsageRecord] = []
    while batch := reader.batch():
        found += batch.records
        if batch.finished:
            break
        reader.took()
    assert not damaged
    return found


def test_records_wait_in_memory_while_the_disk_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make_writer(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))  # no file may grow beyond that
    try:
        writer.prepare()
        assert writer.problem == os.strerror(27)
        first, second = writer.begin(begun("first")), writer.begin(begun("second"))
        writer.end(first, ended(1))
        assert writer.holding
        assert not segments_of(writer.folder), "what could not be made whole is not left half"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.prepare()
    writer.end(second, ended(2))
    assert not writer.holding
    assert {(each.request, each.tokens_out) for each in read_all(writer)} == {("first", 1), ("second", 2)}


def test_what_the_memory_cannot_hold_either_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_HELD_BYTES", 400)
    monkeypatch.setattr(spool, "_HELD_BYTES_BEGINS", 250)
    root = tmp_path / "file"
    root.write_text("no folder can be made here")
    writer = SpoolWriter(root / "spool", 1 << 20, metrics := AccountingMetrics(CollectorRegistry()))
    numbers = [writer.begin(begun(f"request-{number}")) for number in range(5)]
    kept = [number for number in numbers if number]
    for number in numbers:
        writer.end(number, ended(number))
    assert 1 < len(kept) < 5
    assert metrics.lost._value.get() == 5 - len(kept)
    root.unlink()
    writer.prepare()
    writer.write_held()
    assert [(each.number, each.tokens_out) for each in read_all(writer)] == [(n, n) for n in kept]


def test_the_spool_does_not_outgrow_its_limit(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    count = 0
    while not writer.holding:
        writer.begin(begun(f"request-{count}"))
        count += 1
    assert sum(path.stat().st_size for _, path in segments_of(writer.folder)) <= 1 << 20
    assert "spool_max_bytes" in writer.problem
    assert count > 5000, "and it uses what it may"
    assert writer.tail().segment == 8
    writer.release()


def test_a_spool_belongs_to_one_living_process(tmp_path: Path) -> None:
    old, new = make_writer(tmp_path), make_writer(tmp_path)
    for each in (old, new):
        each.begin(begun("request"))
    assert list(abandoned_runs(tmp_path)) == []
    old.release()
    for folder in abandoned_runs(tmp_path):
        assert folder == old.folder
        assert list(abandoned_runs(tmp_path)) == [], "nor do two take over the same one"
        remove_run(folder)
    assert not old.folder.exists()
    new.release()


def test_remains_are_cleared_away(tmp_path: Path) -> None:
    os.close(make_run(tmp_path, "kept"))
    for name in (".done-run", ".new-dead", ".new-making"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".new-dead", (0, 0))
    clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"kept", ".new-making"}


CHILD = """
import os, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from citadel_llm.gateway.accounting.metrics import AccountingMetrics
from citadel_llm.gateway.accounting.records import Begun, Ended
from citadel_llm.gateway.accounting.spool import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]), 8 << 20, AccountingMetrics(CollectorRegistry()))
opened = []
for count in range(10**9):
    name = f"{os.getpid()}-{count}"
    number = writer.begin(Begun(name, 1.7e9, "key-1", "red", "small", "/v1/completions", "small", 7))
    os.write(1, f"begun {name}\\n".encode())
    opened.append((name, number))
    if len(opened) > 16:
        name, number = opened.pop(count % 16)
        writer.end(number, Ended(200, 11, 3, count, 0.25, 1.5, False))
        os.write(1, f"ended {name} {count}\\n".encode())
"""


@pytest.mark.lab
async def test_after_kill_9_every_request_has_its_record(
    tmp_path: Path, database: Database, database_url: str
) -> None:
    said = ""
    for lines in (50, 1500):
        child = subprocess.Popen(  # noqa: ASYNC220 - nothing else is to run meanwhile
            [sys.executable, "-c", CHILD, tmp_path / "spool"], stdout=subprocess.PIPE, cwd=PROJECT
        )
        assert child.stdout
        with child.stdout:
            read = b""
            while read.count(b"\n") < lines:
                read += os.read(child.stdout.fileno(), 65536)
            child.send_signal(signal.SIGKILL)
            said += (read + child.stdout.read()).decode()
        child.wait()
    told = [line.split() for line in said.split("\n") if line.count(" ") == 1 + line.startswith("ended")]
    names = {name for word, name, *_ in told if word == "begun"}
    tokens = {name: int(rest[0]) for word, name, *rest in told if word == "ended"}
    ledger = Ledger(make_settings(database_url, tmp_path / "spool"), CollectorRegistry())
    async with ledger.running():
        await until(lambda: len(list((tmp_path / "spool").iterdir())) == 1)
    found = by_request(database)
    # Killed between noting and saying so, a process has noted one more.
    assert names <= set(found)
    assert len(found) <= len(names) + 2
    for name, count in tokens.items():
        assert (found[name]["tokens_out"], found[name]["estimated"]) == (count, False)
    cut_off = [record for record in found.values() if record["estimated"]]
    assert 16 <= len(cut_off) <= 2 * 18
    assert {(record["status"], record["tokens_in"], record["tokens_out"]) for record in cut_off} == {
        (0, 7, 0)
    }
    check_sums(database)
    assert not list((tmp_path / "spool").iterdir())


async def test_a_database_that_is_away_keeps_nobody_waiting_and_loses_nothing(
    tmp_path: Path, migrated: Path
) -> None:
    folder = tmp_path / "late"
    registry = CollectorRegistry()
    ledger = Ledger(make_settings(f"sqlite:///{folder}/citadel.db", tmp_path / "spool"), registry)
    async with ledger.running():
        for number in range(50):
            ledger.end(ledger.begin(begun(f"request-{number}")), ended(number))
        await until(lambda: ledger.metrics.errors._value.get() >= 1)
        folder.mkdir()
        await until(lambda: ledger.metrics.counted._value.get() == 50)
        await until(lambda: registry.get_sample_value("citadel_gateway_usage_undelivered_bytes") == 0)
        ledger.begin(begun("open"))
    database = Database(f"sqlite:///{folder}/citadel.db")
    found = by_request(database)
    assert len(found) == 51
    assert found["open"]["estimated"]
    check_sums(database)
    database.close()
    assert not list((tmp_path / "spool").iterdir()), "what is delivered is gone"
