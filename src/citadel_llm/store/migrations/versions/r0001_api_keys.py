"""The keys' table, as the first releases made it without Alembic: where it stands already, it is adopted."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_live = sa.text("revoked_at IS NULL")


def upgrade() -> None:
    """Make the table and its index, unless they are there."""
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("revoked_at", sa.DateTime),
        if_not_exists=True,
    )
    op.create_index(
        "api_keys_live_name",
        "api_keys",
        ["name"],
        unique=True,
        sqlite_where=_live,
        postgresql_where=_live,
        if_not_exists=True,
    )
