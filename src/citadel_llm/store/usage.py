"""Usage comes out of the database: sums by key, team, model and day, and what each key has spent.

All of it is answered from the sums by day, which are kept for ever and are small: a row for each day, key,
team and model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Select, case, func, or_, select

from citadel_llm.store.database import Database
from citadel_llm.store.schema import api_keys
from citadel_llm.store.usage_tables import usage_days

Group = Literal["key", "team", "model", "day"]
GROUPS: tuple[Group, ...] = get_args(Group)

_SUMMED = (
    "requests",
    "failed",
    "estimated",
    "tokens_in",
    "tokens_cached",
    "tokens_out",
    "tokens_estimated",
    "first_bytes",
    "first_byte_seconds",
    "seconds",
)


@dataclass(frozen=True)
class UsageFilter:
    """Which use is meant. What is None is not looked at.

    Attributes:
        since: The first day (UTC).
        until: The last day.
        key: A key's id or its name; of several keys that had the name, all.
        key_id: A key's id, and nothing else.
        team: A team.
        model: A model's own name.
    """

    since: date | None = None
    until: date | None = None
    key: str | None = None
    team: str | None = None
    model: str | None = None
    key_id: str | None = None


@dataclass(frozen=True)
class UsageSum:
    """Use added up. Of `day`, `key_id`, `team` and `model` those are None by which it is not split.

    Attributes:
        key_name: The key's name, of a revoked one too; its id where the key is not known.
        owner: The key's owner.
        requests: Requests that reached an engine.
        failed: Those answered with an error, given up by their client (499), or cut off.
        estimated: Those whose tokens are no engine's word.
        tokens_in: Tokens of prompts.
        tokens_cached: Those of them that an engine had in its cache.
        tokens_out: Tokens produced.
        tokens_estimated: How many of all tokens are estimated.
        first_bytes: Requests whose answer began.
        first_byte_seconds: How long they took for it, together.
        seconds: How long all requests took, together.
    """

    day: date | None = None
    key_id: str | None = None
    key_name: str | None = None
    owner: str | None = None
    team: str | None = None
    model: str | None = None
    requests: int = 0
    failed: int = 0
    estimated: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    tokens_estimated: int = 0
    first_bytes: int = 0
    first_byte_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens read and produced."""
        return self.tokens_in + self.tokens_out

    @property
    def first_byte(self) -> float | None:
        """Mean time to the answer's first byte, in seconds."""
        return self.first_byte_seconds / self.first_bytes if self.first_bytes else None


class UsageStore:
    """Answers questions about use. Its methods block; threads may share one.

    Args:
        database: Where usage stands.

    Raises:
        StoreUnavailableError: From every method: the database cannot be reached or read.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def sums(self, by: Sequence[Group] = (), only: UsageFilter | None = None) -> list[UsageSum]:
        """Use, split by some of key, team, model and day; in one sum when split by nothing.

        Returns:
            By day in order of time, otherwise the most tokens first. Empty when there was no use.
        """
        with self._database.reading() as connection:
            rows = connection.execute(_query(by, only or UsageFilter())).mappings()
            return [_sum(dict(row)) for row in rows]

    def spent(self, now: datetime | None = None) -> dict[str, tuple[int, int]]:
        """What each key has spent: its id, and its tokens (read and produced) today and this month, UTC.

        What lies in a gateway's spool still is not in it.
        """
        today = (now or datetime.now(UTC)).astimezone(UTC).date()
        days = usage_days.c
        tokens = days.tokens_in + days.tokens_out
        query = (
            select(days.key_id, func.sum(case((days.day == today, tokens), else_=0)), func.sum(tokens))
            .where(days.day >= today.replace(day=1), days.day <= today)
            .group_by(days.key_id)
        )
        with self._database.reading() as connection:
            return {key: (int(day), int(month)) for key, day, month in connection.execute(query)}


def total(rows: Sequence[UsageSum]) -> UsageSum:
    """Sums added up to one."""
    return UsageSum(**{name: sum(getattr(row, name) for row in rows) for name in _SUMMED})


def _query(by: Sequence[Group], only: UsageFilter) -> Select[Any]:
    days = usage_days.c
    split: dict[Group, ColumnElement[Any]] = {
        "key": days.key_id,
        "team": days.team,
        "model": days.model,
        "day": days.day,
    }
    groups = [split[name] for name in by]
    sums = [func.sum(days[name]).label(name) for name in _SUMMED]
    query = select(*groups, *sums).where(*_conditions(only))
    # Without a group there would be a row of nothing when there is nothing.
    query = query.group_by(*groups).having(func.count() > 0)
    added = query.subquery()
    tokens = added.c.tokens_in + added.c.tokens_out
    order = [added.c.day] if "day" in by else []
    rest = [added.c[split[name].name] for name in by if name != "day"]
    if "key" not in by:
        return select(added).order_by(*order, tokens.desc(), *rest)
    return (
        select(added, func.coalesce(api_keys.c.name, added.c.key_id).label("key_name"), api_keys.c.owner)
        .select_from(added.outerjoin(api_keys, api_keys.c.id == added.c.key_id))
        .order_by(*order, tokens.desc(), *rest)
    )


def _conditions(only: UsageFilter) -> list[ColumnElement[bool]]:
    days = usage_days.c
    conditions: list[ColumnElement[bool]] = []
    if only.since:
        conditions.append(days.day >= only.since)
    if only.until:
        conditions.append(days.day <= only.until)
    if only.key is not None:
        named = select(api_keys.c.id).where(api_keys.c.name == only.key)
        conditions.append(or_(days.key_id == only.key, days.key_id.in_(named)))
    if only.key_id is not None:
        conditions.append(days.key_id == only.key_id)
    if only.team is not None:
        conditions.append(days.team == only.team)
    if only.model is not None:
        conditions.append(days.model == only.model)
    return conditions


def _sum(row: dict[str, Any]) -> UsageSum:
    # PostgreSQL adds whole numbers up to decimal ones.
    whole = {name: int(row[name]) for name in _SUMMED if not name.endswith("seconds")}
    return UsageSum(**{**row, **whole})
