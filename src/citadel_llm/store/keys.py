"""API keys: made, listed, changed, rotated, revoked, found. Never stored themselves, only their SHA-256.

A key is 256 random bits, so a fast hash is the right one: there is nothing to guess, and a slow hash, made
for passwords that people choose, would only slow every request down.

Whatever is done to a key is written to the audit log in the same transaction.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack

from sqlalchemy import ColumnElement, Connection, Row, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from citadel_llm.store.audit import Actor, AuditEntry, write_entry
from citadel_llm.store.database import Database
from citadel_llm.store.errors import (
    InvalidFieldError,
    KeyEndedError,
    NameTakenError,
    NoSuchKeyError,
    RefusedError,
    StoreUnavailableError,
)
from citadel_llm.store.record import (
    KEY_PATTERN,
    ChangeableFields,
    KeyRecord,
    NewFields,
    check_fields,
    hash_key,
)
from citadel_llm.store.schema import api_key_changes, api_keys

__all__ = ["KEY_PATTERN", "KeyChanges", "KeyMark", "KeyStore"]

_SECRET_BYTES = 32
_PREFIX_LENGTH = 7
_LONGEST_GRACE = timedelta(days=30)

_COLUMNS = [api_keys.c[field.name] for field in fields(KeyRecord)]
_LIVE = api_keys.c.revoked_at.is_(None)


@dataclass(frozen=True)
class KeyMark:
    """How the keys were when they were read: the count of their changes, and how many are not revoked."""

    revision: int
    live: int


@dataclass(frozen=True)
class KeyChanges:
    """What has changed since a mark.

    Attributes:
        mark: To ask with the next time.
        records: The keys that were made, changed or revoked since; all that are not revoked when `whole`.
        whole: Whether keys that are not among `records` are to be forgotten.
    """

    mark: KeyMark
    records: tuple[KeyRecord, ...]
    whole: bool


class KeyStore:
    """The keys in the database. Its methods block; threads may share one.

    Args:
        database: The database, or its URL.
        on_act: Told of each act once it is written to the audit log (done) or was refused; for the journal.

    Raises:
        StoreUnavailableError: From every method: the database cannot be reached, read or written.
    """

    def __init__(
        self, database: Database | str, on_act: Callable[[AuditEntry], None] = lambda _entry: None
    ) -> None:
        self.database = Database(database) if isinstance(database, str) else database
        self._on_act = on_act

    def create(
        self, name: str, owner: str = "", *, by: Actor | None = None, **more: Unpack[NewFields]
    ) -> tuple[KeyRecord, str]:
        """Make a key; `KeyRecord` says what may be said of it.

        Returns:
            The record, and the key itself, which cannot be had again: `ck-` and 43 characters.

        Raises:
            InvalidFieldError: A value is not acceptable.
            NameTakenError: A live key has this name.
        """
        given = {"name": name, "owner": owner, **more}
        with self._act(by, "key.create", "", {"name": name}) as act:
            check_fields(given)
            plaintext = _new_key()
            record = KeyRecord(
                id=secrets.token_hex(6),
                prefix=plaintext[:_PREFIX_LENGTH],
                hash=hash_key(plaintext),
                created_at=datetime.now(UTC),
                name=name,
                owner=owner,
                **_in_utc(more),
            )
            with self._unless_taken(name), self.database.writing() as connection:
                values = {field.name: getattr(record, field.name) for field in fields(record)}
                connection.execute(insert(api_keys).values(**values, revision=_next_revision(connection)))
                act.done(connection, record.id, given)
        return record, plaintext

    def change(
        self, key_id: str, *, by: Actor | None = None, **changes: Unpack[ChangeableFields]
    ) -> KeyRecord:
        """Change what is said of a live key; what is not given stays.

        Raises:
            InvalidFieldError: A value is not acceptable, or no field is given.
            NoSuchKeyError: There is no key with this id.
            KeyEndedError: It is revoked.
            NameTakenError: Another live key has this name.
        """
        with self._act(by, "key.change", key_id) as act:
            if not changes:
                raise InvalidFieldError("the change", "must name at least one field")
            check_fields(changes)
            with self._unless_taken(changes.get("name", "")), self.database.writing() as connection:
                before = _live_record(connection, key_id)
                after = _update(connection, key_id, _in_utc(changes))
                differences = {
                    name: [getattr(before, name), getattr(after, name)]
                    for name in changes
                    if getattr(before, name) != getattr(after, name)
                }
                act.done(connection, key_id, differences)
        return after

    def rotate(
        self, key_id: str, grace: timedelta = timedelta(0), *, by: Actor | None = None
    ) -> tuple[KeyRecord, str]:
        """Give a live key a new secret under the same id.

        Args:
            key_id: Which key.
            grace: For how long the secret that it has now goes on working; one that was replaced earlier and
                still works ends now.
            by: Who does it; the person who runs this process when not given.

        Returns:
            The record, and the new key itself.

        Raises:
            InvalidFieldError: The grace is negative or longer than 30 days.
            NoSuchKeyError: There is no key with this id.
            KeyEndedError: It is revoked or expired.
        """
        with self._act(by, "key.rotate", key_id) as act:
            if not timedelta(0) <= grace <= _LONGEST_GRACE:
                raise InvalidFieldError("grace", f"must be from 0 to {_LONGEST_GRACE.days} days")
            plaintext, now = _new_key(), datetime.now(UTC)
            with self.database.writing() as connection:
                before = _live_record(connection, key_id)
                if before.state(now) == "expired":
                    raise KeyEndedError("the key is expired: change its expiry first, then rotate it")
                values = {
                    "prefix": plaintext[:_PREFIX_LENGTH],
                    "hash": hash_key(plaintext),
                    "previous_hash": before.hash if grace else None,
                    "previous_expires_at": now + grace if grace else None,
                }
                after = _update(connection, key_id, values)
                act.done(connection, key_id, {"previous_expires_at": after.previous_expires_at})
        return after, plaintext

    def revoke(self, key_id: str, *, by: Actor | None = None) -> KeyRecord:
        """Revoke a key for good, and the one that it replaced. Revoking it again changes nothing.

        Raises:
            NoSuchKeyError: There is no key with this id.
        """
        with self._act(by, "key.revoke", key_id) as act, self.database.writing() as connection:
            record = _locked_record(connection, key_id)
            again = record.revoked_at is not None
            if not again:
                record = _update(connection, key_id, {"revoked_at": datetime.now(UTC)})
            act.done(connection, key_id, {"name": record.name, **({"again": True} if again else {})})
        return record

    def get(self, key_id: str) -> KeyRecord:
        """The key with this id, also a revoked one.

        Raises:
            NoSuchKeyError: There is none.
        """
        record = self._one(api_keys.c.id == key_id)
        if record is None:
            raise NoSuchKeyError
        return record

    def list(
        self, *, revoked: bool = True, limit: int | None = None, after: str | None = None
    ) -> tuple[KeyRecord, ...]:
        """The keys, oldest first.

        Args:
            revoked: Whether the revoked ones too.
            limit: How many at most; all when not given.
            after: The id of the key after which to begin.

        Raises:
            NoSuchKeyError: There is no key with the id `after`.
        """
        created, key_id = api_keys.c.created_at, api_keys.c.id
        query = select(*_COLUMNS).order_by(created, key_id).limit(limit)
        if not revoked:
            query = query.where(_LIVE)
        if after is not None:
            last = self.get(after)
            later = (created == last.created_at) & (key_id > after)
            query = query.where((created > last.created_at) | later)
        with self.database.reading() as connection:
            return tuple(_record(row) for row in connection.execute(query))

    def changes(self, since: KeyMark | None = None) -> KeyChanges:
        """What has changed since the mark of an earlier reading; everything when there is none.

        Without a change this costs one small query, however many keys there are. A key that was made or
        revoked without this class (by an earlier release, by hand) is noticed by the number of live keys.
        """
        count = select(func.count()).select_from(api_keys).where(_LIVE).scalar_subquery()
        with self.database.reading() as connection:
            # In one statement, so that the two belong together on PostgreSQL too.
            revision, live = connection.execute(select(api_key_changes.c.revision, count)).one()
            mark = KeyMark(revision, live)
            if mark == since:
                return KeyChanges(mark, (), whole=False)
            query = select(*_COLUMNS)
            whole = since is None or revision <= since.revision
            if since is None or whole:
                query = query.where(_LIVE)
            else:
                query = query.where(api_keys.c.revision > since.revision)
            return KeyChanges(mark, tuple(_record(row) for row in connection.execute(query)), whole)

    def find(self, key_hash: str) -> KeyRecord | None:
        """The key with this hash (`hash_key`) that is not revoked, if there is one."""
        previous = (api_keys.c.previous_hash == key_hash) & (
            api_keys.c.previous_expires_at > datetime.now(UTC)
        )
        return self._one(or_(api_keys.c.hash == key_hash, previous) & _LIVE)

    def find_live(self, name: str) -> KeyRecord | None:
        """The key with this name that is not revoked, if there is one."""
        return self._one((api_keys.c.name == name) & _LIVE)

    def close(self) -> None:
        """Close the connections."""
        self.database.close()

    def _one(self, condition: ColumnElement[bool]) -> KeyRecord | None:
        with self.database.reading() as connection:
            row = connection.execute(select(*_COLUMNS).where(condition)).one_or_none()
        return _record(row) if row else None

    @contextmanager
    def _unless_taken(self, name: str) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            # The index decides, not a look beforehand: two makers cannot both win.
            taken = self.find_live(name)
            if taken is None:
                raise StoreUnavailableError("the key could not be kept: try again") from None
            raise NameTakenError(name, taken.id) from None

    @contextmanager
    def _act(
        self, by: Actor | None, action: str, target: str, details: Mapping[str, Any] | None = None
    ) -> "Iterator[_Act]":
        """An act on a key, which goes into the audit log also when it is refused."""
        act = _Act(by or Actor.here(), action)
        try:
            yield act
        except RefusedError as error:
            reasons = {**(details or {}), "reason": str(error)}
            entry = AuditEntry.of(act.by, action, target, "refused", reasons)
            with self.database.writing() as connection:
                entry = write_entry(connection, entry)
            self._on_act(entry)
            raise
        if act.entry is not None:
            self._on_act(act.entry)


class _Act:
    """Someone's act on a key, on its way into the audit log."""

    def __init__(self, by: Actor, action: str) -> None:
        self.by = by
        self.entry: AuditEntry | None = None
        self._action = action

    def done(self, connection: Connection, target: str, details: Mapping[str, Any]) -> None:
        entry = AuditEntry.of(self.by, self._action, target, "done", details)
        self.entry = write_entry(connection, entry)


