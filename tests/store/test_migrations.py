"""The tables over time: from nothing, from the first releases' database, and by several processes at once."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import citadel_llm.store.usage_tables  # noqa: F401 - its tables belong to the metadata
from citadel_llm.store import Database, KeyStore, StoreUnavailableError
from citadel_llm.store.migrations import FOLDER, newest, revision_of
from citadel_llm.store.schema import metadata

from .starts import keys_seen_by_three

# What `create_tables` of the first releases made.
OLD_TABLES = """
CREATE TABLE api_keys (
    id VARCHAR(16) NOT NULL,
    name VARCHAR(64) NOT NULL,
    owner VARCHAR(128) NOT NULL,
    prefix VARCHAR(16) NOT NULL,
    hash VARCHAR(64) NOT NULL,
    created_at DATETIME NOT NULL,
    revoked_at DATETIME,
    PRIMARY KEY (id),
    UNIQUE (hash)
);
CREATE UNIQUE INDEX api_keys_live_name ON api_keys (name) WHERE revoked_at IS NULL;
INSERT INTO api_keys VALUES
    ('aa', 'laptop', 'ada', 'ck-abcd', 'h1', '2026-01-02 03:04:05.000000', NULL),
    ('bb', 'laptop', 'ada', 'ck-efgh', 'h2', '2026-01-01 03:04:05.000000', '2026-01-01 04:00:00.000000');
"""


def make_old(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA journal_mode=WAL;" + OLD_TABLES)
    connection.close()


def test_the_names_of_the_files_say_what_alembic_says() -> None:
    script = ScriptDirectory(str(FOLDER))
    assert script.get_heads() == [newest()], "one line of revisions, in the order of their numbers"


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_the_migrated_tables_are_those_that_the_code_uses(tmp_path: Path, old: bool) -> None:
    if old:
        make_old(tmp_path / "citadel.db")
    database = Database(f"sqlite:///{tmp_path}/citadel.db")
    with database.reading() as connection:
        assert revision_of(connection) == newest()
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
    database.close()


def test_the_first_releases_database_is_adopted(tmp_path: Path) -> None:
    make_old(tmp_path / "citadel.db")
    store = KeyStore(f"sqlite:///{tmp_path}/citadel.db")
    revoked, live = store.list()
    assert (live.id, live.owner, live.scope, live.models, live.expires_at) == ("aa", "ada", "api", (), None)
    assert revoked.revoked_at is not None
    assert store.find("h1") == live
    assert [record.id for record in store.changes().records] == ["aa"]
    store.change("aa", tokens_per_day=7)
    assert store.get("aa").tokens_per_day == 7
    store.close()


@pytest.mark.lab
def test_many_processes_start_at_once(tmp_path: Path) -> None:
    make_old(tmp_path / "citadel.db")
    assert keys_seen_by_three(f"sqlite:///{tmp_path}/citadel.db") == [2, 2, 2]


def test_a_later_releases_database_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "citadel.db"
    store = KeyStore(f"sqlite:///{path}")
    record, _ = store.create("laptop")
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.execute("ALTER TABLE api_keys ADD COLUMN colour VARCHAR(8) DEFAULT 'red'")
    connection.commit()
    connection.close()
    assert store.list() == (record,)
    store.change(record.id, owner="eve")
    store.close()


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "citadel.db"
    make_old(path)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE audit_log (stands_in_the_way INTEGER)")
    connection.commit()
    with pytest.raises(StoreUnavailableError, match="audit_log"):
        KeyStore(f"sqlite:///{path}").list()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    columns = [row[1] for row in connection.execute("PRAGMA table_info(api_keys)")]
    connection.close()
    assert tables == {"api_keys", "audit_log"}
    assert "team" not in columns
