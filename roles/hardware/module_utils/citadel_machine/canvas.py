"""Draw boxes, words and lines as SVG. All text is escaped here and nowhere else."""

import html
from typing import NamedTuple

from .terms import Finding

# Colours by role, for light, dark and print; a sign and a word always stand beside them.
STYLE = """
.machine{--paper:#fff;--box:#f5f7fa;--inner:#fff;--ink:#17202e;--soft:#586375;--edge:#cbd3de;--ok:#167546;
--ok-box:#e9f6ef;--bad:#b92319;--bad-box:#fdeceb;--link:#6a45c8;--wire:#8f9bac;--stick:#3f6fb5}
@media (prefers-color-scheme:dark){.machine{--paper:#12161d;--box:#1a202a;--inner:#12161d;--ink:#e8ecf2;
--soft:#9aa6b8;--edge:#364151;--ok:#56c98d;--ok-box:#132b20;--bad:#ff8478;--bad-box:#3a1a1a;--link:#a68cf2;
--wire:#66738a;--stick:#6d9ce0}}
@media print{.machine{--paper:#fff;--box:#f5f7fa;--inner:#fff;--ink:#17202e;--soft:#586375;--edge:#cbd3de;
--ok:#167546;--ok-box:#e9f6ef;--bad:#b92319;--bad-box:#fdeceb;--link:#6a45c8;--wire:#8f9bac;--stick:#3f6fb5}}
.machine text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:var(--ink);
font-size:13px}
.machine .paper{fill:var(--paper);stroke:var(--edge);stroke-width:1.5}
.machine .box{fill:var(--box);stroke:var(--edge)}.machine .inner{fill:var(--inner);stroke:var(--edge)}
.machine .ok-box{fill:var(--ok-box);stroke:var(--ok);stroke-width:1.5}
.machine .bad-box{fill:var(--bad-box);stroke:var(--bad);stroke-width:2}
.machine .missing{fill:none;stroke:var(--soft);stroke-dasharray:5 4}
.machine .title{font-size:15px;font-weight:650}.machine .name{font-weight:600}
.machine .soft{fill:var(--soft);font-size:12px}.machine .tiny{fill:var(--soft);font-size:11px}
.machine .ok{fill:var(--ok);font-weight:650;font-size:12px}
.machine .bad{fill:var(--bad);font-weight:650;font-size:12px}
.machine .wire{fill:none;stroke:var(--wire);stroke-width:1.5}
.machine .link{fill:none;stroke:var(--link);stroke-width:5;stroke-linecap:round}
.machine .link-word{fill:var(--link);font-weight:650;font-size:12px}
.machine .stick{fill:var(--stick)}.machine .slot{fill:none;stroke:var(--edge)}
"""


class State(NamedTuple):
    """How many requirements of a part are met, and how many are not."""

    met: int = 0
    failed: int = 0

    @property
    def box(self) -> str:
        """Return the class of the part's box."""
        return "bad-box" if self.failed else "ok-box" if self.met else "box"

    @property
    def mark(self) -> str:
        """Return sign and word, or nothing where nothing was asked."""
        if self.failed:
            return f"\u2717 {self.failed} not met" if self.failed > 1 else "\u2717 not met"
        return "\u2713 ok" if self.met else ""

    @property
    def sign(self) -> str:
        """Return the sign alone, with a blank behind."""
        return "\u2717 " if self.failed else "\u2713 " if self.met else ""

    @property
    def word(self) -> str:
        """Return the class of the mark."""
        return "bad" if self.failed else "ok"

    def __or__(self, other: "State") -> "State":
        """Return both together."""
        return State(self.met + other.met, self.failed + other.failed)


def states(findings: list[Finding]) -> dict[str, State]:
    """Return the state of each part that a finding speaks of."""
    found: dict[str, State] = {}
    for finding in findings:
        one = State(met=1) if finding.met else State(failed=1)
        found[finding.part] = found.get(finding.part, State()) | one
    return found


def escaped(text: object) -> str:
    """Return a text that may stand in an element or an attribute."""
    return html.escape(str(text), quote=True)


def fitting(text: str, width: float, size: float = 13) -> str:
    """Return a text that fits into so many units; in wide fonts a letter takes some 0.6 of the size."""
    most = max(3, int(width / (size * 0.6)))
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\u2026"


class Canvas:
    """Collects shapes; the origin is at the upper left, y grows downwards."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, kind: str, *, title: str = "") -> None:
        """Draw a box with round corners; the title is shown under the pointer."""
        shown = f"<title>{escaped(title)}</title>" if title else ""
        self._parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7">'
            f"{shown}</rect>"
        )

    def bar(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Draw a small filled box."""
        self._parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2"/>'
        )

    def words(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Write one line; y is its baseline."""
        place = "" if anchor == "start" else f' text-anchor="{anchor}"'
        style = f' class="{kind}"' if kind else ""
        self._parts.append(f'<text{style} x="{x:.1f}" y="{y:.1f}"{place}>{escaped(text)}</text>')

    def path(self, points: list[tuple[float, float]], kind: str) -> None:
        """Draw a line through the points."""
        line = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._parts.append(f'<path class="{kind}" d="M{line}"/>')

    def arc(self, start: tuple[float, float], end: tuple[float, float], depth: float, kind: str) -> None:
        """Draw a bow below two points."""
        (x1, y1), (x2, y2) = start, end
        self._parts.append(
            f'<path class="{kind}" d="M{x1:.1f} {y1:.1f} C{x1:.1f} {y1 + depth:.1f} '
            f'{x2:.1f} {y2 + depth:.1f} {x2:.1f} {y2:.1f}"/>'
        )

    def take(self, other: "Canvas") -> None:
        """Put what another canvas holds on top."""
        self._parts += other._parts

    def mark(self, right: float, y: float, state: State) -> None:
        """Write sign and word of a state, ending at `right`."""
        if state.mark:
            self.words(right, y, state.mark, state.word, "end")

    def svg(self, width: float, height: float, label: str) -> str:
        """Return the whole picture, which needs nothing from outside."""
        return (
            f'<svg class="machine" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'role="img" aria-label="{escaped(label)}"><style>{STYLE}</style>{"".join(self._parts)}</svg>'
        )