def _in_utc(fields: Mapping[str, Any]) -> dict[str, Any]:
    expires_at = fields.get("expires_at")
    return {**fields, "expires_at": expires_at.astimezone(UTC)} if expires_at else dict(fields)


def _new_key() -> str:
    return f"ck-{secrets.token_urlsafe(_SECRET_BYTES)}"


def _next_revision(connection: Connection) -> int:
    counting = update(api_key_changes).values(revision=api_key_changes.c.revision + 1)
    revision: int = connection.execute(counting.returning(api_key_changes.c.revision)).scalar_one()
    return revision


def _locked_record(connection: Connection, key_id: str) -> KeyRecord:
    query = select(*_COLUMNS).where(api_keys.c.id == key_id).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NoSuchKeyError
    return _record(row)


def _live_record(connection: Connection, key_id: str) -> KeyRecord:
    record = _locked_record(connection, key_id)
    if record.revoked_at is not None:
        raise KeyEndedError("the key is revoked, and that is for good: make a new one")
    return record


def _update(connection: Connection, key_id: str, values: Mapping[str, Any]) -> KeyRecord:
    revision = _next_revision(connection)
    changing = update(api_keys).where(api_keys.c.id == key_id).values(**values, revision=revision)
    return _record(connection.execute(changing.returning(*_COLUMNS)).one())


def _record(row: Row[Any]) -> KeyRecord:
    return KeyRecord(**row._mapping)
