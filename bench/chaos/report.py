"""The results as a page: docs/chaos.md holds what docs/benchmarks/chaos.json says."""

import json
from collections.abc import Iterable, Sequence

from bench.chaos.host import ROOT
from bench.chaos.verdict import Result

RESULTS = ROOT / "docs" / "benchmarks" / "chaos.json"
PAGE = ROOT / "docs" / "chaos.md"


def keep(results: Result) -> None:
    """Keep the results."""
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write() -> None:
    """Write the page anew from the kept results."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(with_results(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


def with_results(page: str, results: Result) -> str:
    """The page with the results between their marks."""
    before, begin, rest = page.partition("<!-- results -->\n")
    _, end, after = rest.partition("<!-- end of results -->")
    return f"{before}{begin}\n{tables(results)}\n\n{end}{after}"


def holds(results: Result) -> bool:
    """Whether the rule held, and each request that reached an engine has one record."""
    return all(
        each["clients"]["breaches"] == 0
        and each["records"]["missing"] == 0
        and each["records"]["double"] == 0
        and each["records"]["unknown"] <= each["records"]["nameless"]
        for each in results["faults"]
    ) and (results["sums"] == results["records"])


def line(result: Result) -> str:
    """A fault's result in a line."""
    clients, records = result["clients"], result["records"]
    return (
        f"{clients['sent']} sent, {clients['answered']} answered, {clients['failed_begun']} broken off, "
        f"{clients['failed_unbegun']} failed before they began ({clients['breaches']} against the rule) "
        f"{clients['kinds'] or ''}; {records['records']} records, {records['missing']} missing, "
        f"{records['double']} double, {records['estimated']} estimated"
    )


def tables(results: Result) -> str:
    """All of the results in Markdown."""
    told = results["machine"]
    breaches = sum(each["clients"]["breaches"] for each in results["faults"])
    sent = sum(each["clients"]["sent"] for each in results["faults"])
    rule = "The rule held" if breaches == 0 else f"**The rule was broken {breaches} times**"
    sums, records = results["sums"], results["records"]
    agree = "agree with" if sums == records else "**do not agree with**"
    return "\n\n".join(
        [
            f"Seen on {results['date']} by `{results['command']}` in {results['seconds'] / 60:.0f} minutes, "
            f"with {results['at_once']} requests at once: {told['cores']} cores of {told['cpu']}, "
            f"{told['memory_gib']:.0f} GiB, {told['system']}, Linux {told['kernel']}.",
            f"{rule}, in {sent:,} requests.",
            "### What clients saw",
            _clients(results),
            "### What was noted of them",
            _records(results),
            f"At the end the sums by day ({sums['requests']:,} requests, {sums['read']:,} tokens read, "
            f"{sums['written']:,} written) {agree} the records.",
            "### Beside the engines' own counters",
            _counters(results),
        ]
    )


def _clients(results: Result) -> str:
    rows = []
    for each in results["faults"]:
        clients = each["clients"]
        kinds = "; ".join(f"{count} x {kind}" for kind, count in clients["kinds"].items())
        rows.append(
            (
                each["fault"],
                str(clients["sent"]),
                str(clients["answered"]),
                str(clients["failed_begun"]),
                str(clients["failed_unbegun"]),
                str(clients["breaches"]),
                kinds,
                f"{clients['first_token_longest']:.1f}",
                f"{clients['answer_longest']:.1f}",
                str(each["seconds"]),
            )
        )
    head = (
        "what was done",
        "sent",
        "answered",
        "failed, begun",
        "failed, not begun",
        "of these against the rule",
        "how they failed",
        "longest to a stream's first token, s",
        "longest answer that is no stream, s",
        "until all was as before, s",
    )
    return _table(head, rows)


def _records(results: Result) -> str:
    names = ("reached", "records", "missing", "double", "unknown", "estimated", "retried")
    rows = [(each["fault"], *(str(each["records"][name]) for name in names)) for each in results["faults"]]
    head = (
        "what was done",
        "reached an engine",
        "records",
        "without a record",
        "records too many",
        "of requests whose client learnt no id",
        "estimated",
        "asked of a second engine",
    )
    return _table(head, rows)


def _counters(results: Result) -> str:
    rows = []
    for each in results["faults"]:
        counters = each["counters"]
        pairs = (
            f"{counters['counted'][name]:,} / {counters['noted'][name]:,}"
            for name in ("requests", "read", "written")
        )
        rows.append((each["fault"], str(counters["engines"]), *pairs, str(counters["unsure"])))
    head = (
        "what was done",
        "engines that lived",
        "requests: counted / noted",
        "tokens read",
        "tokens written",
        "estimated, not in these",
    )
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)
