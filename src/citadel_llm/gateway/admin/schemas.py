"""What the admin API takes and gives: the types are checked here, the values by the store."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictInt, StrictStr

from citadel_llm.store import AuditEntry, KeyRecord
from citadel_llm.store.record import Priority, Scope

_FIELDS = {
    "name": "What to call the key; unique among live keys.",
    "owner": "Whom to ask about it.",
    "team": "Whom its use is accounted to.",
    "expires_at": "When it stops working by itself, with a time zone; null: never.",
    "models": "Real names of the models that it may use. Empty: all of them, but none for the scope "
    '`admin`. `["*"]`: all of them.',
    "requests_per_minute": "Null: what the site says.",
    "tokens_per_minute": "Read and written together. Null: what the site says.",
    "concurrent_requests": "Requests at once. Null: what the site says.",
    "tokens_per_day": "In UTC. Null: what the site says.",
    "tokens_per_month": "In UTC. Null: what the site says.",
    "priority": "Who goes first when a model is busy.",
    "scope": "`api` calls models, `admin` the admin API, `peer` is another node's gateway. It cannot be "
    "changed later.",
}


def _field(name: str, default: Any = ...) -> Any:
    return Field(default, description=_FIELDS[name])


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class KeyChange(_Strict):
    """What to change of a key; what is not sent stays."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"tokens_per_day": 2_000_000, "expires_at": None}]},
    )

    name: StrictStr = _field("name", "")
    owner: StrictStr = _field("owner", "")
    team: StrictStr = _field("team", "")
    expires_at: AwareDatetime | None = _field("expires_at", None)
    models: tuple[StrictStr, ...] = _field("models", ())
    requests_per_minute: StrictInt | None = _field("requests_per_minute", None)
    tokens_per_minute: StrictInt | None = _field("tokens_per_minute", None)
    concurrent_requests: StrictInt | None = _field("concurrent_requests", None)
    tokens_per_day: StrictInt | None = _field("tokens_per_day", None)
    tokens_per_month: StrictInt | None = _field("tokens_per_month", None)
    priority: Priority = _field("priority", "normal")


class NewKey(KeyChange):
    """A key to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "laptop",
                    "owner": "ada",
                    "team": "physics",
                    "expires_at": "2030-01-31T00:00:00Z",
                    "models": ["smollm2-135m-instruct"],
                    "requests_per_minute": 60,
                    "tokens_per_day": 2_000_000,
                }
            ]
        },
    )

    name: StrictStr = _field("name")
    scope: Scope = _field("scope", "api")


class Rotation(_Strict):
    """How to replace a key."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"grace_seconds": 86_400}]})

    grace_seconds: StrictInt = Field(
        0,
        ge=0,
        le=30 * 86_400,
        description="For how long the key of now works on; 0: it ends at once.",
    )


class Key(BaseModel):
    """What is known of a key; not the key itself."""

    object: Literal["api_key"] = "api_key"
    id: str = Field(description="Stays the same when the key is rotated.", examples=["5d1c9a0b7e42"])
    name: str = Field(description=_FIELDS["name"], examples=["laptop"])
    owner: str = Field(description=_FIELDS["owner"], examples=["ada"])
    team: str = Field(description=_FIELDS["team"], examples=["physics"])
    prefix: str = Field(description="The key's first characters.", examples=["ck-3vX0"])
    scope: Scope = _field("scope")
    state: Literal["live", "expired", "revoked"]
    created_at: datetime
    expires_at: datetime | None = _field("expires_at")
    revoked_at: datetime | None
    previous_expires_at: datetime | None = Field(
        description="Until when the key works that this one replaced; null: it does not."
    )
    models: tuple[str, ...] = Field(description=_FIELDS["models"], examples=[["smollm2-135m-instruct"]])
    requests_per_minute: int | None = Field(description=_FIELDS["requests_per_minute"], examples=[60])
    tokens_per_minute: int | None = _field("tokens_per_minute")
    concurrent_requests: int | None = _field("concurrent_requests")
    tokens_per_day: int | None = Field(description=_FIELDS["tokens_per_day"], examples=[2_000_000])
    tokens_per_month: int | None = _field("tokens_per_month")
    priority: Priority = _field("priority")

    @classmethod
    def of(cls, record: KeyRecord) -> "Key":
        """The key as the API shows it."""
        shown = {name: getattr(record, name) for name in cls.model_fields if name not in ("object", "state")}
        return cls(**shown, state=record.state(datetime.now(UTC)))


class SecretKey(Key):
    """A new key, with the key itself: it is shown this once and cannot be had again."""

    key: str = Field(description="The key itself.", examples=["ck-" + "x" * 43])

    @classmethod
    def made(cls, made: tuple[KeyRecord, str]) -> "SecretKey":
        """A key that was just made."""
        record, plaintext = made
        return cls(**Key.of(record).model_dump(), key=plaintext)


class KeyPage(BaseModel):
    """Keys, the oldest first."""

    object: Literal["list"] = "list"
    data: list[Key]
    has_more: bool = Field(description="Whether there are more: ask again with `after` = `last_id`.")
    first_id: str | None
    last_id: str | None


class Entry(BaseModel):
    """One act of an admin."""

    object: Literal["audit_entry"] = "audit_entry"
    id: int = Field(examples=[17])
    at: datetime
    actor: str = Field(description="`key:ID`, or `unix:NAME` on the host.", examples=["key:9f86d081884c"])
    address: str = Field(description="From where; `local` on the host itself.", examples=["10.0.0.7"])
    action: str = Field(examples=["key.change"])
    target: str = Field(description="The key's id; empty when none was made.", examples=["5d1c9a0b7e42"])
    outcome: Literal["done", "refused"]
    details: dict[str, Any] = Field(
        description="What was set; for a change, what it was before and what it is now; why it was refused.",
        examples=[{"tokens_per_day": [None, 2_000_000]}],
    )

    @classmethod
    def of(cls, entry: AuditEntry) -> "Entry":
        """The entry as the API shows it."""
        return cls(**vars(entry))


class EntryPage(BaseModel):
    """Acts, the newest first."""

    object: Literal["list"] = "list"
    data: list[Entry]
    has_more: bool = Field(description="Whether there are more: ask again with `before` = `last_id`.")
    first_id: int | None
    last_id: int | None
