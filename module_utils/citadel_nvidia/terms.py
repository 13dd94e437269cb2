"""The words that reading and explaining share."""

import re
from typing import Any, NamedTuple

Facts = dict[str, Any]


class Answer(NamedTuple):
    """What nvidia-smi said, on both channels, and its exit status; None when it did not end in time."""

    status: int | None
    text: str


def number(text: str | None) -> float | None:
    """Return a reading such as "16311 MiB" or "16x" without its unit; None for what is no reading."""
    found = re.match(r"-?\d+(\.\d+)?", (text or "").strip())
    return float(found[0]) if found else None


def whole(text: str | None) -> int | None:
    """Return a reading as a whole number."""
    value = number(text)
    return None if value is None else int(value)


def one_line(text: str) -> str:
    """Return a text in one line."""
    return " ".join(text.split())
