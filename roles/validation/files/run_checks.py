"""Check a deployed host from outside: run the checks in checks/, print a table, and write a report.

    run_checks.py --scope full --report-dir DIR < site.json

Exit codes: 0 nothing failed, 1 something failed, 2 the checks could not be run.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from pathlib import Path

import pytest

FILES = Path(__file__).parent
sys.path.insert(0, str(FILES))

from checks.recorder import Recorder  # noqa: E402 - found through the line above
from checks.report import Report, markdown, table  # noqa: E402
from checks.site import Site  # noqa: E402


def run(site: Site, scope: str) -> tuple[int, Report, str]:
    """Run the checks of a scope; return pytest's exit code, what they found, and what pytest said."""
    recorder = Recorder(site)
    arguments = ["-c", str(FILES / "checks" / "pytest.ini"), "-p", "no:cacheprovider", "-q", "--tb=short"]
    selection = ["-m", "quick"] if scope == "quick" else []
    # Plugins of other people's would take their time, and testinfra's brings a host of its own.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = pytest.main([*arguments, *selection, str(FILES / "checks")], plugins=[recorder])
    return int(code), recorder.report(everything=scope == "full"), said.getvalue()


def main() -> int:
    """Read the site, run the checks, tell the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scope", choices=["full", "quick"], required=True)
    parser.add_argument("--report-dir", type=Path, required=True)
    options = parser.parse_args()

    site = Site(**json.load(sys.stdin))
    code, report, said = run(site, options.scope)
    if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        print(said, file=sys.stderr)
        return 2
    print(table(report))
    if options.scope == "full":
        options.report_dir.mkdir(parents=True, exist_ok=True)
        for suffix, text in (("md", markdown(report)), ("json", report.as_json())):
            path = options.report_dir / f"{site.host}.{suffix}"
            path.write_text(text)
            print(f"Report: {path}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
