"""Figures of several rounds, and what is made of them: the middle, and how far they lie apart."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]
DIRECT = "the stub itself"
# Our gateway as several processes: of them only the section of their own tells.
WORKERS = {1: "citadel, 1 worker", 2: "citadel, 2 workers"}
# Below this the proxy's core still had time: the load was the limit, not the proxy.
BUSY = 0.9
# A paced stream of which less than this came within its time is one that fell behind.
IN_TIME = 0.98
# What else runs on the machine may take this share of the two cores, and the figures stand.
QUIET = 0.05


@dataclass(frozen=True)
class Spread:
    """The values of the rounds.

    Attributes:
        middle: Their median.
        low: The least.
        high: The greatest.
    """

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if number(self.low) == number(self.high):
            return number(self.middle)
        return f"{number(self.middle)} ({number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
    """With three digits that count, or all before the point."""
    if abs(value) >= 100:  # noqa: PLR2004 - three digits
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"  # noqa: PLR2004


def contenders(results: Results) -> list[str]:
    """Those that were measured, our gateway first."""
    return [name for name in results["figures"] if name not in {DIRECT, *WORKERS.values()}]


def spread(results: Results, contender: str, measure: str, figure: str) -> Spread | None:
    """A figure's spread over the rounds, if it was measured."""
    values = results["figures"].get(contender, {}).get(measure, {}).get(figure)
    return Spread.of(values) if values else None


def added(results: Results, contender: str, measure: str, figure: str) -> Spread | None:
    """What it is more than the stub's own, each round by itself: both had the same machine then."""
    values = results["figures"].get(contender, {}).get(measure, {}).get(figure)
    own = results["figures"].get(DIRECT, {}).get(measure, {}).get(figure)
    if not values or not own or len(values) != len(own):
        return None
    return Spread.of([one - other for one, other in zip(values, own, strict=True)])


def others_busy(results: Results) -> float:
    """The share of the two cores that went to what is no part of the benchmark: the mean of all measures."""
    values = [
        value
        for measures in results["figures"].values()
        for found in measures.values()
        for value in found.get("others busy", [])
    ]
    return statistics.fmean(values) if values else 0.0
