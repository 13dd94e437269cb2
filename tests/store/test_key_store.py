"""The keys' table, on SQLite; test_postgresql.py does the same on PostgreSQL."""

import hashlib
import re
import sqlite3
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from citadel_llm.store import (
    Actor,
    AuditEntry,
    AuditLog,
    InvalidFieldError,
    KeyEndedError,
    KeyRecord,
    KeyStore,
    NameTakenError,
    NoSuchKeyError,
    StoreUnavailableError,
    hash_key,
)


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
    with pytest.raises(InvalidFieldError, match="letters, digits"):
        store.create(name)
    assert store.list() == ()


@pytest.mark.parametrize("name", ["a", "CI 2.0", "ada@example.com", "x" * 64])
def test_good_names_are_taken(store: KeyStore, name: str) -> None:
    assert store.create(name)[0].name == name


@pytest.mark.parametrize("owner", ["x" * 129, "a\nb", "\x1b[1m"])
def test_bad_owners_are_refused(store: KeyStore, owner: str) -> None:
    with pytest.raises(InvalidFieldError, match="owner"):
        store.create("laptop", owner)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////nonexistent/folder/citadel.db", "No such file or directory"),
        ("sqlite:////proc/citadel.db", "cannot be made"),
        ("user:marked@nowhere", "expected sqlite"),
        ("mysql://user:marked@nowhere/x", "expected sqlite:////path/file, or postgresql"),
        ("postgresql://user:marked@nowhere:port/x", "none that can be used"),
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


NOW = datetime.now(UTC).replace(microsecond=0)
SOON = NOW + timedelta(hours=1)
ADA = Actor("unix:ada", "10.0.0.7")


def test_all_fields_are_kept_and_changed(store: KeyStore) -> None:
    made, _ = store.create(
        "ci",
        "ada",
        team="physics",
        expires_at=SOON,
        models=("a", "org/b"),
        requests_per_minute=1,
        tokens_per_minute=2,
        concurrent_requests=3,
        tokens_per_day=4,
        tokens_per_month=2**53 - 1,
        priority="high",
        scope="peer",
    )
    assert store.get(made.id) == made == store.find(made.hash)
    assert (made.models, made.expires_at, made.scope) == (("a", "org/b"), SOON, "peer")
    assert made.tokens_per_month == 2**53 - 1
    changed = store.change(made.id, name="cd", expires_at=None, tokens_per_day=None, models=())
    assert store.get(made.id) == changed
    assert (changed.name, changed.expires_at, changed.tokens_per_day, changed.models) == (
        "cd",
        None,
        None,
        (),
    )
    assert (changed.team, changed.tokens_per_minute, changed.hash) == ("physics", 2, made.hash)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("team", "a/b", "team must be 1 to 64"),
        ("requests_per_minute", 0, "requests_per_minute must be a whole number from 1"),
        ("tokens_per_day", True, "tokens_per_day must be a whole number"),
        ("tokens_per_month", 2**53, "tokens_per_month must be"),
        ("models", ("a", "a"), "models must not name a model twice"),
        ("models", ("*", "a"), "models must be either"),
        ("models", ("a b",), "models must be names"),
        ("models", tuple(map(str, range(101))), "models must be at most 100"),
        ("expires_at", NOW - timedelta(seconds=1), "expires_at must lie in the future"),
        ("expires_at", SOON.replace(tzinfo=None), "expires_at must say its time zone"),
        ("expires_at", SOON.replace(year=9999), "expires_at must lie before"),
        ("priority", "urgent", "priority must be one of high, normal, low"),
        ("owner", "ck-" + "x" * 43, "owner must not hold an API key"),
        ("hash", "x", "hash is not a field of a key that can be set"),
    ],
)
def test_bad_values_name_the_field(store: KeyStore, field: str, value: Any, message: str) -> None:
    record, _ = store.create("laptop")
    with pytest.raises(InvalidFieldError, match=message):
        store.change(record.id, **{field: value})
    assert store.list() == (record,)
    with pytest.raises(InvalidFieldError) as caught:
        store.create("other", **{field: value})
    assert "x" * 43 not in str(caught.value)


def test_a_rotated_key_keeps_its_id_and_for_a_while_its_secret(store: KeyStore) -> None:
    first, _ = store.create("laptop", team="physics", tokens_per_day=5)
    second, plaintext = store.rotate(first.id, timedelta(hours=1))
    assert second.hash == hash_key(plaintext) != first.hash
    assert (second.id, second.team, second.tokens_per_day) == (first.id, "physics", 5)
    assert store.find(first.hash) == store.find(second.hash) == second
    third, _ = store.rotate(first.id)
    assert store.find(first.hash) is None, "of the replaced ones the last works on, no other"
    assert store.find(second.hash) is None, "without grace it ends at once"
    assert store.find(third.hash) == third
    store.rotate(first.id, timedelta(hours=1))
    store.revoke(first.id)
    assert store.find(third.hash) is None, "revoked is revoked"


