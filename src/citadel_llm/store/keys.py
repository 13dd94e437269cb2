"""API keys: made, listed, revoked, found. The keys themselves are never stored, only their SHA-256.

A key is 256 random bits, so a fast hash is the right one: there is nothing to guess, and a slow hash, made
for passwords that people choose, would only slow every request down.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock

from sqlalchemy import Connection, Engine, Row, insert, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from citadel_llm.store.database import open_database
from citadel_llm.store.errors import InvalidNameError, NameTakenError, NoSuchKeyError, StoreUnavailableError
from citadel_llm.store.schema import api_keys, create_tables

KEY_PATTERN = re.compile(r"ck-[A-Za-z0-9_-]{43}")

_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,63}")
_OWNER_LENGTH = 128
_SECRET_BYTES = 32
_PREFIX_LENGTH = 7


@dataclass(frozen=True)
class KeyRecord:
    """What is known of a key; enough to name it, not enough to use it.

    Attributes:
        id: Names the key in logs and commands; no secret.
        name: What its maker called it; unique among live keys.
        owner: Whom to ask about it; may be empty.
        prefix: The key's first characters, for people to tell keys apart.
        hash: SHA-256 of the key, in hex.
        created_at: In UTC.
        revoked_at: In UTC; None while the key is live.
    """

    id: str
    name: str
    owner: str
    prefix: str
    hash: str
    created_at: datetime
    revoked_at: datetime | None = None


def hash_key(plaintext: str) -> str:
    """SHA-256 of a key, in hex: the form in which it is stored and looked up."""
    return hashlib.sha256(plaintext.encode()).hexdigest()


class KeyStore:
    """The keys in the database. Its methods block; threads may share one.

    Nothing is opened before the first use, and an opening that failed is tried again at the next one: a
    service can start while its database is away.

    Args:
        database_url: SQLAlchemy's, `sqlite:////path/file` or `postgresql+driver://…`. The tables are made
            when they are first needed.

    Raises:
        StoreUnavailableError: From every method: the database cannot be reached, read or written.
    """

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._engine: Engine | None = None
        self._opening = Lock()

    def create(self, name: str, owner: str = "") -> tuple[KeyRecord, str]:
        """Make a key.

        Returns:
            The record, and the key itself, which cannot be had again: `ck-` and 43 characters.

        Raises:
            InvalidNameError: The name or the owner is not acceptable.
            NameTakenError: A live key has this name.
        """
        _check_names(name, owner)
        plaintext = f"ck-{secrets.token_urlsafe(_SECRET_BYTES)}"
        record = KeyRecord(
            id=secrets.token_hex(6),
            name=name,
            owner=owner,
            prefix=plaintext[:_PREFIX_LENGTH],
            hash=hash_key(plaintext),
            created_at=datetime.now(UTC),
        )
        try:
            with self._transaction() as connection:
                connection.execute(insert(api_keys).values(**vars(record)))
        except IntegrityError:
            # The index decides, not a look beforehand: two makers cannot both win.
            taken = self.find_live(name)
            if taken is None:
                raise StoreUnavailableError("the key could not be kept: try again") from None
            raise NameTakenError(name, taken.id) from None
        return record, plaintext

    def list(self, *, revoked: bool = True) -> tuple[KeyRecord, ...]:
        """All keys, oldest first; without the revoked ones when told so."""
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        if not revoked:
            query = query.where(api_keys.c.revoked_at.is_(None))
        with self._transaction() as connection:
            return tuple(_record(row) for row in connection.execute(query))

    def find(self, key_hash: str) -> KeyRecord | None:
        """The live key with this hash (`hash_key`), if there is one."""
        query = select(api_keys).where(api_keys.c.hash == key_hash, api_keys.c.revoked_at.is_(None))
        with self._transaction() as connection:
            row = connection.execute(query).one_or_none()
        return _record(row) if row else None

    def find_live(self, name: str) -> KeyRecord | None:
        """The live key with this name, if there is one."""
        query = select(api_keys).where(api_keys.c.name == name, api_keys.c.revoked_at.is_(None))
        with self._transaction() as connection:
            row = connection.execute(query).one_or_none()
        return _record(row) if row else None

    def revoke(self, key_id: str) -> KeyRecord:
        """Revoke a key for good. Revoking it again changes nothing.

        Raises:
            NoSuchKeyError: There is no key with this id.
        """
        with self._transaction() as connection:
            connection.execute(
                update(api_keys)
                .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=datetime.now(UTC))
            )
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
        if row is None:
            raise NoSuchKeyError("there is no key with this id: `citadel keys list` shows the ids")
        return _record(row)

    def close(self) -> None:
        """Close the connections."""
        if self._engine is not None:
            self._engine.dispose()

    def _open(self) -> Engine:
        with self._opening:
            if self._engine is None:
                engine = open_database(self._url)
                try:
                    create_tables(engine)
                except SQLAlchemyError:
                    engine.dispose()
                    raise
                self._engine = engine
            return self._engine

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._open().begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except DBAPIError as error:
            # The driver's own words: SQLAlchemy's would add the statement and its parameters.
            raise StoreUnavailableError(f"the database cannot be used: {error.orig}") from None
        except SQLAlchemyError as error:
            raise StoreUnavailableError(f"the database cannot be used: {type(error).__name__}") from None


def _record(row: Row[tuple[object, ...]]) -> KeyRecord:
    return KeyRecord(**row._asdict())


def _check_names(name: str, owner: str) -> None:
    if not _NAME_PATTERN.fullmatch(name):
        raise InvalidNameError(
            f"{name!r} cannot name a key: use 1 to 64 letters, digits, spaces or any of . _ @ -, "
            "beginning with a letter or digit"
        )
    if len(owner) > _OWNER_LENGTH or not owner.isprintable():
        raise InvalidNameError(f"the owner must be at most {_OWNER_LENGTH} printable characters")
