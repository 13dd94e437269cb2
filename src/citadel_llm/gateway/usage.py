"""/v1/usage: what a key has used; and the shape in which use is told, to admins too."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from citadel_llm.gateway.errors import InvalidRequestError, KeysUnavailableError
from citadel_llm.gateway.models import Gateway
from citadel_llm.gateway.state import State
from citadel_llm.store import StoreUnavailableError
from citadel_llm.store.usage import Group, UsageFilter, UsageStore, UsageSum, total

_DEFAULT_DAYS = 30

_log = structlog.get_logger("citadel.gateway.usage")

# Without the one character that PostgreSQL takes in no text.
TEXT_PATTERN = r"^[^\x00]*$"

Since = Annotated[date | None, Query(description="First day (UTC); 30 days back when absent.")]
Until = Annotated[date | None, Query(description="Last day (UTC), itself included; today when absent.")]
OfModel = Annotated[
    str | None,
    Query(description="Only this model, by its own name.", max_length=256, pattern=TEXT_PATTERN),
]


class Usage(BaseModel):
    """Use, added up. Of day, key, team and model, those are null by which it is not split."""

    day: date | None = Field(None, description="In UTC: the day on which the requests began.")
    key_id: str | None = None
    key_name: str | None = Field(None, description="Of a revoked key, too; its id where it is not known.")
    owner: str | None = None
    team: str | None = None
    model: str | None = None
    requests: int = Field(0, description="Requests that reached an engine.")
    failed: int = Field(0, description="Those answered with an error, given up by the client, or cut off.")
    estimated: int = Field(0, description="Those whose tokens are estimated: nobody saw their end.")
    tokens_in: int = Field(0, description="Tokens of prompts.")
    tokens_cached: int = Field(0, description="Those of them that an engine had in its cache.")
    tokens_out: int = Field(0, description="Tokens produced.")
    tokens_estimated: int = Field(0, description="How many of all these tokens are estimated.")
    first_byte: float | None = Field(None, description="Mean time to the answer's first byte, in seconds.")
    seconds: float = Field(0.0, description="How long all requests took, together.")

    @classmethod
    def of(cls, row: UsageSum) -> "Usage":
        """A row of the store's."""
        fields = asdict(row)
        known = {name: fields[name] for name in cls.model_fields if name in fields}
        return cls(**known, first_byte=row.first_byte)


class UsageList(BaseModel):
    """Use from one day to another, by day in order of time, else the most tokens first."""

    object: Literal["list"] = "list"
    since: date
    until: date
    data: list[Usage]
    total: Usage


router = APIRouter(prefix="/v1", tags=["Usage"])


@router.get("/usage", summary="Show what the key has used")
async def own_usage(
    asked: Gateway,
    by: Annotated[
        list[Literal["model", "day"]] | None, Query(description="What to split by; give it again for both.")
    ] = None,
    since: Since = None,
    until: Until = None,
    model: OfModel = None,
) -> UsageList:
    """What the key that asks has used; the last seconds may be missing."""
    only = UsageFilter(*days_of(since, until), key_id=asked.key.id, model=model)
    try:
        return await read_usage(asked.state, tuple(by or ("model",)), only)
    except StoreUnavailableError as error:
        _log.error("the database is away", reason=str(error))
        message = "The database cannot be read just now; try again soon."
        raise KeysUnavailableError(message, retry_after=2) from None


def days_of(since: date | None, until: date | None) -> tuple[date, date]:
    """The days that are meant, when not all is said.

    Raises:
        InvalidRequestError: The first is later than the last.
    """
    last = until or datetime.now(UTC).date()
    first = since or date.fromordinal(max(last.toordinal() - _DEFAULT_DAYS + 1, 1))
    if first > last:
        raise InvalidRequestError("'since' must not be later than 'until'.", param="since")
    return first, last


async def read_usage(state: State, by: Sequence[Group], only: UsageFilter) -> UsageList:
    """The answer to a question about use. The database is asked in a thread.

    Raises:
        StoreUnavailableError: It cannot be read.
    """
    store = UsageStore(state["keys"].store.database)
    rows = await asyncio.to_thread(store.sums, tuple(dict.fromkeys(by)), only)
    assert only.since and only.until  # noqa: S101, PT018 - days_of has set both
    return UsageList(
        since=only.since,
        until=only.until,
        data=[Usage.of(row) for row in rows],
        total=Usage.of(total(rows)),
    )
