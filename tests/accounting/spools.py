"""What the tests of the accounting share: records, a delivery that fails when told to, what came of it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy import select

from citadel_llm.config import Settings
from citadel_llm.gateway.accounting import AccountingMetrics, Begun, Ended
from citadel_llm.gateway.accounting.spool import SpoolWriter
from citadel_llm.store import StoreUnavailableError
from citadel_llm.store.database import Database
from citadel_llm.store.usage_delivery import Batch, Position, UsageDelivery
from citadel_llm.store.usage_tables import usage_days, usage_records

NOON = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


def begun(name: str, **fields: Any) -> Begun:
    values: dict[str, Any] = {
        "id": name,
        "began": NOON,
        "key_id": "key-1",
        "team": "red",
        "model": "small",
        "route": "/v1/completions",
        "engine": "small",
        "prompt_estimate": 7,
    }
    return Begun(**(values | fields))


def ended(tokens_out: int = 5, **fields: Any) -> Ended:
    values: dict[str, Any] = {
        "status": 200,
        "tokens_in": 11,
        "tokens_cached": 3,
        "tokens_out": tokens_out,
        "first_byte": 0.25,
        "duration": 1.5,
        "estimated": False,
    }
    return Ended(**(values | fields))


def make_writer(root: Path, max_bytes: int = 1 << 20) -> SpoolWriter:
    return SpoolWriter(root, max_bytes, AccountingMetrics(CollectorRegistry()))


def make_settings(database_url: str, spool: Path, **accounting: Any) -> Settings:
    gateway = {
        "database": database_url,
        "accounting": {"spool_dir": str(spool), "flush_seconds": 0.05, "keep_days": 36500},
    }
    gateway["accounting"] |= accounting  # type: ignore[operator]
    return Settings.model_validate({"environment": "development", "gateway": gateway})


@dataclass
class FlakyDelivery(UsageDelivery):
    """The real one, but for the next attempts: they fail `before` the commit, or `after` it."""

    database: Database
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.database)

    def position(self, run: str) -> tuple[Position, bool]:
        self._fail("before")
        return super().position(run)

    def deliver(self, run: str, batch: Batch) -> None:
        self._fail("before")
        super().deliver(run, batch)
        self._fail("after")

    def _fail(self, when: str) -> None:
        if self.failures and self.failures[0] == when:
            self.failures.pop(0)
            raise StoreUnavailableError("the database is away")


def records(database: Database) -> list[dict[str, Any]]:
    with database.reading() as connection:
        return [dict(row) for row in connection.execute(select(usage_records)).mappings()]


def by_request(database: Database) -> dict[str, dict[str, Any]]:
    """The records by their request's id, each of which is there once."""
    found = records(database)
    named = {str(record["request"]): record for record in found}
    assert len(named) == len(found), "a request stands there twice"
    return named


def check_sums(database: Database) -> None:
    """The sums by day say what the records say."""
    with database.reading() as connection:
        days = connection.execute(select(usage_days)).mappings().all()
    found = records(database)
    for name in ("tokens_in", "tokens_cached", "tokens_out", "estimated"):
        assert sum(day[name] for day in days) == sum(record[name] for record in found), name
    assert sum(day["requests"] for day in days) == len(found)


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
