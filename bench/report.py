"""The results as tables and a page: docs/benchmarks.md holds what docs/benchmarks/gateway.json says."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import plot
from bench.figures import (
    BUSY,
    DIRECT,
    IN_TIME,
    QUIET,
    WORKERS,
    Results,
    Spread,
    added,
    contenders,
    number,
    others_busy,
    spread,
)
from bench.measures import BODIES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "benchmarks" / "gateway.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "benchmarks.svg"

# Not in the run: releases of it were malicious. Its authors' proxy, measured earlier on two cores.
LITELLM = "LiteLLM proxy 1.105 †"
LITELLM_REQUEST, LITELLM_EVENT = 9160, 517
_OURS = "citadel"
_PLAIN, _BIG = "requests 0.7 KB", "requests 32 KB"


def as_json(results: Results) -> str:
    """The results as they are kept."""
    return json.dumps(results, indent=1, ensure_ascii=False) + "\n"


def write() -> None:
    """Write page and picture anew from the kept results."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(with_results(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    PICTURE.write_text(plot.picture(results), encoding="utf-8")


def with_results(page: str, results: Results) -> str:
    """The page with the results between their marks."""
    before, begin, rest = page.partition("<!-- results -->\n")
    _, end, after = rest.partition("<!-- end of results -->")
    return f"{before}{begin}\n{tables(results)}\n\n{end}{after}"


def tables(results: Results) -> str:
    """All of the results in Markdown."""
    parts = [
        _about(results),
        *_section("What was aimed at", _aims(results)),
        *_section("Requests", _requests(results)),
        *_section("Events of streams", _events(results)),
        *_section("What a client waits longer", _latency(results)),
        *_section("Memory", _memory(results)),
        *_section("Several workers", _workers(results)),
        *_section("What went wrong", _errors(results)),
        *_section("Whether the stub and the load kept up", _busy(results)),
        *_section("Versions and settings", _settings(results)),
    ]
    return "\n\n".join(part for part in parts if part)


def _section(title: str, content: str) -> list[str]:
    return [f"### {title}", content] if content else []


def _about(results: Results) -> str:
    machine = results["machine"]
    others = others_busy(results)
    care = ": take the figures with care" if others > QUIET else ""
    return (
        f"Measured on {results['date']} by `{results['command']}` in {results['seconds'] / 60:.0f} minutes: "
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']:.0f} GiB, {machine['system']},"
        f" Linux {machine['kernel']}, Python {machine['python']}. Each value is the median of "
        f"{results['rounds']} rounds; in brackets the least and the greatest. What else ran on the "
        f"machine took {others:.0%} of these two cores{care}."
    )


def aims(results: Results) -> list[tuple[str, float, float | None]]:
    """What was to be reached, as a limit, and what was: none where it was not measured."""

    def cost(contender: str, measure: str) -> float | None:
        found = spread(results, contender, measure, "cpu")
        return found.middle if found else None

    def share(measure: str, other: str) -> float | None:
        own, others = cost(_OURS, measure), cost(other, measure)
        return own / others if own and others else None

    return [
        ("CPU of a request of 0.7 KB, µs", 45, cost(_OURS, _PLAIN)),
        ("CPU of a request of 32 KB, µs", 80, cost(_OURS, _BIG)),
        ("CPU of a paced event, µs", 22, cost(_OURS, "events paced")),
        ("a request beside sglang-router's", 0.5, share(_PLAIN, "sglang-router")),
        ("a paced event beside sglang-router's", 1, share("events paced", "sglang-router")),
        ("a request beside nginx's", 3.5, share(_PLAIN, "nginx")),
    ]


def _aims(results: Results) -> str:
    rows = [
        (name, f"≤ {limit:g}", number(reached), "reached" if reached <= limit else "missed")
        for name, limit, reached in aims(results)
        if reached is not None
    ]
    return _table(("", "aim", "measured", ""), rows) if rows else ""


def _requests(results: Results) -> str:
    measures = [f"requests {name}" for name in BODIES]
    head = ["", *(f"CPU µs, {name}" for name in BODIES), *(f"a second, {name}" for name in BODIES)]
    rows = [
        (
            name,
            *(_cell(spread(results, name, each, "cpu")) for each in measures),
            *(_rate(results, name, each) for each in measures),
        )
        for name in contenders(results)
    ]
    rows.append((LITELLM, number(LITELLM_REQUEST), *[""] * 5))
    table = _table(head, rows)
    return (
        f"{table}\n\n≥: the proxy's core was not busy; the load, or what else ran, was the limit. {_QUOTED}"
    )


_QUOTED = "† Quoted, not run: measured earlier on two cores."


def _rate(results: Results, contender: str, measure: str) -> str:
    rate, busy = (spread(results, contender, measure, each) for each in ("rate", "proxy busy"))
    if rate is None:
        return "none"
    return f"{'≥ ' if busy and busy.middle < BUSY else ''}{number(rate.middle)}"


