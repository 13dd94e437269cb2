"""From a database URL to transactions, with the tables made or brought up to date on the way.

SQLite is set up for several processes and one owner; a PostgreSQL that does not answer is given up on soon.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from citadel_llm.store.errors import StoreUnavailableError

# How long a writer waits for another one. Writes here take milliseconds.
_BUSY_SECONDS = 5

# How long PostgreSQL may take: to be connected to, for a statement, and to acknowledge what was sent.
_CONNECT_SECONDS = 5
_STATEMENT_MILLISECONDS = 30_000
_UNACKNOWLEDGED_MILLISECONDS = 15_000
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}

# Whoever migrates a PostgreSQL database holds this advisory lock: "citadel" in ASCII.
_MIGRATION_LOCK = 0x6369746164656C

_WRITES = "citadel_writes"

# What a URL may begin with, and the driver that it gets.
_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


class Database:
    """The database of a URL. Its methods block; threads may share one.

    Nothing is opened before the first use, and an opening that failed is tried again at the next one: a
    service can start while its database is away. The first use also makes the tables, or brings them up to
    date (`migrations`); of several processes that begin at once, one does it and the others wait.

    Args:
        url: SQLAlchemy's, `sqlite:////path/file` or `postgresql+psycopg://…`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: Engine | None = None
        self._opening = Lock()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads.

        Raises:
            StoreUnavailableError: The database cannot be reached or read.
        """
        with _plain_errors(), self._open().begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes; committed at the end, rolled back by an exception.

        Raises:
            StoreUnavailableError: The database cannot be reached or written.
            IntegrityError: As the database says it.
        """
        with _plain_errors(), _writer(self._open()).begin() as connection:
            yield connection

    def close(self) -> None:
        """Close the connections. The next use opens them again."""
        with self._opening:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _open(self) -> Engine:
        with self._opening:
            if self._engine is None:
                engine = open_database(self._url)
                try:
                    migrate(engine)
                except BaseException:
                    engine.dispose()
                    raise
                self._engine = engine
            return self._engine


def open_database(url: str) -> Engine:
    """An engine for the URL. A SQLite file that is missing is made, readable by its owner alone.

    Raises:
        StoreUnavailableError: The URL is not one, or not of such a database; or the file cannot be made.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed, pool_pre_ping=True, connect_args=_postgresql_arguments(parsed.query))
    if parsed.database and parsed.database != ":memory:":
        _create_private_file(Path(parsed.database))
    engine = create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_in_sqlite)
    return engine


def migrate(engine: Engine) -> None:
    """Make the tables, or bring them up to date. Safe to run from several processes at once."""
    from citadel_llm.store.migrations import newest, revision_of  # noqa: PLC0415 - see below

    wanted = newest()
    with engine.begin() as connection:
        if (revision_of(connection) or "") >= wanted:
            return
    # Alembic takes longer to load than listing keys takes: only when there is work for it.
    from citadel_llm.store.migrations.runner import upgrade  # noqa: PLC0415

    with _writer(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            # The other one's work may take longer than a statement of ours ever should.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        # Another process may have done it while this one waited.
        if (revision_of(connection) or "") < wanted:
            upgrade(connection)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        return parsed.set(drivername=_DRIVERS[parsed.drivername])
    except (ArgumentError, KeyError, ValueError):
        # The URL may hold a password: name no part of it.
        expected = "sqlite:////path/file, or postgresql+psycopg://user@host/name"
        raise StoreUnavailableError(
            f"the database's URL is none that can be used: expected {expected}"
        ) from None


def _writer(engine: Engine) -> Engine:
    return engine.execution_options(**{_WRITES: True})


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        # The driver's own words: SQLAlchemy's would add the statement and its parameters.
        raise StoreUnavailableError(f"the database cannot be used: {error.orig}") from None
    except SQLAlchemyError as error:
        raise StoreUnavailableError(f"the database cannot be used: {type(error).__name__}") from None


def _postgresql_arguments(given: Any) -> dict[str, Any]:
    """What a connection is made with, where the URL does not say it itself."""
    arguments = {
        "connect_timeout": _CONNECT_SECONDS,
        "options": f"-c statement_timeout={_STATEMENT_MILLISECONDS}",
        # A server that was made without a locale says no encoding, and texts would come as bytes.
        "client_encoding": "utf8",
        "tcp_user_timeout": _UNACKNOWLEDGED_MILLISECONDS,
        **_KEEPALIVE,
    }
    return {name: value for name, value in arguments.items() if name not in given}


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
    # Python's driver would begin transactions by itself, and not around what makes tables.
    connection.isolation_level = None
    cursor = connection.cursor()
    # Readers and a writer do not wait for each other: the gateway reads while the operator makes a key.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()


def _begin_in_sqlite(connection: Connection) -> None:
    # One that reads first and writes then could be refused at once, without waiting for the other writer.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
