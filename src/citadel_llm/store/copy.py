"""Carry keys, the audit log and usage from one database into another: from a site's own file to a server."""

from collections.abc import Iterator
from contextlib import ExitStack

from sqlalchemy import Connection, Integer, Table, delete, func, insert, select, text
from sqlalchemy.sql import Select

from citadel_llm.store import usage_tables
from citadel_llm.store.database import Database
from citadel_llm.store.errors import RefusedError
from citadel_llm.store.schema import api_key_changes, metadata

_ROWS_AT_ONCE = 1000

# Importing the tables of usage makes them known to the metadata.
_TABLES: tuple[Table, ...] = tuple(metadata.tables[name] for name in sorted(metadata.tables))
assert usage_tables.usage_records in _TABLES  # noqa: S101 - for whoever tidies up the import


class NotEmptyError(RefusedError):
    """The database to copy into holds something already."""


def copy_all(source: Database, target: Database) -> dict[str, int]:
    """Copy every row of every table, in one transaction; return how many of each.

    Both databases are brought up to date first. What the source gets meanwhile is not copied.

    Raises:
        NotEmptyError: The target holds keys, usage or entries of the audit log already.
        StoreUnavailableError: One of them cannot be reached, read or written.
    """
    with ExitStack() as stack:
        reading = stack.enter_context(source.reading())
        writing = stack.enter_context(target.writing())
        _refuse_what_is_there(writing)
        # A new database begins with a row of its own there.
        writing.execute(delete(api_key_changes))
        return {table.name: _copy(table, reading, writing) for table in _TABLES}


def _refuse_what_is_there(connection: Connection) -> None:
    holding = [
        table.name
        for table in _TABLES
        if table is not api_key_changes and connection.scalar(select(func.count()).select_from(table))
    ]
    if holding:
        raise NotEmptyError(f"the database to copy into is not empty: it has rows in {', '.join(holding)}")


def _copy(table: Table, source: Connection, target: Connection) -> int:
    count = 0
    for rows in _parts(source, select(table)):
        target.execute(insert(table), rows)
        count += len(rows)
    if count and target.dialect.name == "postgresql":
        _count_on(table, target)
    return count


def _parts(connection: Connection, query: Select[tuple[object, ...]]) -> Iterator[list[dict[str, object]]]:
    # A stream: usage may have more rows than fit into memory.
    result = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query)
    for part in result.mappings().partitions():
        yield [dict(row) for row in part]


def _count_on(table: Table, connection: Connection) -> None:
    """Let new rows get numbers beyond those that were copied."""
    column = table.autoincrement_column
    if column is None or not isinstance(column.type, Integer):
        return
    sequence = connection.scalar(
        text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
    )
    if sequence:
        highest = connection.scalar(select(func.max(column)))
        connection.execute(
            text("SELECT setval(:sequence, :highest)"), {"sequence": sequence, "highest": highest}
        )
