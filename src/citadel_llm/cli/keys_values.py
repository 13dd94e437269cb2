"""From what is typed after an option of `citadel keys` to the value that it means."""

import re
from datetime import UTC, datetime, timedelta

from citadel_llm.store import InvalidFieldError
from citadel_llm.store.record import ANY_MODEL

_DURATION = re.compile(r"(\d{1,6})([smhdw]?)")
_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_COUNT = re.compile(r"(\d{1,16})([kM]?)")
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}


def limit(field: str, text: str) -> int | None:
    """A limit: `600`, `100k`, `2M`; `none` for the site's own.

    Raises:
        InvalidFieldError: It is none of these.
    """
    if text == "none":
        return None
    match = _COUNT.fullmatch(text)
    if not match:
        raise InvalidFieldError(field, f"must be a number such as 600, 100k or 2M, or none, not {text!r}")
    return int(match[1]) * _FACTORS[match[2]]


def expiry(text: str) -> datetime | None:
    """When a key ends: `90d` from now, a day such as `2030-01-31` (its beginning, in UTC), or `never`.

    Raises:
        InvalidFieldError: It is none of these.
    """
    if text == "never":
        return None
    if match := _DURATION.fullmatch(text):
        if not match[2]:
            raise InvalidFieldError("expires_at", f"must say a unit, such as {text}d for {text} days")
        try:
            return (datetime.now(UTC) + _timedelta(match)).replace(microsecond=0)
        except OverflowError:
            raise InvalidFieldError("expires_at", "must be sooner, or never") from None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        wanted = "must be a duration such as 90d, a day such as 2030-01-31, or never"
        raise InvalidFieldError("expires_at", f"{wanted}, not {text!r}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def duration(field: str, text: str) -> timedelta:
    """A duration: `0`, `90s`, `30m`, `24h`, `7d`, `2w`.

    Raises:
        InvalidFieldError: It is none.
    """
    match = _DURATION.fullmatch(text)
    if not match or (not match[2] and match[1] != "0"):
        raise InvalidFieldError(field, f"must be a duration such as 30m, 24h or 7d, or 0, not {text!r}")
    return _timedelta(match)


def models(names: list[str]) -> tuple[str, ...]:
    """The models: names, `all` for every model, `none` for none.

    Raises:
        InvalidFieldError: `none` or `all` stand beside a name.
    """
    if len(names) > 1 and {"none", "all"} & set(names):
        raise InvalidFieldError("models", "must be either all, or none, or names")
    if names == ["none"]:
        return ()
    return (ANY_MODEL,) if names == ["all"] else tuple(names)


def _timedelta(match: re.Match[str]) -> timedelta:
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
