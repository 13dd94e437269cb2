"""Run checks and collect what they found.

A check is a function that returns findings. What it may not look at is `unknown`, which is neither good nor
bad: a check that could not be made has proven nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "failed", "unknown"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        verdict: ok, warning, failed, or unknown.
        detail: What was seen.
        remedy: What to do about it; empty when it is ok.
    """

    check: str
    verdict: Verdict
    detail: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)


Check = Callable[[], Iterable[Finding]]


def run_checks(checks: Iterable[tuple[str, Check]]) -> list[Finding]:
    """Run checks in their order. One that breaks is a finding too, and the others still run.

    Args:
        checks: Each with its name, which stands for it should it break.
    """
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check()
        except PermissionError as error:
            findings.append(not_permitted(name, error))
        except Exception as error:
            findings.append(Finding(name, "failed", f"the check itself broke: {error!r}", "report this"))
    return findings


def not_permitted(name: str, error: PermissionError) -> Finding:
    """This account may not look."""
    return Finding(name, "unknown", f"not permitted to look at {error.filename or 'it'}", "run this as root")
