"""Runs a playbook through ansible-runner, with every line of Ansible's output in a log."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import ansible_runner

from .follower import Follower


class PlaybookError(Exception):
    """A playbook did not end well; the follower knows which tasks failed, the log the rest."""


class Playbooks:
    """The playbooks of a project, run with one inventory."""

    def __init__(self, project: Path, inventory: Path) -> None:
        self._project = project
        self._inventory = inventory

    def run(self, name: str, variables: Mapping[str, str], follower: Follower, log: TextIO) -> None:
        """Run a playbook to its end.

        Raises:
            PlaybookError: it failed, or could not be started.
            KeyboardInterrupt: it was interrupted, and has been stopped.
        """

        def handle(event: dict[str, Any]) -> bool:
            if event.get("stdout"):
                log.write(f"{event['stdout']}\n")
                log.flush()
            follower.follow(event)
            return False  # the log is what is kept

        # ansible-runner writes down the whole environment, secrets and all: into a folder that goes with it.
        with TemporaryDirectory(prefix="citadel-demo-") as work, _own_signals():
            done = ansible_runner.run(
                private_data_dir=work,
                project_dir=str(self._project),
                playbook=name,
                inventory=str(self._inventory),
                extravars=dict(variables),
                envvars={"ANSIBLE_NOCOLOR": "1", "PATH": _path_with_our_tools()},
                event_handler=handle,
                quiet=True,
            )
        if done.status == "canceled":
            raise KeyboardInterrupt
        if done.status != "successful":
            raise PlaybookError(done.status)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Lets ansible-runner stop Ansible on a signal, also when the terminal is closed, and no longer."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _path_with_our_tools() -> str:
    """PATH with this Python's own folder in front: Ansible stands there, and what playbooks call."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"
