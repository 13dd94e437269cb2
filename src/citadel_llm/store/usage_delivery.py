"""Usage goes into the database: batches of records, each once.

In one transaction the records are inserted, the sums of their days raised, and the position of their spool
moved on from where the batch begins. A batch whose transaction was committed though nobody heard of it is
known again by that position. Rows go past SQLAlchemy's own machinery, to PostgreSQL as one JSON parameter:
the interpreter that does this serves requests at the same time, and this costs it the least.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, delete, insert, select, text, tuple_, update
from sqlalchemy.exc import IntegrityError

from citadel_llm.store.database import Database
from citadel_llm.store.errors import StoreError, StoreUnavailableError
from citadel_llm.store.usage_tables import usage_days, usage_records, usage_runs

_ERRORS_FROM = 400
_DAY = 86400
_EPOCH = date(1970, 1, 1).toordinal()
_LARGEST, _LARGEST_STATUS = 2**53, 999
_LATEST = 253_402_300_799.0  # the last second of the year 9999

_RECORD_COLUMNS = tuple(column.name for column in usage_records.columns if column.name != "run")
_SUM_COLUMNS = tuple(column.name for column in usage_days.columns)
_SUM_NAMES = ", ".join(_SUM_COLUMNS)
_RAISED = tuple(column.name for column in usage_days.columns if not column.primary_key)
_RAISE_SUMS = (
    f"ON CONFLICT ({', '.join(column.name for column in usage_days.primary_key)}) DO UPDATE SET "
    + ", ".join(f"{name} = usage_days.{name} + excluded.{name}" for name in _RAISED)
)
# As SQLAlchemy writes a moment into SQLite, and reads it there.
_SQLITE_MOMENT = "strftime('%Y-%m-%d %H:%M:%f000', ?, 'unixepoch')"


class Position(NamedTuple):
    """A place in a spool: a segment's number, and an offset in it in bytes."""

    segment: int
    offset: int


class UsageRecord(msgspec.Struct, gc=False):
    """One request's use, as it goes into the database; times in seconds, `began` in Unix time.

    `estimated` says that the tokens are no engine's word; `status` is 0 when nobody saw the end. The fields
    are the table's columns, in its order.
    """

    number: int
    request: str
    began: float
    key_id: str
    team: str
    model: str
    route: str
    engine: str
    status: int
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    first_byte: float | None
    duration: float
    estimated: bool


@dataclass(frozen=True)
class Batch:
    """Records of one spool, to be delivered together.

    Attributes:
        before: Where the spool's delivery must stand for this batch to be the next one.
        after: Where it stands then.
        records: The requests that ended in between.
        finished: Whether the spool ends here for good.
    """

    before: Position
    after: Position
    records: Sequence[UsageRecord]
    finished: bool = False

    def made_to_fit(self) -> "Batch":
        """The same with values that every column can hold: for a batch that the database refused."""
        return replace(self, records=[_fitting(record) for record in self.records])


class StalePositionError(StoreError):
    """The database has another position for a spool than the batch begins at."""


