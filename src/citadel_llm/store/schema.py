"""The tables, and the one place where they are made.

`create_tables` is idempotent and safe to run from two processes at once. It only ever adds what is missing;
changing a table that exists is a migration's work.
"""

from datetime import UTC, datetime

from sqlalchemy import Column, DateTime, Dialect, Engine, Index, MetaData, String, Table, text
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no time zone: it is taken off going in and put back coming out."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """As stored: UTC without a zone."""
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """As used: UTC, and saying so."""
        return None if value is None else value.replace(tzinfo=UTC)


metadata = MetaData()

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("owner", String(128), nullable=False),
    # The first characters of the key, so that people can tell keys apart in a list.
    Column("prefix", String(16), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
)

_live = text("revoked_at IS NULL")

# A name may be used again once its key is revoked.
Index("api_keys_live_name", api_keys.c.name, unique=True, sqlite_where=_live, postgresql_where=_live)


def create_tables(engine: Engine) -> None:
    """Make the tables and indexes that are missing."""
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
