"""From a database URL to a SQLAlchemy engine, with SQLite set up for two processes and one owner."""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from citadel_llm.store.errors import StoreUnavailableError

# How long a writer waits for another one. Writes here take milliseconds.
_BUSY_SECONDS = 5


def open_database(url: str) -> Engine:
    """An engine for the URL. A SQLite file that is missing is made, readable by its owner alone.

    Raises:
        StoreUnavailableError: The URL is not one, its driver is not installed, or the file cannot be made.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, pool_pre_ping=True)
        if parsed.database and parsed.database != ":memory:":
            _create_private_file(Path(parsed.database))
        engine = create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS})
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise StoreUnavailableError(f"the database's driver is not installed ({error})") from None
    except ArgumentError:
        # The URL may hold a password: name no part of it.
        raise StoreUnavailableError(
            "the database's URL cannot be understood: expected sqlite:////path/file"
        ) from None
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _create_private_file(path: Path) -> None:
    """Make the file with mode 0600 before SQLite does with the umask's; its -wal and -shm take after it."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise StoreUnavailableError(f"the database {path} cannot be made: {error.strerror}") from None
    try:
        # Made by root, it would shut out the service, to which the folder belongs. Nobody else may ask for
        # this: the service's system call filter would kill it.
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
    finally:
        os.close(descriptor)


def _set_up_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # Readers and a writer do not wait for each other: the gateway reads while the operator makes a key.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()
