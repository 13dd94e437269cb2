"""The demo's command: `up` (the default), `down`, or `purge`."""

import argparse
import os
import sys
import time
from collections.abc import Callable
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
        self._playbooks = Playbooks(PROJECT, INVENTORY, WORK / "runner")

    def attempt(self, steps: Callable[[], None]) -> bool:
        """Take the steps; when they run into trouble, say so and return False."""
        try:
            with self.display:
                steps()
                self.follower.end()
        except _TROUBLE as trouble:
            failed = self.timeline.running or self.timeline.stages[-1]
            with self.display:
                self.follower.end(failed=True)
            login = site.read(PROJECT, INVENTORY).ssh
            failures = self.follower.failures
            failure = failures[-1] if failures else _what_went_wrong(trouble)
            report.show_failure(self.console, failed.words, failure, log=LOG, login=login)
            return False
        return True

    def lab(self, state: str) -> None:
        """Bring the lab hosts into a state."""
        self.follower.begin("lab_host")
        self._playbooks.run("playbooks/lab.yml", {"lab_host_state": state}, self.follower, self._log)

    def deploy(self) -> None:
        """Run the site's playbook on them."""
        self.follower.begin("citadel")
        self._playbooks.run("site.yml", {}, self.follower, self._log)


def up(demo: Demo) -> int:
    """From nothing to an answer."""
    deployed = site.read(PROJECT, INVENTORY)
    started = os.environ.get("CITADEL_DEMO_STARTED")
    if started:
        stage = demo.timeline.add("bootstrap", time.time() - float(started))
        demo.display.stage_ended(stage, failed=False)
    found: list[tuple[question.Answers, str]] = []

    def steps() -> None:
        demo.lab("up")
        demo.deploy()
        demo.follower.begin("question")
        key = question.fetch_key(deployed)
        found.append((question.ask(deployed, key), key))

    if not demo.attempt(steps):
        return 1
    report.write_timings(TIMINGS, demo.timeline, demo.follower.changed)
    report.show_timings(demo.console, demo.timeline, demo.follower.changed)
    report.show_answers(demo.console, deployed, *found[0])
    return 0


def down(demo: Demo, state: str) -> int:
    """Remove all that `up` made; with `purged`, the caches too."""
    return 0 if demo.attempt(lambda: demo.lab(state)) else 1


def main() -> int:
    """Run the command; 0 when all went well, 1 when a stage failed."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("verb", nargs="?", default="up", choices=["up", "down", "purge"])
    verb = parser.parse_args().verb
    WORK.mkdir(parents=True, exist_ok=True)
    # The tools that the playbooks call stand beside this Python.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with LOG.open("w") as log:
        demo = Demo(Console(highlight=False), log)
        match verb:
            case "down":
                return down(demo, "down")
            case "purge":
                return down(demo, "purged")
            case _:
                return up(demo)


def _what_went_wrong(trouble: BaseException) -> str:
    """The error that no task has reported: the playbook's own, else what was raised."""
    if isinstance(trouble, KeyboardInterrupt):
        return "it was interrupted"
    _, error, message = LOG.read_text().rpartition("[ERROR]: ")
    return message.strip() if error and isinstance(trouble, PlaybookError) else str(trouble)


if __name__ == "__main__":
    sys.exit(main())
