"""A pytest plugin that gives the checks what they need, and remembers what each found."""

import datetime
import shlex
import tempfile
from collections.abc import Callable, Generator, Iterator
from typing import Any, NoReturn

import pytest
import testinfra
from testinfra.host import Host

from checks.report import FAILED, NOT_PROVEN, PASSED, Finding, Report, judge
from checks.site import Site

# What a check calls with what it saw, and to end when it cannot be made here.
Evidence = Callable[[object], None]
NotProven = Callable[[str], NoReturn]

_EVIDENCE = pytest.StashKey[list[str]]()


class Recorder:
    """Holds the site and the findings of one run."""

    def __init__(self, site: Site) -> None:
        """Record for a site."""
        self._site = site
        self._findings: list[Finding] = []
        self._began = datetime.datetime.now(datetime.UTC)

    def report(self, *, everything: bool) -> Report:
        """What was found; `everything` lists the items that no check looked at, too."""
        began = self._began.isoformat(timespec="seconds")
        return Report(self._site.host, began, judge(self._findings, everything=everything))

    @pytest.fixture(scope="session")
    def site(self) -> Site:
        """The site, as the inventory has it."""
        return self._site

    @pytest.fixture(scope="session")
    def host(self) -> Iterator[Host]:
        """The host, as root. One SSH connection carries all commands."""
        with tempfile.TemporaryDirectory(prefix="citadel-") as folder:
            host = connect(self._site.connection, folder)
            try:
                entered = host.run("true")
                reason = entered.stderr.strip()
            except RuntimeError as error:
                entered, reason = None, str(error)
            if entered is None or entered.rc:
                pytest.skip(
                    f"the host cannot be entered with an SSH key and sudo without a password: {reason}"
                )
            yield host

    @pytest.fixture
    def evidence(self, request: pytest.FixtureRequest) -> Evidence:
        """Call it with what was seen; it stands in the report."""
        seen = request.node.stash.setdefault(_EVIDENCE, [])
        return lambda text: seen.append(str(text).strip())

    @pytest.fixture
    def not_proven(self) -> NotProven:
        """Call it to end a check that cannot be made here, with the reason."""

        def end(reason: str) -> NoReturn:
            pytest.skip(reason)

        return end

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note the finding of a check when it is over, or could not begin."""
        report = yield
        if report.when == "call" or (report.when == "setup" and not report.passed):
            for mark in item.iter_markers("item"):
                self._findings.append(self._finding(item, mark, report, call))
        return report

    def _finding(
        self, item: pytest.Item, mark: pytest.Mark, report: pytest.TestReport, call: pytest.CallInfo[None]
    ) -> Finding:
        task, text = mark.args
        lines: list[str] = item.stash.get(_EVIDENCE, [])
        seen = "; ".join(lines)
        if report.passed:
            return Finding(task, text, PASSED, seen)
        said = str(call.excinfo.value).strip() if call.excinfo else ""
        if report.skipped:
            return Finding(task, text, NOT_PROVEN, "; ".join(part for part in (seen, said) if part))
        reason = said.splitlines()[0] if said else report.longreprtext.splitlines()[-1]
        return Finding(task, text, FAILED, "; ".join(part for part in (reason, seen) if part))


def connect(connection: dict[str, Any], folder: str) -> Host:
    """Connect to a host as root.

    Args:
        connection: See `Site.connection`.
        folder: Where the shared connection's socket may stand.
    """
    if connection["kind"] == "local":
        return testinfra.get_host("local://", sudo=True)
    user = f"{connection['user']}@" if connection["user"] else ""
    arguments = ["-o BatchMode=yes", connection["arguments"]]
    return testinfra.get_host(
        f"ssh://{user}{connection['address']}:{connection['port']}",
        sudo=True,
        ssh_identity_file=connection["identity_file"] or None,
        ssh_extra_args=" ".join(arguments),
        controlpath=f"{shlex.quote(folder)}/%%C",
        timeout=20,
    )
