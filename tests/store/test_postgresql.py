"""The store on a real PostgreSQL."""

import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from tests.postgres import PostgresServer, postgres_server

import citadel_llm.store.usage_tables  # noqa: F401 - its tables belong to the metadata
from citadel_llm.store import Actor, AuditLog, Database, KeyStore, NameTakenError, StoreUnavailableError
from citadel_llm.store.database import _MIGRATION_LOCK, open_database
from citadel_llm.store.migrations import newest, revision_of
from citadel_llm.store.schema import metadata

from .starts import keys_seen_by_three

pytestmark = pytest.mark.lab

# What the first releases made.
OLD_TABLES = """
CREATE TABLE api_keys (
    id VARCHAR(16) PRIMARY KEY, name VARCHAR(64) NOT NULL, owner VARCHAR(128) NOT NULL,
    prefix VARCHAR(16) NOT NULL, hash VARCHAR(64) NOT NULL UNIQUE,
    created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL, revoked_at TIMESTAMP WITHOUT TIME ZONE
);
CREATE UNIQUE INDEX api_keys_live_name ON api_keys (name) WHERE revoked_at IS NULL;
INSERT INTO api_keys VALUES ('aa', 'laptop', 'ada', 'ck-abcd', 'h1', '2026-01-02 03:04:05', NULL);
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def server(cluster: PostgresServer) -> PostgresServer:
    """With nothing in it."""
    psql(cluster, "DROP SCHEMA public CASCADE; CREATE SCHEMA public;")
    return cluster


@pytest.fixture
def store(server: PostgresServer) -> Iterator[KeyStore]:
    store = KeyStore(server.url)
    yield store
    store.close()


def psql(server: PostgresServer, statements: str) -> None:
    command = ["psql", "--quiet", "-h", str(server.folder), "-U", "postgres", "-v", "ON_ERROR_STOP=1"]
    subprocess.run(command, input=statements, text=True, check=True, capture_output=True)


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_migrations(server: PostgresServer, old: bool) -> None:
    if old:
        psql(server, OLD_TABLES)
    database = Database(server.url)
    with database.reading() as connection:
        assert revision_of(connection) == newest()
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    if old:
        assert KeyStore(database).find_live("laptop") is not None
    database.close()


def test_processes_that_start_at_once_migrate_once(server: PostgresServer) -> None:
    psql(server, OLD_TABLES)
    assert keys_seen_by_three(server.url) == [1, 1, 1]


def test_who_comes_second_waits_for_the_migration(server: PostgresServer) -> None:
    first, second = Database(server.url), KeyStore(server.url)
    engine = open_database(server.url)
    with engine.begin() as holder:
        holder.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        other = threading.Thread(target=second.list)
        other.start()
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        for _ in range(200):
            if holder.execute(waiting).scalar_one() or not other.is_alive():
                break
            other.join(timeout=0.05)
        assert holder.execute(waiting).scalar_one() == 1
    other.join(timeout=20)
    engine.dispose()
    with first.reading() as connection:
        assert revision_of(connection) == newest()
    first.close()
    second.close()


def test_a_keys_life(store: KeyStore) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    by = Actor("key:aa", "10.0.0.7")
    made, _ = store.create("ci", "ada", by=by, team="physics", models=("a",), expires_at=soon, scope="admin")
    assert store.find(made.hash) == made
    mark = store.changes().mark
    changed = store.change(made.id, by=by, tokens_per_month=2**53 - 1, models=())
    rotated, _ = store.rotate(made.id, timedelta(hours=1), by=by)
    assert (changed.tokens_per_month, changed.expires_at) == (2**53 - 1, soon)
    assert store.find(made.hash) == store.find(rotated.hash) == rotated
    with pytest.raises(NameTakenError):
        store.create("ci", by=by)
    revoked = store.revoke(made.id, by=by)
    assert store.find(rotated.hash) is None
    changes = store.changes(mark)
    assert (changes.records, changes.whole) == ((revoked,), False)
    entries = AuditLog(store.database).list(limit=10)
    assert [entry.action for entry in reversed(entries)] == [
        "key.create",
        "key.change",
        "key.rotate",
        "key.create",
        "key.revoke",
    ]


def test_no_change_is_missed_that_commits_late(store: KeyStore) -> None:
    """Who changes a key while another change is not committed yet waits, so that numbers come in order."""
    first, _ = store.create("a")
    second, _ = store.create("b")
    mark = store.changes().mark
    slow = Database(store.database._url)
    with slow.writing() as connection:
        connection.execute(text("UPDATE api_key_changes SET revision = revision + 1"))
        statement = "UPDATE api_keys SET owner = 'slow', revision = (SELECT revision FROM api_key_changes)"
        connection.execute(text(f"{statement} WHERE id = :id"), {"id": first.id})
        other = threading.Thread(target=store.revoke, args=(second.id,))
        other.start()
        assert store.changes(mark).records == ()
    other.join(timeout=20)
    slow.close()
    assert {record.id for record in store.changes(mark).records} == {first.id, second.id}


def test_of_many_who_want_one_name_one_gets_it(store: KeyStore) -> None:
    outcomes: list[str] = []
    begin = threading.Barrier(6)

    def make() -> None:
        begin.wait()
        try:
            store.create("laptop")
            outcomes.append("made")
        except NameTakenError:
            outcomes.append("taken")

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] + ["taken"] * 5


def test_a_database_without_an_encoding(server: PostgresServer) -> None:
    """As a server has it that was made without a locale."""
    psql(server, "CREATE DATABASE plain TEMPLATE template0 ENCODING SQL_ASCII LOCALE 'C'")
    store = KeyStore(server.url.replace("/postgres?", "/plain?"))
    record, _ = store.create("laptop", "Ada Lovelåce")
    assert store.list() == (record,)
    store.close()


def test_a_server_that_goes_and_comes_back(server: PostgresServer) -> None:
    store = KeyStore(server.url)
    record, _ = store.create("laptop")
    server.stop()
    try:
        with pytest.raises(StoreUnavailableError, match="cannot be used"):
            store.list()
    finally:
        server.start()
    assert store.list() == (record,)
    store.close()
