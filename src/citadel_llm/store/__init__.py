"""What must last, in SQL: the API keys, and who did what with them."""

from citadel_llm.store.audit import Actor, AuditEntry, AuditLog
from citadel_llm.store.database import Database
from citadel_llm.store.errors import (
    InvalidFieldError,
    KeyEndedError,
    NameTakenError,
    NoSuchKeyError,
    RefusedError,
    StoreError,
    StoreUnavailableError,
)
from citadel_llm.store.keys import KeyChanges, KeyMark, KeyStore
from citadel_llm.store.record import ChangeableFields, KeyRecord, NewFields, hash_key

__all__ = [
    "Actor",
    "AuditEntry",
    "AuditLog",
    "ChangeableFields",
    "Database",
    "InvalidFieldError",
    "KeyChanges",
    "KeyEndedError",
    "KeyMark",
    "KeyRecord",
    "KeyStore",
    "NameTakenError",
    "NewFields",
    "NoSuchKeyError",
    "RefusedError",
    "StoreError",
    "StoreUnavailableError",
    "hash_key",
]
