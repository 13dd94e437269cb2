"""The database's tables over time: each change of them is a revision in `versions/`, run in order by Alembic.

A revision's file is named `rNNNN_what.py`, and its id is NNNN: one line of them, without branches. A database
that a later release has brought further is used as it is, so that two releases can run on it while hosts are
updated one by one; therefore a revision only ever adds what the release before it can leave unread.
"""

import re
from pathlib import Path

from sqlalchemy import Connection, inspect, text

FOLDER = Path(__file__).parent
_FILE = re.compile(r"r(\d{4})_\w+\.py")


def newest() -> str:
    """The id of the newest revision that this release has."""
    names = (_FILE.fullmatch(path.name) for path in (FOLDER / "versions").iterdir())
    return max(match[1] for match in names if match)


def revision_of(connection: Connection) -> str | None:
    """The revision that a database has; None when it was never migrated."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
