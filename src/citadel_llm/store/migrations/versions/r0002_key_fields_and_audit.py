"""What a key may do, its rotation, the counter of changes that gateways watch, and the audit log."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("team", sa.String(64), nullable=False, server_default=""),
        sa.Column("expires_at", sa.DateTime),
        sa.Column("models", sa.Text, nullable=False, server_default="[]"),
        sa.Column("requests_per_minute", sa.BigInteger),
        sa.Column("tokens_per_minute", sa.BigInteger),
        sa.Column("concurrent_requests", sa.BigInteger),
        sa.Column("tokens_per_day", sa.BigInteger),
        sa.Column("tokens_per_month", sa.BigInteger),
        sa.Column("priority", sa.String(8), nullable=False, server_default="normal"),
        sa.Column("scope", sa.String(8), nullable=False, server_default="api"),
        sa.Column("previous_hash", sa.String(64)),
        sa.Column("previous_expires_at", sa.DateTime),
        sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
    )


def upgrade() -> None:
    """Add the columns and the tables."""
    for column in _columns():
        op.add_column("api_keys", column)
    op.create_index("api_keys_revision", "api_keys", ["revision"])
    # One row: how often keys were changed.
    changes = op.create_table("api_key_changes", sa.Column("revision", sa.BigInteger, nullable=False))
    op.bulk_insert(changes, [{"revision": 0}])
    op.create_table(
        "audit_log",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("details", sa.Text, nullable=False),
    )
