"""Runs Alembic on a connection of ours, without a configuration file. See `citadel_llm.store.migrations`."""

from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from citadel_llm.store.migrations import FOLDER


def upgrade(connection: Connection, to: str = "head") -> None:
    """Bring the database to a revision, in the transaction that the connection has begun.

    The caller keeps others from doing the same at the same time.
    """
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    attributes: dict[str, Any] = config.attributes
    attributes["connection"] = connection
    command.upgrade(config, to)
