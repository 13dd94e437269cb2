"""What is known of an API key, and which values its fields may have."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict, get_args

from citadel_llm.store.errors import InvalidFieldError

Priority = Literal["high", "normal", "low"]
Scope = Literal["api", "admin", "peer"]

LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "tokens_per_day",
    "tokens_per_month",
)

# Stands for every model, in `models`.
ANY_MODEL = "*"

KEY_PATTERN = re.compile(r"ck-[A-Za-z0-9_-]{43}")

_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,63}")
_NAME_WORDS = "1 to 64 letters, digits, spaces or any of . _ @ -, beginning with a letter or digit"
_OWNER_LENGTH = 128
_MODEL_PATTERN = re.compile(r"[^\s,]{1,256}")
_MOST_MODELS = 100
# What every JSON reader still takes for a whole number.
_LARGEST = 2**53 - 1
_LAST_YEAR = 2199


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What is known of a key; enough to name it, not enough to use it.

    Attributes:
        id: Names the key in logs and commands; no secret. It stays the same when the key is rotated.
        name: What its maker called it; unique among live keys.
        owner: Whom to ask about it; may be empty.
        team: Whom its use is accounted to; may be empty.
        prefix: The key's first characters, for people to tell keys apart.
        hash: SHA-256 of the key, in hex.
        created_at: In UTC, as all times here.
        revoked_at: None while the key is live.
        expires_at: When it stops working by itself; None: never.
        models: The models that it may use, by their real names. Empty: all of them for the scopes `api` and
            `peer`, none for `admin`. The one name `*`: all of them.
        requests_per_minute: None, here and below: what the setting of this name in `gateway.limits` says.
        tokens_per_minute: Read and written together.
        concurrent_requests: Requests at once.
        tokens_per_day: In UTC.
        tokens_per_month: In UTC.
        priority: Who waits for whom when a model has more requests than it can take.
        scope: `api` calls models, `admin` the admin API, `peer` is another node's gateway.
        previous_hash: After a rotation, SHA-256 of the key that this one replaced.
        previous_expires_at: Until when that one works.
    """

    id: str
    name: str
    owner: str
    team: str = ""
    prefix: str
    hash: str
    created_at: datetime
    revoked_at: datetime | None = None
    expires_at: datetime | None = None
    models: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    priority: Priority = "normal"
    scope: Scope = "api"
    previous_hash: str | None = None
    previous_expires_at: datetime | None = None

    @property
    def calls_models(self) -> bool:
        """Whether the key may ask models at all: one of the scope `admin` only when it names some."""
        return self.scope != "admin" or bool(self.models)

    def may_use(self, model: str) -> bool:
        """Whether the key may ask the model of this real name."""
        if not self.models:
            return self.scope != "admin"
        return model in self.models or self.models == (ANY_MODEL,)

    def state(self, now: datetime) -> Literal["live", "expired", "revoked"]:
        """What has become of the key by then."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "live"


class ChangeableFields(TypedDict, total=False):
    """What may be said of a key when it is made, and changed later; `KeyRecord` says what each is."""

    name: str
    owner: str
    team: str
    expires_at: datetime | None
    models: tuple[str, ...]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    tokens_per_day: int | None
    tokens_per_month: int | None
    priority: Priority


class NewFields(TypedDict, total=False):
    """What may be said of a key when it is made, beyond its name and owner."""

    team: str
    expires_at: datetime | None
    models: tuple[str, ...]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent_requests: int | None
    tokens_per_day: int | None
    tokens_per_month: int | None
    priority: Priority
    scope: Scope


def hash_key(plaintext: str) -> str:
    """SHA-256 of a key, in hex: the form in which it is stored and looked up."""
    return hashlib.sha256(plaintext.encode()).hexdigest()


def check_fields(fields: Mapping[str, Any]) -> None:
    """Check the fields that are given.

    Raises:
        InvalidFieldError: For the first that is not acceptable; its text never holds a key, should somebody
            have sent one in a field.
    """
    for field, value in fields.items():
        if field in ("name", "team"):
            if not (field == "team" and value == ""):
                _check_name(field, value)
        elif field == "owner":
            if len(value) > _OWNER_LENGTH or not value.isprintable():
                raise InvalidFieldError(field, f"must be at most {_OWNER_LENGTH} printable characters")
            _hold_no_key(field, value)
        elif field in LIMITS:
            if value is not None and not (type(value) is int and 1 <= value <= _LARGEST):
                raise InvalidFieldError(field, f"must be a whole number from 1 to {_LARGEST}, not {value!r}")
        elif field == "models":
            _check_models(value)
        elif field == "expires_at":
            _check_expiry(value)
        elif field in ("priority", "scope"):
            allowed = get_args(Priority if field == "priority" else Scope)
            if value not in allowed:
                raise InvalidFieldError(field, f"must be one of {', '.join(allowed)}")
        else:
            raise InvalidFieldError(field, "is not a field of a key that can be set")


def _check_name(field: str, value: str) -> None:
    _hold_no_key(field, value)
    if not _NAME_PATTERN.fullmatch(value):
        raise InvalidFieldError(field, f"must be {_NAME_WORDS}")


def _check_models(names: tuple[str, ...]) -> None:
    if len(names) > _MOST_MODELS:
        raise InvalidFieldError("models", f"must be at most {_MOST_MODELS} names")
    if len(set(names)) != len(names):
        raise InvalidFieldError("models", "must not name a model twice")
    if ANY_MODEL in names and len(names) > 1:
        raise InvalidFieldError("models", f"must be either {ANY_MODEL} alone, for every model, or names")
    for name in names:
        _hold_no_key("models", name)
        if not (_MODEL_PATTERN.fullmatch(name) and name.isprintable()):
            raise InvalidFieldError("models", "must be names of 1 to 256 characters without spaces or commas")


def _check_expiry(moment: datetime | None) -> None:
    if moment is None:
        return
    if moment.tzinfo is None:
        raise InvalidFieldError("expires_at", "must say its time zone, such as 2030-01-31T00:00:00Z")
    if moment.year > _LAST_YEAR:
        raise InvalidFieldError("expires_at", f"must lie before the end of {_LAST_YEAR}, or be absent")
    if moment <= datetime.now(UTC):
        raise InvalidFieldError("expires_at", "must lie in the future; a key that shall end now is revoked")


def _hold_no_key(field: str, value: str) -> None:
    if KEY_PATTERN.search(value):
        raise InvalidFieldError(field, "must not hold an API key: it would be stored where many can read it")
