"""Usage: each request's record, its sums by day, and how far each gateway's spool has been delivered."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def _tokens() -> tuple["sa.Column[int]", ...]:
    return tuple(
        sa.Column(name, sa.BigInteger, nullable=False)
        for name in ("tokens_in", "tokens_cached", "tokens_out")
    )


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "usage_runs",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("name", sa.String(32), nullable=False, unique=True),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("finished", sa.Boolean, nullable=False),
        sa.Column("touched", sa.DateTime, nullable=False),
    )
    op.create_table(
        "usage_records",
        sa.Column("run", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("began", sa.DateTime, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("team", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("route", sa.String(128), nullable=False),
        sa.Column("engine", sa.String(256), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        *_tokens(),
        sa.Column("first_byte", sa.Float),
        sa.Column("duration", sa.Float, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
    )
    op.create_index("usage_records_began", "usage_records", ["began"])
    op.create_table(
        "usage_days",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("team", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.BigInteger, nullable=False),
        *_tokens(),
        sa.Column("tokens_estimated", sa.BigInteger, nullable=False),
        sa.Column("first_bytes", sa.BigInteger, nullable=False),
        sa.Column("first_byte_seconds", sa.Float, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
    )
