"""The tables as this release uses them. What makes and changes them are the revisions in `migrations`.

A test compares the two.
"""

import json
from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
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


class Names(TypeDecorator[tuple[str, ...]]):
    """A list of names, as a JSON array."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """As stored."""
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...] | None:  # noqa: ARG002
        """As used."""
        # Most keys name no model: one empty tuple does for all of them.
        return () if value in (None, "[]") else tuple(json.loads(value))


metadata = MetaData()

_live = text("revoked_at IS NULL")

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
    Column("team", String(64), nullable=False, server_default=""),
    Column("expires_at", UtcDateTime),
    Column("models", Names, nullable=False, server_default="[]"),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrent_requests", BigInteger),
    Column("tokens_per_day", BigInteger),
    Column("tokens_per_month", BigInteger),
    Column("priority", String(8), nullable=False, server_default="normal"),
    Column("scope", String(8), nullable=False, server_default="api"),
    # After a rotation: the key that this one replaced, and until when it works.
    Column("previous_hash", String(64)),
    Column("previous_expires_at", UtcDateTime),
    # What `api_key_changes` counted when the key was last changed.
    Column("revision", BigInteger, nullable=False, server_default="0"),
    # A name may be used again once its key is revoked.
    Index("api_keys_live_name", "name", unique=True, sqlite_where=_live, postgresql_where=_live),
    Index("api_keys_revision", "revision"),
)

# One row: how often keys were changed. Whoever changes one locks it, so numbers come in the order of commits:
# who has seen one of them finds all that came later.
api_key_changes = Table("api_key_changes", metadata, Column("revision", BigInteger, nullable=False))

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("address", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("target", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    # A JSON object.
    Column("details", Text, nullable=False),
)