def _events(results: Results) -> str:
    rows = []
    for name in contenders(results):
        in_time = spread(results, name, "events paced", "in time")
        kept = ""
        if in_time:
            behind = in_time.middle < IN_TIME
            kept = f"{'falls behind: ' if behind else ''}{min(in_time.middle, 1):.0%}"
        rows.append(
            (
                name,
                _cell(spread(results, name, "events paced", "cpu")),
                kept,
                _cell(spread(results, name, "events paced", "late p99 ms")),
                _cell(spread(results, name, "events back to back", "cpu")),
            )
        )
    rows.append((LITELLM, number(LITELLM_EVENT), "falls behind", "", ""))
    head = ("", "CPU µs, paced", "in time", "late, p99 ms", "CPU µs, back to back")
    return (
        f"{_table(head, rows)}\n\nPaced: 200 streams of 50 events a second. Back to back: 64 streams as "
        f"quick as they are taken; what waits is then relayed in larger pieces. {_QUOTED}"
    )


def _latency(results: Results) -> str:
    columns = [
        ("latency", "p50 ms"),
        ("latency", "p99 ms"),
        ("first token", "p50 ms"),
        ("first token", "p99 ms"),
    ]
    rows: list[Sequence[str]] = [
        (name, *(_cell(added(results, name, *each)) for each in columns)) for name in contenders(results)
    ]
    if DIRECT in results["figures"]:
        rows.append((f"{DIRECT}, in all", *(_cell(spread(results, DIRECT, *each)) for each in columns)))
    head = ("", "request, p50 ms", "request, p99 ms", "first token, p50 ms", "first token, p99 ms")
    return (
        f"{_table(head, rows)}\n\nMore than without a proxy, at 200 requests a second, and at 40 streams "
        "begun a second. Those who need their whole core for that have queues, not latencies."
    )


def _memory(results: Results) -> str:
    rows = []
    for name in contenders(results):
        streams = spread(results, name, "memory", "streams")
        names = ("idle MB", "open MB", "open rss MB", "stream KB")
        rows.append(
            (
                name,
                *(_cell(spread(results, name, "memory", each)) for each in names),
                number(streams.middle) if streams else "",
            )
        )
    head = ("", "idle, MB", "with open streams, MB", "the same, resident", "KB a stream", "streams open")
    return f"{_table(head, rows)}\n\nProportional set size of all its processes, but where resident is said."


def _errors(results: Results) -> str:
    rows = [(name, "all", f"left out: {why}") for name, why in results["left_out"].items()]
    rows += [
        (name, measure, "; ".join(f"{count} x {what}" for what, count in sorted(found.items())))
        for name, measures in results["errors"].items()
        for measure, found in measures.items()
    ]
    return _table(("", "measure", "what"), rows) if rows else "No request failed, and no stream broke off."


def _busy(results: Results) -> str:
    measures = [*(f"requests {name}" for name in BODIES), "events back to back", "events paced"]

    def shares(name: str, measure: str) -> str:
        found = [spread(results, name, measure, f"{who} busy") for who in ("proxy", "stub", "load")]
        return " / ".join(f"{each.middle:.0%}" if each else "·" for each in found)

    names = [*contenders(results), *([DIRECT] if DIRECT in results["figures"] else [])]
    rows = [(name, *(shares(name, each) for each in measures)) for name in names]
    table = _table(("", *measures), rows)
    rates = [spread(results, DIRECT, each, "rate") for each in measures[:4]]
    without = ", ".join(
        f"{number(rate.middle)} {each}" for rate, each in zip(rates, measures, strict=False) if rate
    )
    return (
        f"{table}\n\nShares of a core: proxy / stub / load. The last two share one. Without a proxy they "
        f"reach, a second: {without}."
    )


def _workers(results: Results) -> str:
    names = [name for name in WORKERS.values() if name in results["figures"]]
    rows = [
        (
            name,
            *(_cell(spread(results, name, "workers", each)) for each in ("cpu", "rate")),
            " / ".join(
                f"{share.middle:.0%}"
                for who in ("proxy", "stub", "load")
                if (share := spread(results, name, "workers", f"{who} busy"))
            ),
        )
        for name in names
    ]
    if not rows:
        return ""
    head = ("", "CPU µs of a request", "requests a second", "of a core: workers / stub / load")
    return (
        f"{_table(head, rows)}\n\nRequests of 0.7 KB, limits counted together in a Valkey. With two, the "
        "second has the core on which stub, load and Valkey are, too: what a second core of its own would "
        "give is not seen here. Where the cost of a request stays what it is with one, that is twice as much."
    )


def _settings(results: Results) -> str:
    rows = [
        (name, results["versions"].get(name, ""), settings) for name, settings in results["settings"].items()
    ]
    return _table(("", "version", "settings"), rows)


def _cell(value: Spread | None) -> str:
    return str(value) if value else "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)
