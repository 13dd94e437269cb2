"""What must last, in SQL: the API keys."""

from citadel_llm.store.errors import (
    InvalidNameError,
    NameTakenError,
    NoSuchKeyError,
    StoreError,
    StoreUnavailableError,
)
from citadel_llm.store.keys import KeyRecord, KeyStore, hash_key

__all__ = [
    "InvalidNameError",
    "KeyRecord",
    "KeyStore",
    "NameTakenError",
    "NoSuchKeyError",
    "StoreError",
    "StoreUnavailableError",
    "hash_key",
]
