"""The audit log: who did what to which key, when, from where, and what came of it. Never a secret."""

import json
import os
import pwd
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, func, insert, select

from citadel_llm.store.database import Database
from citadel_llm.store.record import KEY_PATTERN
from citadel_llm.store.schema import audit_log

Outcome = Literal["done", "refused"]

_TARGET_LENGTH = 64
_ADDRESS_LENGTH = 64
_ACTOR_LENGTH = 128
_TEXT_LENGTH = 500
# What the kernel says of a process that no login began.
_NO_LOGIN = 2**32 - 1


@dataclass(frozen=True)
class Actor:
    """Who acts, and from where.

    Attributes:
        name: `key:ID` for an admin's key, `unix:NAME` for an account of this host.
        address: The client's IP address; `local` on the host itself.
    """

    name: str
    address: str

    @classmethod
    def key(cls, key_id: str, address: str) -> "Actor":
        """An admin, through the API."""
        return cls(f"key:{key_id}", address)

    @classmethod
    def here(cls) -> "Actor":
        """The person who runs this process, also behind sudo or runuser.

        The kernel remembers who logged in; nobody can change that without root's rights. Where it does not
        (in a container, say), sudo's word counts, and at last the process's own user.
        """
        login = _NO_LOGIN
        with suppress(OSError, ValueError):
            login = int(Path("/proc/self/loginuid").read_text())
        if login != _NO_LOGIN:
            name = _user_name(login)
        else:
            name = os.environ.get("SUDO_USER") or _user_name(os.getuid())
        connection = os.environ.get("SSH_CONNECTION", "").split()
        return cls(f"unix:{name}", connection[0] if connection else "local")


@dataclass(frozen=True)
class AuditEntry:
    """One act.

    Attributes:
        id: Counts up; 0 before it is written.
        at: When, in UTC.
        actor: Who: `Actor.name`.
        address: From where: `Actor.address`.
        action: What, such as `key.create`.
        target: On what: the key's id, empty when there is none yet.
        outcome: `done`, or `refused` (and `details` says why).
        details: What was set, with what it was before; only what JSON can hold.
    """

    id: int
    at: datetime
    actor: str
    address: str
    action: str
    target: str
    outcome: Outcome
    details: dict[str, Any]

    @classmethod
    def of(
        cls, by: Actor, action: str, target: str, outcome: Outcome, details: Mapping[str, Any]
    ) -> "AuditEntry":
        """An act that happens now; what is too long is cut, and what looks like a key taken out."""
        return cls(
            id=0,
            at=datetime.now(UTC),
            actor=_safe(by.name, _ACTOR_LENGTH),
            address=_safe(by.address, _ADDRESS_LENGTH),
            action=action,
            target=_safe(target, _TARGET_LENGTH),
            outcome=outcome,
            details={name: _plain(value) for name, value in details.items()},
        )

    def as_json(self) -> dict[str, Any]:
        """The entry as the API, `--json` and the journal show it."""
        return {
            "id": self.id,
            "at": self.at.isoformat(timespec="seconds"),
            "actor": self.actor,
            "address": self.address,
            "action": self.action,
            "target": self.target,
            "outcome": self.outcome,
            "details": self.details,
        }


def write_entry(connection: Connection, entry: AuditEntry) -> AuditEntry:
    """Add an entry in the transaction of the act itself: either both last, or neither.

    Returns:
        The entry with its id.
    """
    row = {**vars(entry), "details": json.dumps(entry.details)}
    del row["id"]
    adding = insert(audit_log).values(row).returning(audit_log.c.id)
    return replace(entry, id=connection.execute(adding).scalar_one())


class AuditLog:
    """The entries, to be read. Its methods block; threads may share one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(
        self, *, limit: int, before: int | None = None, actor: str | None = None, target: str | None = None
    ) -> tuple[AuditEntry, ...]:
        """The newest entries first.

        Args:
            limit: How many at most.
            before: Only those with a smaller id: to go on where the last page ended.
            actor: Only this one's acts.
            target: Only what was done to this key.

        Raises:
            StoreUnavailableError: The database cannot be reached or read.
        """
        query = select(audit_log).order_by(audit_log.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(audit_log.c.id < before)
        if actor is not None:
            query = query.where(audit_log.c.actor == actor)
        if target is not None:
            query = query.where(audit_log.c.target == target)
        with self._database.reading() as connection:
            return tuple(_entry(row) for row in connection.execute(query))

    def count(self) -> int:
        """How many entries there are.

        Raises:
            StoreUnavailableError: The database cannot be reached or read.
        """
        with self._database.reading() as connection:
            return connection.execute(select(func.count()).select_from(audit_log)).scalar_one()


def _entry(row: Row[Any]) -> AuditEntry:
    fields = row._asdict()
    return AuditEntry(**{**fields, "details": json.loads(fields["details"])})


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, str):
        return _safe(value, _TEXT_LENGTH)
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value


def _safe(text: str, length: int) -> str:
    return KEY_PATTERN.sub("ck-…", text)[:length]


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
