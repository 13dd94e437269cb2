"""The demo's command: `up` (the default), `down`, or `purge`."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console

from . import question, report, site
from .display import display_for
from .follower import Follower
from .playbook import PlaybookError, Playbooks
from .timeline import Timeline

PROJECT = Path(__file__).resolve().parents[2]
INVENTORY = PROJECT / "inventories/lab"
WORK = PROJECT / ".cache/demo"
LOG = WORK / "ansible.log"
TIMINGS = WORK / "timings.json"

# What a stage may run into that is not a mistake in this program.
_TROUBLE = (PlaybookError, question.QuestionError, KeyboardInterrupt)


class Demo:
    """One run of the demo: its stages, its display, and its log."""

    def __init__(self, console: Console, log: TextIO) -> None:
        self.console = console
        self.timeline = Timeline()
        self.display = display_for(console, self.timeline)
        self.follower = Follower(self.timeline, self.display)
        self._log = log
        self._playbooks = Playbooks(PROJECT, INVENTORY)

    @contextmanager
    def stages(self) -> Iterator[None]:
        """Show the stages of what is done within; when one fails, say what and how to go on, and exit."""
        try:
            with self.display:
                yield
                self.follower.end()
        except _TROUBLE as trouble:
            failed = self.timeline.running or self.timeline.stages[-1]
            self.follower.end(failed=True)
            login = site.read(PROJECT, INVENTORY).ssh
            failures = self.follower.failures
            failure = failures[-1] if failures else _what_went_wrong(trouble)
            report.show_failure(self.console, failed.words, failure, log=LOG, login=login)
            sys.exit(1)

    def lab(self, state: str, words: str = "") -> None:
        """Bring the lab hosts into a state."""
        self.follower.begin("lab_host", words)
        self._playbooks.run("playbooks/lab.yml", {"lab_host_state": state}, self.follower, self._log)

    def deploy(self) -> None:
        """Run the site's playbook on them."""
        self.follower.begin("citadel")
        self._playbooks.run("site.yml", {}, self.follower, self._log)


def up(demo: Demo) -> None:
    """From nothing to an answer."""
    deployed = site.read(PROJECT, INVENTORY)
    if started := os.environ.get("CITADEL_DEMO_STARTED"):
        stage = demo.timeline.add("bootstrap", time.time() - float(started))
        demo.display.stage_ended(stage, failed=False)
    with demo.stages():
        demo.lab("up")
        demo.deploy()
        demo.follower.begin("question")
        key = question.fetch_key(deployed)
        answers = question.ask(deployed, key)
    report.write_timings(TIMINGS, demo.timeline, demo.follower.changed)
    report.show_timings(demo.console, demo.timeline, demo.follower.changed)
    report.show_answers(demo.console, deployed, answers, key)


def down(demo: Demo) -> None:
    """Remove all that `up` made, but what is worth keeping for the next time."""
    with demo.stages():
        demo.lab("down", "Lab host: removed, with its network")


def purge(demo: Demo) -> None:
    """Remove that too."""
    with demo.stages():
        demo.lab("purged", "Lab host: removed, with its network and all caches")


_VERBS = {"up": up, "down": down, "purge": purge}


def main() -> None:
    """Run the command; exits with 1 when a stage failed."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("verb", nargs="?", default="up", choices=list(_VERBS))
    verb = parser.parse_args().verb
    WORK.mkdir(parents=True, exist_ok=True)
    with LOG.open("w") as log:
        _VERBS[verb](Demo(Console(highlight=False), log))


def _what_went_wrong(trouble: BaseException) -> str:
    """The error that no task has reported: the playbook's own, else what was raised."""
    if isinstance(trouble, KeyboardInterrupt):
        return "it was interrupted"
    _, error, message = LOG.read_text().rpartition("[ERROR]: ")
    return message.strip() if error and isinstance(trouble, PlaybookError) else str(trouble)


if __name__ == "__main__":
    main()
