"""The picture of the results: what a request and an event cost, on a scale on which each step is tenfold."""

import math
from collections.abc import Iterator

from bench.figures import Results, Spread, contenders, number, spread
from citadel_llm.placement import svg

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 860, 190, 120, 96, 34
_PANELS = (
    ("requests 0.7 KB", "A request of 0.7 KB"),
    ("events paced", "An event, 200 streams of 50 a second"),
)
_GAP = 64
# Gridlines stand at these, in microseconds.
_STEPS = (10, 30, 100, 300, 1000, 3000, 10000)


def picture(results: Results) -> str:
    """The picture as SVG."""
    rows = {
        measure: [
            (name, found) for name in contenders(results) if (found := spread(results, name, measure, "cpu"))
        ]
        for measure, _ in _PANELS
    }
    values = [found.high for each in rows.values() for _, found in each]
    least = min((found.low for each in rows.values() for _, found in each), default=10)
    scale = _Scale(min(10, least), max([100, *values]))
    body = [
        svg.text("What the gateway costs beside its peers", 24, 34, "h", 17),
        svg.text("CPU microseconds; dot: median, line: least to greatest of the rounds", 24, 56, "s"),
    ]
    top = _TOP
    for measure, title in _PANELS:
        body += _panel(title, rows[measure], scale, top)
        top += len(rows[measure]) * _ROW + _GAP
    told = "; ".join(
        f"{title}: {', '.join(f'{name} {number(found.middle)}' for name, found in rows[measure])}"
        for measure, title in _PANELS
    )
    return svg.document("CPU of a request and of an event", told, _WIDTH, top - 12, body)


class _Scale:
    """Microseconds to places, by their logarithm."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low * 0.8, high * 1.2

    def place(self, value: float) -> float:
        """How far from the left, in the picture's units."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def steps(self) -> list[int]:
        """The values with a gridline."""
        return [step for step in _STEPS if self.low < step < self.high]


def _panel(title: str, rows: list[tuple[str, Spread]], scale: _Scale, top: int) -> Iterator[str]:
    yield svg.text(title, 24, top, "h")
    bottom = top + 12 + len(rows) * _ROW
    for step in scale.steps():
        place = scale.place(step)
        yield svg.line("line", place, top + 12, bottom)
        yield from svg.label(f"{step:,}", place - 30, place + 30, bottom + 15, "s", whole=True)
    for index, (name, found) in enumerate(rows):
        middle = top + 12 + index * _ROW + _ROW / 2
        ours = name == "citadel"
        colour = svg.class_of("weights" if ours else "runtime")
        low, high = scale.place(found.low), scale.place(found.high)
        yield svg.text(name, 24, middle + 4, "h" if ours else "t")
        yield svg.rect(colour, (low, middle - 1.5, max(high - low, 1), 3), 1)
        yield f'  <circle class="{colour}" cx="{scale.place(found.middle):.1f}" cy="{middle:.1f}" r="6"/>'
        yield svg.text(number(found.middle), high + 12, middle + 4, "h" if ours else "t")
