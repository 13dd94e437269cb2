"""From what single checks found to a verdict on each checklist item, and to text that people read."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from checks.items import TASKS

PASSED = "passed"
FAILED = "failed"
NOT_PROVEN = "not proven here"

# The worst first: an item is what its worst check is.
_ORDER = (FAILED, NOT_PROVEN, PASSED)


@dataclass(frozen=True)
class Finding:
    """What one check found. `evidence` says what was seen, or what is missing."""

    task: str
    item: str
    outcome: str
    evidence: str


@dataclass
class Verdict:
    """How a checklist item stands, with the evidence of all of its checks."""

    task: str
    item: str
    outcome: str
    evidence: list[str] = field(default_factory=list)


@dataclass
class Report:
    """The verdicts on a host, in the order of the tasks."""

    host: str
    began: str
    verdicts: list[Verdict]

    def count(self, outcome: str) -> int:
        """How many items stand so."""
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    @property
    def failed(self) -> bool:
        """Whether any item failed."""
        return self.count(FAILED) > 0

    def summary(self) -> str:
        """The counts in a line; only what passed is counted as passed."""
        counts = (f"{self.count(outcome)} {outcome}" for outcome in (PASSED, FAILED, NOT_PROVEN))
        return f"{self.host}: {', '.join(counts)}, of {len(self.verdicts)}"

    def as_json(self) -> str:
        """The report for machines."""
        counts = {outcome: self.count(outcome) for outcome in _ORDER}
        return json.dumps(asdict(self) | {"counts": counts}, indent=2, ensure_ascii=False) + "\n"


def judge(findings: Iterable[Finding], *, everything: bool) -> list[Verdict]:
    """Judge items by their findings.

    Args:
        findings: What the checks found.
        everything: Whether items that no check looked at are listed too, as not proven.
    """
    by_item: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        by_item.setdefault((finding.task, finding.item), []).append(finding)
    verdicts = []
    for task, (_, items) in TASKS.items():
        for item in items:
            found = by_item.pop((task, item), [])
            if found:
                outcome = min((finding.outcome for finding in found), key=_ORDER.index)
                verdicts.append(Verdict(task, item, outcome, [finding.evidence for finding in found]))
            elif everything:
                verdicts.append(Verdict(task, item, NOT_PROVEN, ["no check looks at it"]))
    if by_item:
        raise ValueError(f"not on any checklist: {sorted(by_item)}")
    return verdicts


def table(report: Report) -> str:
    """The report as lines of plain text, each no longer than its evidence's first line makes it."""
    marks = {PASSED: "ok  ", FAILED: "FAIL", NOT_PROVEN: "-   "}
    width = max((len(verdict.item) for verdict in report.verdicts), default=0)
    lines = []
    for verdict in report.verdicts:
        shown = [text for text in verdict.evidence if text] or [""]
        if verdict.outcome != FAILED:
            shown = ["; ".join(text.splitlines()[0] for text in shown)]
        head = f"{marks[verdict.outcome]} {verdict.task} {verdict.item:<{width}}"
        lines.append(f"{head}  {shown[0]}".rstrip())
        lines.extend(f"{' ' * len(head)}  {text}" for text in shown[1:])
    return "\n".join([*lines, "", f"{report.summary()} (- is not proven here)"])


def markdown(report: Report) -> str:
    """The report as a page: a section for each task, a row for each item."""
    lines = [f"# Validation of {report.host}", "", f"Run at {report.began}. {report.summary()}.", ""]
    for task, (title, _) in TASKS.items():
        rows = [verdict for verdict in report.verdicts if verdict.task == task]
        if not rows:
            continue
        lines += [f"## Task-{task}: {title}", "", "| item | result | seen |", "|---|---|---|"]
        lines += [f"| {row.item} | {row.outcome} | {_cell(row.evidence)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(evidence: list[str]) -> str:
    text = "; ".join(part for part in evidence if part)
    return " ".join(text.split()).replace("|", "\\|")
