"""The keys' table: on SQLite for real; for PostgreSQL only the statements that it would be sent."""

import hashlib
import re
import sqlite3
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from citadel_llm.store import (
    InvalidNameError,
    KeyStore,
    NameTakenError,
    NoSuchKeyError,
    StoreUnavailableError,
    hash_key,
)
from citadel_llm.store.schema import api_keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "citadel.db"


@pytest.fixture
def store(path: Path) -> Iterator[KeyStore]:
    store = KeyStore(f"sqlite:///{path}")
    yield store
    store.close()


def test_a_key_is_made_and_found(store: KeyStore) -> None:
    record, plaintext = store.create("laptop", "ada")
    assert re.fullmatch(r"ck-[A-Za-z0-9_-]{43}", plaintext)
    assert record.hash == hash_key(plaintext) == hashlib.sha256(plaintext.encode()).hexdigest()
    assert plaintext.startswith(record.prefix)
    assert len(record.prefix) == 7
    assert abs((datetime.now(UTC) - record.created_at).total_seconds()) < 60
    assert store.find(record.hash) == record
    assert store.find_live("laptop") == record
    assert store.find(hash_key("ck-other")) is None


def test_the_key_itself_is_nowhere_on_disk(store: KeyStore, path: Path) -> None:
    _, plaintext = store.create("laptop")
    store.close()
    for file in path.parent.iterdir():
        assert plaintext.encode() not in file.read_bytes()
        assert plaintext[8:].encode() not in file.read_bytes()


def test_keys_outlive_the_process(store: KeyStore, path: Path) -> None:
    record, _ = store.create("laptop", "ada")
    other = KeyStore(f"sqlite:///{path}")
    assert other.list() == (record,)
    other.close()


def test_the_file_is_its_owners_alone(store: KeyStore, path: Path) -> None:
    store.create("laptop")
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert files == dict.fromkeys(("citadel.db", "citadel.db-wal", "citadel.db-shm"), 0o600)


def test_readers_do_not_wait_for_a_writer(store: KeyStore, path: Path) -> None:
    record, _ = store.create("laptop")
    writer = sqlite3.connect(path)
    writer.execute("BEGIN IMMEDIATE")
    assert store.list() == (record,)
    writer.rollback()
    writer.close()


def test_a_revoked_key_is_not_found_but_listed(store: KeyStore) -> None:
    record, _ = store.create("laptop")
    revoked = store.revoke(record.id)
    assert revoked.revoked_at is not None
    assert store.find(record.hash) is None
    assert store.list() == (revoked,)
    assert store.list(revoked=False) == ()
    assert store.revoke(record.id) == revoked, "again changes nothing, not even the time"


def test_a_name_is_taken_only_while_its_key_lives(store: KeyStore) -> None:
    first, _ = store.create("laptop")
    with pytest.raises(NameTakenError, match=first.id) as caught:
        store.create("laptop")
    assert (caught.value.name, caught.value.key_id) == ("laptop", first.id)
    store.revoke(first.id)
    second, _ = store.create("laptop")
    assert store.find_live("laptop") == second


def test_of_many_who_want_one_name_one_gets_it(path: Path) -> None:
    outcomes: list[str] = []
    begin = threading.Barrier(6)

    def make() -> None:
        store = KeyStore(f"sqlite:///{path}")
        begin.wait()
        try:
            store.create("laptop")
            outcomes.append("made")
        except NameTakenError:
            outcomes.append("taken")
        store.close()

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] + ["taken"] * 5


def test_an_unknown_id_is_an_error(store: KeyStore) -> None:
    with pytest.raises(NoSuchKeyError, match="citadel keys list"):
        store.revoke("0123")


@pytest.mark.parametrize("name", ["", " a", "-a", "a\n", "ä", "a/b", "x" * 65, "a\x1b[1m"])
def test_bad_names_are_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(InvalidNameError, match="letters, digits"):
        store.create(name)
    assert store.list() == ()


@pytest.mark.parametrize("name", ["a", "CI 2.0", "ada@example.com", "x" * 64])
def test_good_names_are_taken(store: KeyStore, name: str) -> None:
    assert store.create(name)[0].name == name


@pytest.mark.parametrize("owner", ["x" * 129, "a\nb", "\x1b[1m"])
def test_bad_owners_are_refused(store: KeyStore, owner: str) -> None:
    with pytest.raises(InvalidNameError, match="owner"):
        store.create("laptop", owner)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////nonexistent/folder/citadel.db", "No such file or directory"),
        ("sqlite:////proc/citadel.db", "cannot be made"),
        ("user:marked@nowhere", "expected sqlite"),
        ("nosuch://user:marked@nowhere/x", "driver is not installed"),
    ],
)
def test_what_cannot_be_opened_says_why(url: str, message: str) -> None:
    with pytest.raises(StoreUnavailableError, match=message) as caught:
        KeyStore(url).list()
    assert "marked" not in str(caught.value)


def test_a_file_that_is_no_database_says_so(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailableError, match="not a database") as caught:
        KeyStore(f"sqlite:///{path}").create("laptop")
    assert "INSERT" not in str(caught.value)


def test_a_store_that_was_away_is_found_later(tmp_path: Path) -> None:
    folder = tmp_path / "late"
    store = KeyStore(f"sqlite:///{folder}/citadel.db")
    with pytest.raises(StoreUnavailableError):
        store.list()
    folder.mkdir()
    assert store.list() == ()
    store.close()


def test_postgresql_would_get_the_same_table() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    (index,) = api_keys.indexes
    assert "revoked_at TIMESTAMP" in str(CreateTable(api_keys).compile(dialect=dialect))
    statement = str(CreateIndex(index).compile(dialect=dialect))
    assert statement == "CREATE UNIQUE INDEX api_keys_live_name ON api_keys (name) WHERE revoked_at IS NULL"
