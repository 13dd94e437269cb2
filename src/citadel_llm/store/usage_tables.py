"""The tables of usage, as queries name them. The revision `r0003_usage` makes them."""

from sqlalchemy import BigInteger, Boolean, Column, Date, Float, Index, Integer, String, Table

from citadel_llm.store.schema import UtcDateTime, metadata

# How far each gateway process's spool has been delivered. One row a process, kept as long as the records.
usage_runs = Table(
    "usage_runs",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("name", String(32), nullable=False, unique=True),
    Column("segment", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("finished", Boolean, nullable=False),
    Column("touched", UtcDateTime, nullable=False),
)

# A request is named by its gateway process and a number in it: it cannot stand here twice.
usage_records = Table(
    "usage_records",
    metadata,
    Column("run", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("request", String(64), nullable=False),
    Column("began", UtcDateTime, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("team", String(64), nullable=False),
    Column("model", String(256), nullable=False),
    Column("route", String(128), nullable=False),
    Column("engine", String(256), nullable=False),
    Column("status", Integer, nullable=False),
    Column("tokens_in", BigInteger, nullable=False),
    Column("tokens_cached", BigInteger, nullable=False),
    Column("tokens_out", BigInteger, nullable=False),
    Column("first_byte", Float),
    Column("duration", Float, nullable=False),
    Column("estimated", Boolean, nullable=False),
)

usage_days = Table(
    "usage_days",
    metadata,
    Column("day", Date, primary_key=True),
    Column("key_id", String(64), primary_key=True),
    Column("team", String(64), primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("estimated", BigInteger, nullable=False),
    Column("tokens_in", BigInteger, nullable=False),
    Column("tokens_cached", BigInteger, nullable=False),
    Column("tokens_out", BigInteger, nullable=False),
    Column("tokens_estimated", BigInteger, nullable=False),
    Column("first_bytes", BigInteger, nullable=False),
    Column("first_byte_seconds", Float, nullable=False),
    Column("seconds", Float, nullable=False),
)

Index("usage_records_began", usage_records.c.began)
