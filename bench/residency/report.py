"""The results as table and picture: docs/models-on-demand.md shows docs/benchmarks/residency.json."""

import json
import math
from pathlib import Path
from typing import TypedDict

from citadel_llm.placement import svg

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "residency.json"
PAGE = ROOT / "docs" / "models-on-demand.md"
PICTURE = ROOT / "docs" / "images" / "residency.svg"

_BEGIN, _END = "<!-- results -->\n", "<!-- end of results -->"
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _PANEL = 860, 200, 60, 96, 34, 66
_STEPS = (1, 10, 60, 300, 1200)


class Run(TypedDict):
    """What came of an hour: waits in seconds."""

    requests: float
    swaps: float
    mean: float
    p50: float
    p99: float
    longest: float


class Row(Run):
    """The mean of several."""

    case: str
    policy: str


class Results(TypedDict):
    """What is kept."""

    date: str
    command: str
    seeds: int
    rows: list[Row]


def line(run: Run) -> str:
    """A run in a line."""
    return (
        f"{run['swaps']:.0f} times brought up; waits: mean {run['mean']:.1f} s, p50 {run['p50']:.1f}, "
        f"p99 {run['p99']:.0f}"
    )


def table(results: Results) -> str:
    """The results in Markdown."""
    lines = [
        f"Made on {results['date']} by `{results['command']}`: the mean of {results['seeds']} traces of an "
        "hour each, in simulated time. The waits are all requests', those too that found their model awake.",
        "",
        "| | policy | requests | brought up | mean wait, s | p50 | p99 | longest |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        waits = " | ".join(f"{row[key]:.1f}" for key in ("mean", "p50", "p99", "longest"))
        lines.append(
            f"| {row['case']} | {row['policy']} | {row['requests']:.0f} | {row['swaps']:.0f} | {waits} |"
        )
    return "\n".join(lines)


def keep(results: Results) -> None:
    """Keep the results."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def write() -> None:
    """Write page and picture anew from the kept results."""
    results: Results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(with_results(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    PICTURE.write_text(picture(results), encoding="utf-8")


def with_results(page: str, results: Results) -> str:
    """The page with the results between their marks."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    return f"{before}{begin}\n{table(results)}\n\n{end}{after}"


def picture(results: Results) -> str:
    """The waits as SVG: from p50 to p99 a line, the mean a dot, on a logarithmic scale."""
    longest = max(row["p99"] for row in results["rows"]) * 1.3

    def place(seconds: float) -> float:
        share = math.log1p(seconds) / math.log1p(longest)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    body = [
        svg.text("How long requests wait for models that take turns", 24, 34, "h", 17),
        svg.text("Seconds; line: median to 99th percentile, dot: mean", 24, 56, "s"),
    ]
    top = _TOP
    for case in dict.fromkeys(row["case"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["case"] == case]
        bottom = top + 12 + len(rows) * _ROW
        body.append(svg.text(case, 24, top, "h"))
        for step in (step for step in _STEPS if step < longest):
            body.append(svg.line("line", place(step), top + 12, bottom))
            body += svg.label(f"{step:,}", place(step) - 30, place(step) + 30, bottom + 15, "s", whole=True)
        for index, row in enumerate(rows):
            middle = top + 12 + index * _ROW + _ROW / 2
            ours = row["policy"] == "citadel"
            colour = svg.class_of("weights" if ours else "runtime")
            low, high = place(row["p50"]), place(row["p99"])
            body.append(svg.text(row["policy"], 24, middle + 4, "h" if ours else "t"))
            body.append(svg.rect(colour, (low, middle - 1.5, max(high - low, 1), 3), 1))
            body.append(f'  <circle class="{colour}" cx="{place(row["mean"]):.1f}" cy="{middle:.1f}" r="6"/>')
        top = bottom + _PANEL
    told = "; ".join(f"{row['case']}, {row['policy']}: {line(row)}" for row in results["rows"])
    return svg.document("Waits for models on demand", told, _WIDTH, top - 24, body)
