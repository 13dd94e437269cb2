"""Follows a playbook by ansible-runner's events: which stage it is in, what changed, what failed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .display import Display
from .timeline import Timeline

_TAIL = 15  # lines of a command's output that are worth showing

# Ansible checks a role's arguments as the role is entered. Tasks that merely come from another role (the
# preflight's, an included file, a late handler) are not preceded by that: they belong to the running stage.
_ENTRANCE = "arg spec 'main'"

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """A task that failed: where, which, and what it said."""

    host: str
    task: str
    message: str


class Follower:
    """Keeps a timeline by the roles that a playbook goes through, and notes what fails."""

    def __init__(self, timeline: Timeline, display: Display) -> None:
        self._timeline = timeline
        self._display = display
        self.failures: list[Failure] = []
        self.changed = 0

    def begin(self, name: str, words: str = "") -> None:
        """Begin a stage, and end the one before."""
        self.end()
        self._display.stage_began(self._timeline.begin(name, words))

    def end(self, *, failed: bool = False) -> None:
        """End the running stage, if one is."""
        if stage := self._timeline.end():
            self._display.stage_ended(stage, failed=failed)

    def follow(self, event: Event) -> None:
        """Take in one event."""
        data = event.get("event_data", {})
        match event.get("event"):
            case "playbook_on_task_start" | "playbook_on_handler_task_start":
                role, task = data.get("role", ""), data.get("task", "")
                if _ENTRANCE in task:
                    self._enter(role)
                self._display.task_began(task)
            case "runner_on_failed" if not data.get("ignore_errors"):
                self.failures.append(_failure(data))
            case "runner_on_unreachable":
                self.failures.append(_failure(data))
            case "playbook_on_stats":
                self.changed += sum(data.get("changed", {}).values())

    def _enter(self, role: str) -> None:
        # A role that others depend on is entered many times, and is a stage once.
        if role not in {stage.name for stage in self._timeline.stages}:
            self.begin(role)


def _failure(data: Event) -> Failure:
    result = data.get("res", {})
    parts = [part for part in (data.get("role"), data.get("task")) if part]
    return Failure(data.get("host", ""), " : ".join(parts), "\n".join(_said(result)) or "nothing")


def _said(result: Event) -> Iterator[str]:
    """What a failed task said: its message, the end of its output, and the same of a loop's failed items."""
    items = [item for item in result.get("results", []) if item.get("failed")]
    if items:
        for item in items:
            yield from _said(item)
        return
    said = {key: _tail(result.get(key)) for key in ("msg", "stderr", "module_stderr", "stdout")}
    if said["stderr"] or said["module_stderr"]:
        said["stdout"] = ""
    yield from filter(None, said.values())


def _tail(text: object) -> str:
    """The last lines of what may be text, a list of texts, or nothing."""
    lines = [str(item) for item in text] if isinstance(text, list) else str(text or "").strip().splitlines()
    return "\n".join(lines[-_TAIL:])
