"""How `citadel keys` shows keys: as JSON, as a table, and one with everything."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from citadel_llm.cli.common import colour, table
from citadel_llm.store import KeyRecord
from citadel_llm.store.record import LIMITS

_SHORT = {
    "requests_per_minute": "req/min",
    "tokens_per_minute": "tok/min",
    "concurrent_requests": "at once",
    "tokens_per_day": "tok/day",
    "tokens_per_month": "tok/month",
}
_COLOURS = {"live": "green", "expired": "yellow", "revoked": "dim"}


def as_json(record: KeyRecord) -> dict[str, Any]:
    """A key's record for scripts; the API shows the same."""
    return {
        "id": record.id,
        "name": record.name,
        "owner": record.owner,
        "team": record.team,
        "prefix": record.prefix,
        "scope": record.scope,
        "state": record.state(datetime.now(UTC)),
        "created_at": _iso(record.created_at),
        "expires_at": _iso(record.expires_at),
        "revoked_at": _iso(record.revoked_at),
        "previous_expires_at": _iso(record.previous_expires_at),
        "models": list(record.models),
        "priority": record.priority,
        **{name: getattr(record, name) for name in LIMITS},
    }


def list_of(records: Sequence[KeyRecord]) -> str:
    """Keys as a table."""
    now = datetime.now(UTC)
    headings = ["ID", "NAME", "OWNER", "TEAM", "SCOPE", "BEGINS", "LIMITS", "EXPIRES", "STATE"]
    rows = []
    for record in records:
        state = record.state(now)
        shown = f"revoked {moment(record.revoked_at)}" if state == "revoked" else state
        rows.append(
            [
                record.id,
                record.name,
                record.owner,
                record.team,
                record.scope,
                f"{record.prefix}…",
                _limits(record) or "-",
                moment(record.expires_at) or "never",
                colour(shown, _COLOURS[state]),
            ]
        )
    return table(headings, rows)


def details_of(record: KeyRecord) -> str:
    """One key, a line for each field."""
    lines = {
        "id": record.id,
        "name": record.name,
        "owner": record.owner or "-",
        "team": record.team or "-",
        "scope": record.scope,
        "begins": f"{record.prefix}…",
        "state": record.state(datetime.now(UTC)),
        "made": moment(record.created_at),
        "expires": moment(record.expires_at) or "never",
        **({"revoked": moment(record.revoked_at)} if record.revoked_at else {}),
        **({"replaced key ends": moment(record.previous_expires_at)} if record.previous_expires_at else {}),
        "models": models_of(record),
        "priority": record.priority,
    }
    for name in LIMITS:
        value = getattr(record, name)
        lines[name.replace("_", " ")] = "the site's own" if value is None else f"{value:,}"
    width = max(len(name) for name in lines)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines.items())


def models_of(record: KeyRecord) -> str:
    """Which models the key may use, in words."""
    if record.models in ((), ("*",)):
        return "all" if record.may_use("") else "none"
    return ", ".join(record.models)


def moment(value: datetime | None) -> str:
    """A time for people; empty for none."""
    return f"{value:%Y-%m-%d %H:%M} UTC" if value else ""


def _limits(record: KeyRecord) -> str:
    set_ones = {short: getattr(record, name) for name, short in _SHORT.items()}
    parts = [f"{_short(value)} {short}" for short, value in set_ones.items() if value is not None]
    if record.models not in ((), ("*",)):
        parts.append(f"{len(record.models)} model{'s' if len(record.models) > 1 else ''}")
    if record.priority != "normal":
        parts.append(record.priority)
    return ", ".join(parts)


def _short(value: int) -> str:
    for factor, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= factor and value % factor == 0:
            return f"{value // factor}{letter}"
    return str(value)


def _iso(value: datetime | None) -> str | None:
    return value.isoformat(timespec="seconds") if value else None