class UsageDelivery:
    """Takes usage into the database. Its methods block.

    Args:
        database: Where to.

    Raises:
        StoreUnavailableError: From every method: the database cannot be reached or written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def position(self, run: str) -> tuple[Position, bool]:
        """How far a spool has been delivered, and whether it is finished. One that is new begins at 0, 0."""
        with self._database.writing() as connection:
            if _find(connection, run) is None:
                # One process at a time has the spool's lock: no other one makes this row.
                connection.execute(
                    insert(usage_runs).values(
                        name=run, segment=0, position=0, finished=False, touched=datetime.now(UTC)
                    )
                )
            return _find(connection, run) or (Position(0, 0), False)

    def deliver(self, run: str, batch: Batch) -> None:
        """Take a batch in, whole or not at all. One that was taken in before changes nothing.

        Raises:
            StalePositionError: The spool stands neither where the batch begins nor where it ends.
        """
        try:
            with self._database.writing() as connection:
                row = connection.execute(
                    update(usage_runs)
                    .where(
                        usage_runs.c.name == run,
                        usage_runs.c.segment == batch.before.segment,
                        usage_runs.c.position == batch.before.offset,
                        usage_runs.c.finished.is_(False),
                    )
                    .values(
                        segment=batch.after.segment,
                        position=batch.after.offset,
                        finished=batch.finished,
                        touched=datetime.now(UTC),
                    )
                    .returning(usage_runs.c.id)
                ).one_or_none()
                if row is None:
                    if _find(connection, run) != (batch.after, batch.finished):
                        raise StalePositionError("the database has another position for this spool")
                    return
                _insert(connection, row.id, batch.records)
        except IntegrityError as error:
            raise StoreUnavailableError(f"the database refuses the records: {error.orig}") from None

    def prune(self, before: datetime, most: int) -> int:
        """Delete the oldest records of requests that began before a moment, and spools forgotten since.

        Args:
            before: The moment.
            most: How many at most: the transaction should be a short one.

        Returns:
            How many were deleted.
        """
        key = (usage_records.c.run, usage_records.c.number)
        old = select(*key).where(usage_records.c.began < before).order_by(usage_records.c.began).limit(most)
        with self._database.writing() as connection:
            deleted = connection.execute(delete(usage_records).where(tuple_(*key).in_(old))).rowcount
            connection.execute(
                delete(usage_runs).where(usage_runs.c.finished.is_(True), usage_runs.c.touched < before)
            )
        return deleted


def _find(connection: Connection, run: str) -> tuple[Position, bool] | None:
    columns = (usage_runs.c.segment, usage_runs.c.position, usage_runs.c.finished)
    row = connection.execute(select(*columns).where(usage_runs.c.name == run)).one_or_none()
    return None if row is None else (Position(row.segment, row.position), row.finished)


def _insert(connection: Connection, run: int, records: Sequence[UsageRecord]) -> None:
    if not records:
        return
    sums, names = _sums(records), ", ".join(_RECORD_COLUMNS)
    into_records, into_days = f"INTO usage_records ({names}, run)", f"INTO usage_days ({_SUM_NAMES})"
    if connection.dialect.name == "postgresql":
        typed = ", ".join(f"{name} {_type(connection, name)}" for name in _RECORD_COLUMNS)
        values = names.replace("began", "timestamp 'epoch' + began * interval '1 second'")
        source = f"json_to_recordset(CAST(:rows AS json)) AS record ({typed})"
        query = text(f"INSERT {into_records} SELECT {values}, {run:d} FROM {source}")  # noqa: S608
        connection.execute(query, {"rows": _json(records)})
        source = "json_populate_recordset(CAST(NULL AS usage_days), CAST(:rows AS json))"
        query = text(f"INSERT {into_days} SELECT {_SUM_NAMES} FROM {source} {_RAISE_SUMS}")  # noqa: S608
        rows = [dict(zip(_SUM_COLUMNS, row, strict=True)) for row in sums]
        connection.execute(query, {"rows": _json(rows)})
    else:
        values = ", ".join(_SQLITE_MOMENT if name == "began" else "?" for name in _RECORD_COLUMNS)
        tuples = [msgspec.structs.astuple(record) for record in records]
        statement = f"INSERT {into_records} VALUES ({values}, {run:d})"  # noqa: S608
        connection.exec_driver_sql(statement, tuples)
        values = ", ".join("?" for _ in _SUM_COLUMNS)
        statement = f"INSERT {into_days} VALUES ({values}) {_RAISE_SUMS}"  # noqa: S608
        connection.exec_driver_sql(statement, sums)


def _json(rows: Sequence[object]) -> str:
    return msgspec.json.encode(rows).decode()


def _type(connection: Connection, name: str) -> str:
    """A record's column as JSON has it."""
    if name == "began":
        return "double precision"
    return usage_records.c[name].type.compile(connection.dialect)


def _sums(records: Iterable[UsageRecord]) -> list[tuple[object, ...]]:
    """The records added up by day (UTC, of the begin), key, team and model: rows of `_SUM_COLUMNS`.

    In order: gateways that raise the same rows at once would wait for each other crosswise otherwise.
    """
    sums: dict[tuple[int, str, str, str], list[float]] = {}
    for record in records:
        group = (int(record.began // _DAY), record.key_id, record.team, record.model)
        row = sums.get(group)
        if row is None:
            row = sums[group] = [0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0]
        row[0] += 1
        row[1] += record.status == 0 or record.status >= _ERRORS_FROM
        row[3] += record.tokens_in
        row[4] += record.tokens_cached
        row[5] += record.tokens_out
        if record.estimated:
            row[2] += 1
            row[6] += record.tokens_in + record.tokens_out
        if record.first_byte is not None:
            row[7] += 1
            row[8] += record.first_byte
        row[9] += record.duration
    return [
        (str(date.fromordinal(_EPOCH + day)), *names, *row) for (day, *names), row in sorted(sums.items())
    ]


def _fitting(record: UsageRecord) -> UsageRecord:
    columns = usage_records.c
    values: dict[str, Any] = {}
    for name in _RECORD_COLUMNS:
        value = getattr(record, name)
        if isinstance(value, str):
            values[name] = value.replace("\0", "")[: getattr(columns[name].type, "length", None)]
        elif isinstance(value, float):
            values[name] = min(max(value, 0.0), _LATEST) if math.isfinite(value) else 0.0
        elif isinstance(value, int) and not isinstance(value, bool):
            values[name] = min(max(value, 0), _LARGEST_STATUS if name == "status" else _LARGEST)
        else:
            values[name] = value
    return UsageRecord(**values)