def test_what_has_ended_is_not_rotated_or_changed(store: KeyStore) -> None:
    record, _ = store.create("laptop")
    for grace in (timedelta(seconds=-1), timedelta(days=31)):
        with pytest.raises(InvalidFieldError, match="grace must be"):
            store.rotate(record.id, grace)
    with pytest.raises(InvalidFieldError, match="at least one field"):
        store.change(record.id)
    store.revoke(record.id)
    with pytest.raises(KeyEndedError, match="for good"):
        store.rotate(record.id)
    with pytest.raises(KeyEndedError, match="for good"):
        store.change(record.id, owner="eve")
    with pytest.raises(NoSuchKeyError):
        store.change("0123", owner="eve")


def test_a_name_is_not_changed_to_one_that_is_taken(store: KeyStore) -> None:
    store.create("laptop")
    other, _ = store.create("ci")
    with pytest.raises(NameTakenError):
        store.change(other.id, name="laptop")
    assert store.get(other.id) == other


def test_pages(store: KeyStore) -> None:
    made = [store.create(f"k{number}")[0] for number in range(5)]
    store.revoke(made[2].id)
    assert [record.name for record in store.list(limit=2)] == ["k0", "k1"]
    page = store.list(limit=2, after=made[1].id, revoked=False)
    assert [record.name for record in page] == ["k3", "k4"]
    assert store.list(limit=2, after=made[4].id) == ()
    with pytest.raises(NoSuchKeyError):
        store.list(after="0123")


def test_every_act_is_in_the_audit_log(path: Path) -> None:
    told: list[AuditEntry] = []
    store = KeyStore(f"sqlite:///{path}", on_act=told.append)
    record, plaintext = store.create("laptop", by=ADA, team="physics")
    store.change(record.id, by=ADA, tokens_per_day=5, team="physics")
    _, second = store.rotate(record.id, by=ADA)
    with pytest.raises(NameTakenError):
        store.create("laptop", by=ADA)
    with pytest.raises(InvalidFieldError):
        store.create(plaintext, by=ADA)
    with pytest.raises(NoSuchKeyError):
        store.revoke(plaintext, by=ADA)
    store.revoke(record.id, by=ADA)
    entries = AuditLog(store.database).list(limit=100)
    acts = [(entry.action, entry.target, entry.outcome) for entry in reversed(entries)]
    assert acts == [
        ("key.create", record.id, "done"),
        ("key.change", record.id, "done"),
        ("key.rotate", record.id, "done"),
        ("key.create", "", "refused"),
        ("key.create", "", "refused"),
        ("key.revoke", "ck-…", "refused"),
        ("key.revoke", record.id, "done"),
    ]
    assert {(entry.actor, entry.address) for entry in entries} == {("unix:ada", "10.0.0.7")}
    assert entries[-2].details == {"tokens_per_day": [None, 5]}, "what was not changed is not told"
    assert "exists already" in entries[3].details["reason"]
    assert [(entry.action, entry.target) for entry in told] == [act[:2] for act in acts]
    shown = repr(entries) + repr(told)
    assert not any(secret[3:] in shown for secret in (plaintext, second))
    assert not any(hash_key(secret) in shown for secret in (plaintext, second))
    log = AuditLog(store.database)
    assert log.list(limit=2, before=entries[1].id) == entries[2:4]
    assert len(log.list(limit=100, target=record.id)) == 4
    assert log.list(limit=100, actor="unix:eve") == ()
    store.close()


def test_an_act_and_its_entry_last_together_or_not_at_all(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = store.create("laptop")

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("citadel_llm.store.keys.write_entry", fail)
    with pytest.raises(RuntimeError):
        store.revoke(record.id)
    assert store.list() == (record,)


def test_changes_are_told_once_and_cheaply(store: KeyStore, path: Path) -> None:
    first, _ = store.create("a")
    second, _ = store.create("b")
    everything = store.changes()
    assert (set(everything.records), everything.whole) == ({first, second}, True)
    assert store.changes(everything.mark).records == ()
    revoked = store.revoke(first.id)
    some = store.changes(everything.mark)
    assert (some.records, some.whole) == ((revoked,), False)
    # Somebody's hand, past this class: it raises no counter.
    connection = sqlite3.connect(path)
    connection.execute("UPDATE api_keys SET revoked_at = created_at WHERE id = ?", (second.id,))
    connection.commit()
    connection.close()
    rest = store.changes(some.mark)
    assert (rest.records, rest.whole) == ((), True)


def test_scopes_and_models() -> None:
    def key(**fields: Any) -> KeyRecord:
        return KeyRecord(id="1", name="n", owner="", prefix="ck-", hash="h", created_at=NOW, **fields)

    assert key().may_use("a")
    assert key().calls_models
    assert key(models=("a",)).may_use("a")
    assert not key(models=("a",)).may_use("b")
    assert key(models=("*",), scope="admin").may_use("b")
    assert not key(scope="admin").may_use("a")
    assert not key(scope="admin").calls_models
    assert key(scope="peer").may_use("a")


def test_the_actor_is_who_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ada")
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.7 5 10.0.0.1 22")
    name = Actor.here()
    if Path("/proc/self/loginuid").read_text() == str(2**32 - 1):
        assert name == ADA
    assert name.address == "10.0.0.7"
