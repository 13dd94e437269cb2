"""Whatever happens to the database, the spool and the process: each request has one record, and one only."""

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy import delete

from citadel_llm.config.gateway import Accounting
from citadel_llm.gateway.accounting import AccountingMetrics, frames, reader, spool
from citadel_llm.gateway.accounting.shipper import Shipper
from citadel_llm.gateway.accounting.spool import SpoolWriter
from citadel_llm.store import StoreError
from citadel_llm.store.database import Database
from citadel_llm.store.usage_tables import usage_days, usage_records, usage_runs

from .spools import FlakyDelivery, begun, by_request, check_sums, ended

# Takes seconds.
pytestmark = pytest.mark.lab

STEPS = ("begin", "begin", "end", "end", "deliver", "deliver", "fail before", "fail after", "die", "stop")


@contextmanager
def small_parts() -> Iterator[None]:
    """Segments, chunks and batches of a few records each, so that a test meets all their borders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "SEGMENT_BYTES", 700)
        patch.setattr(reader, "_CHUNK_BYTES", 400)
        patch.setattr(reader, "_FEW_RECORDS", 2)
        patch.setattr(reader, "MOST_FRAME_BYTES", 256)
        patch.setattr(frames, "MOST_FRAME_BYTES", 256)
        yield


def _forget_all(database: Database, spool_dir: Path) -> None:
    """Both are one for all examples of a test, and each begins with nothing."""
    with database.writing() as connection:
        for table in (usage_records, usage_days, usage_runs):
            connection.execute(delete(table))
    shutil.rmtree(spool_dir, ignore_errors=True)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


class Site:
    """Gateway processes, one after the other, on one spool and one database."""

    def __init__(self, root: Path, database: Database) -> None:
        self.accounting = Accounting(spool_dir=root, keep_days=36500)
        self.metrics = AccountingMetrics(CollectorRegistry())
        self.delivery = FlakyDelivery(database)
        self.open: dict[str, int] = {}
        self.ended: dict[str, int] = {}  # tokens produced
        self.cut_off: set[str] = set()
        self.begun = 0
        self.start()

    def start(self) -> None:
        self.writer = SpoolWriter(self.accounting.spool_dir, 1 << 20, self.metrics)
        self.shipper = Shipper(self.accounting, self.writer, self.delivery, self.metrics, Event())

    def begin(self) -> None:
        self.begun += 1
        name = f"request-{self.begun}"
        self.open[name] = self.writer.begin(begun(name))

    def end(self, choice: random.Random) -> None:
        if self.open:
            name = choice.choice(sorted(self.open))
            self.ended[name] = len(self.ended)
            self.writer.end(self.open.pop(name), ended(self.ended[name]))

    def deliver(self) -> None:
        self.shipper._next_try = self.shipper._next_adoption = 0.0
        self.shipper.tend()

    def die(self, choice: random.Random) -> None:
        """As by kill -9, in the middle of writing a record, of which the beginning is left."""
        segment = self.writer.segment
        if segment is not None:
            whole = frames.frame(frames.BEGIN, 10**6, begun("torn"))
            torn = whole[: min(choice.randrange(len(whole)), segment.size - segment.at)]
            segment.map[segment.at : segment.at + len(torn)] = torn
        self.writer.release()
        self._all_cut_off()
        self.start()

    def stop(self) -> None:
        """As by systemctl stop: what is left is delivered, if the database is there."""
        self.writer.close()
        with suppress(StoreError):  # as the thread does: the next process has to do it
            self.shipper.finish()
        self.writer.release()
        self._all_cut_off()
        self.start()

    def _all_cut_off(self) -> None:
        self.cut_off |= set(self.open)
        self.open.clear()

    def check(self) -> None:
        """After the last process: everything is there, once, and as it was."""
        self.stop()
        self.delivery.failures.clear()
        self.deliver()
        found = by_request(self.delivery.database)
        assert set(found) == set(self.ended) | self.cut_off
        for name, tokens in self.ended.items():
            assert (found[name]["tokens_in"], found[name]["tokens_out"]) == (11, tokens)
            assert (found[name]["status"], found[name]["estimated"]) == (200, False)
        for name in self.cut_off:
            assert (found[name]["tokens_in"], found[name]["tokens_out"]) == (7, 0)
            assert (found[name]["status"], found[name]["estimated"]) == (0, True)
        check_sums(self.delivery.database)
        assert self.metrics.damaged._value.get() == 0
        assert self.metrics.lost._value.get() == 0
        assert not [path for path in self.accounting.spool_dir.iterdir() if path != self.writer.folder]
        self.writer.release()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(steps=["begin", "end", "deliver", "die"], choice=seeded(1))
@example(steps=["begin", *["begin", "end", "deliver"] * 12, "die"], choice=seeded(2))
@example(steps=["begin", "end", "fail after", "deliver", "deliver", "die"], choice=seeded(3))
@example(steps=["begin", "begin", "end", "fail after", "deliver", "die"], choice=seeded(4))
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=12, max_size=60), choice=st.randoms(use_true_random=False)
)
def test_each_request_is_recorded_once(
    steps: list[str], choice: random.Random, database: Database, tmp_path: Path
) -> None:
    _forget_all(database, tmp_path / "spool")
    with small_parts():
        site = Site(tmp_path / "spool", database)
        for step in steps:
            match step.split():
                case ["begin"]:
                    site.begin()
                case ["end"]:
                    site.end(choice)
                case ["deliver"]:
                    site.deliver()
                case ["fail", when]:
                    site.delivery.failures.append(when)
                case ["die"]:
                    site.die(choice)
                case _:
                    site.stop()
        site.check()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hits=st.lists(st.integers(0, 10**6), min_size=1, max_size=3), choice=st.randoms(use_true_random=False))
def test_a_damage_costs_no_record_but_those_it_hits(
    hits: list[int], choice: random.Random, database: Database, tmp_path: Path
) -> None:
    _forget_all(database, tmp_path / "spool")
    with small_parts():
        site = Site(tmp_path / "spool", database)
        written: list[tuple[int, int, int, str]] = []  # each record's segment, its place, its request
        for number in range(24):
            name = f"request-{number + 1}"
            site.begin()
            written.append(_place(site.writer, name))
            if number % 3:
                site.writer.end(site.open.pop(name), ended(number))
                written.append(_place(site.writer, name))
        site.writer.release()
        hurt = set()
        for hit in hits:
            segment, start, end, name = written[hit % len(written)]
            place = choice.randrange(start, end)
            path = site.writer.folder / f"{segment:08}.seg"
            content = bytearray(path.read_bytes())
            content[place] ^= 1 << choice.randrange(8)
            path.write_bytes(content)
            hurt.add(name)
        site.start()
        site.deliver()
        site.writer.release()
        found = by_request(database)
        assert {name for *_, name in written} - set(found) <= hurt
        for name in set(found) - hurt:
            assert found[name]["estimated"] == (name in site.open)


def _place(writer: SpoolWriter, name: str) -> tuple[int, int, int, str]:
    """Where the record that was written last stands."""
    segment = writer.segment
    assert segment
    start = max(segment.map.rfind(mark, 0, segment.at) for mark in (frames.BEGIN, frames.END))
    return segment.number, start, segment.at, name
