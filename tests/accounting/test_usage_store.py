"""Usage in SQL: what is refused, what is pruned, and what the questions are answered."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from citadel_llm.store import KeyStore, StoreUnavailableError
from citadel_llm.store.database import Database
from citadel_llm.store.usage import UsageFilter, UsageStore
from citadel_llm.store.usage_delivery import (
    Batch,
    Position,
    StalePositionError,
    UsageDelivery,
    UsageRecord,
)

from .spools import NOON, by_request, check_sums, records

DAY = date(2023, 11, 14)


def record(number: int, **fields: Any) -> UsageRecord:
    values: dict[str, Any] = {
        "number": number,
        "request": f"request-{number}",
        "began": NOON,
        "key_id": "key-1",
        "team": "red",
        "model": "small",
        "route": "/v1/completions",
        "engine": "small",
        "status": 200,
        "tokens_in": 10,
        "tokens_cached": 4,
        "tokens_out": 5,
        "first_byte": 0.5,
        "duration": 2.0,
        "estimated": False,
    }
    return UsageRecord(**(values | fields))


def batch(*rows: UsageRecord, before: int = 0, after: int = 100, finished: bool = False) -> Batch:
    return Batch(Position(int(before > 0), before), Position(1, after), rows, finished)


def deliver(database: Database, *rows: UsageRecord) -> UsageStore:
    delivery = UsageDelivery(database)
    delivery.position("run")
    delivery.deliver("run", batch(*rows))
    return UsageStore(database)


def test_a_batch_counts_once_and_only_in_its_turn(database: Database) -> None:
    delivery = UsageDelivery(database)
    assert delivery.position("run") == (Position(0, 0), False)
    delivery.deliver("run", batch(record(1)))
    delivery.deliver("run", batch(record(1)))
    assert delivery.position("run") == (Position(1, 100), False)
    with pytest.raises(StalePositionError):
        delivery.deliver("run", batch(record(2), before=50, after=200))
    delivery.deliver("run", batch(record(2), before=100, after=200, finished=True))
    assert delivery.position("run") == (Position(1, 200), True)
    with pytest.raises(StalePositionError):
        delivery.deliver("run", batch(record(3), before=200, after=300))
    delivery.position("other")
    delivery.deliver("other", batch(record(1, request="another's")))
    assert set(by_request(database)) == {"request-1", "request-2", "another's"}
    check_sums(database)


def test_a_record_stands_there_as_it_was(database: Database) -> None:
    deliver(database, record(1, began=NOON + 0.25))
    [row] = records(database)
    assert row["began"] == datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)
    assert (row["route"], row["engine"], row["first_byte"], row["duration"]) == (
        "/v1/completions",
        "small",
        0.5,
        2.0,
    )


def test_what_no_column_can_hold_stops_the_others_once_only(database: Database) -> None:
    delivery = UsageDelivery(database)
    delivery.position("run")
    bad = batch(record(1), record(2, tokens_out=2**70, team="x" * 100, duration=float("nan")))
    with pytest.raises((StoreUnavailableError, OverflowError)):
        delivery.deliver("run", bad)
    assert records(database) == []
    delivery.deliver("run", bad.made_to_fit())
    found = by_request(database)
    assert found["request-2"]["tokens_out"] == 2**53
    assert found["request-2"]["duration"] == 0
    assert found["request-2"]["team"] == "x" * 64
    check_sums(database)


def test_old_records_go_and_the_sums_stay(database: Database) -> None:
    rows = [record(number, began=NOON + number) for number in range(5)]
    store = deliver(database, *rows)
    delivery = UsageDelivery(database)
    before = datetime.fromtimestamp(NOON + 3, UTC)
    assert delivery.prune(before, 2) == 2
    assert delivery.prune(before, 2) == 1
    assert delivery.prune(before, 2) == 0
    assert set(by_request(database)) == {"request-3", "request-4"}
    assert store.sums()[0].requests == 5
    # A spool that is finished is forgotten when its records are.
    delivery.deliver("run", batch(before=100, after=100, finished=True))
    delivery.prune(datetime.now(UTC) + timedelta(seconds=1), 10)
    assert delivery.position("run") == (Position(0, 0), False)


def test_use_is_split_by_what_is_asked(database: Database) -> None:
    keys = KeyStore(database)
    key, _ = keys.create("laptop", owner="ada", team="red")
    keys.revoke(key.id)
    store = deliver(
        database,
        record(1, key_id=key.id),
        record(2, key_id=key.id, model="large", tokens_out=500, status=503, first_byte=None),
        record(3, began=NOON + 86400, estimated=True, status=0, tokens_in=7, tokens_out=0, tokens_cached=0),
        record(4, key_id="gone", team="", status=499),
    )
    [whole] = store.sums()
    assert (whole.requests, whole.failed, whole.estimated) == (4, 3, 1)
    assert (whole.tokens_in, whole.tokens_cached, whole.tokens_out) == (37, 12, 510)
    assert (whole.tokens, whole.tokens_estimated, whole.seconds) == (547, 7, 8.0)
    assert whole.first_byte == 0.5
    named = {row.key_id: (row.key_name, row.owner, row.tokens) for row in store.sums(["key"])}
    assert named == {
        key.id: ("laptop", "ada", 525),
        "gone": ("gone", None, 15),
        "key-1": ("key-1", None, 7),
    }
    by_day = store.sums(["model", "day"])
    assert [(row.day, row.model, row.requests) for row in by_day] == [
        (DAY, "large", 1),
        (DAY, "small", 2),
        (DAY + timedelta(days=1), "small", 1),
    ]
    assert [row.team for row in store.sums(["team"])] == ["red", ""]
    for only, requests in [
        (UsageFilter(key="laptop"), 2),
        (UsageFilter(key=key.id), 2),
        (UsageFilter(key_id="laptop"), 0),
        (UsageFilter(team=""), 1),
        (UsageFilter(model="small"), 3),
        (UsageFilter(until=DAY), 3),
        (UsageFilter(since=DAY + timedelta(days=1)), 1),
        (UsageFilter(since=DAY, until=DAY, team="red", model="large"), 1),
    ]:
        assert sum(row.requests for row in store.sums((), only)) == requests, only
    assert store.sums((), UsageFilter(key="nobody")) == []


def test_what_keys_have_spent(database: Database) -> None:
    month = datetime(2023, 11, 1, tzinfo=UTC).timestamp()
    store = deliver(
        database,
        record(1, began=NOON),
        record(2, began=month),
        record(3, began=month - 1),
        record(4, began=month, key_id="key-2"),
    )
    assert store.spent(datetime.fromtimestamp(NOON, UTC)) == {"key-1": (15, 30), "key-2": (0, 15)}
    assert store.spent(datetime(2024, 1, 1, tzinfo=UTC)) == {}
