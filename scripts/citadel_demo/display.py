"""How the demo shows where it is: live on a terminal, plain lines everywhere else."""

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from .timeline import Stage, Timeline


class Display(Protocol):
    """Is told what happens, and shows it; a context, so that a terminal is left as it was."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""

    def stage_began(self, stage: Stage) -> None:
        """A stage has begun."""

    def task_began(self, name: str) -> None:
        """Within the stage, a task has begun."""

    def stage_ended(self, stage: Stage, *, failed: bool) -> None:
        """A stage has ended."""


class PlainDisplay:
    """A line when a stage begins and one when it ends: for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put back."""

    def stage_began(self, stage: Stage) -> None:
        """See `Display`."""
        self._console.print(Text(f"           {stage.words} ..."), soft_wrap=True)

    def task_began(self, name: str) -> None:
        """Tasks are too many for a log that has the playbook's own beside it."""

    def stage_ended(self, stage: Stage, *, failed: bool) -> None:
        """See `Display`."""
        mark = "FAILED" if failed else "done"
        self._console.print(Text(f"{stage.seconds:7.1f} s  {stage.words}: {mark}"), soft_wrap=True)


class LiveDisplay:
    """A line for each stage that has ended, and below them the running one, moving."""

    def __init__(self, console: Console, timeline: Timeline) -> None:
        self._console = console
        self._timeline = timeline
        self._words = ""
        self._task = ""
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(console=console, get_renderable=self._line, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        """Take over the bottom of the terminal."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back."""
        self._live.stop()

    def stage_began(self, stage: Stage) -> None:
        """See `Display`."""
        self._words, self._task = stage.words, ""

    def task_began(self, name: str) -> None:
        """See `Display`."""
        self._task = name

    def stage_ended(self, stage: Stage, *, failed: bool) -> None:
        """See `Display`."""
        mark = Text("✗", "bold red") if failed else Text("✓", "bold green")
        time = Text(f" {stage.seconds:6.1f} s  ", "dim")
        self._console.print(Text.assemble(mark, time, stage.words))

    def _line(self) -> Table | Text:
        if not self._timeline.running:
            return Text("")
        line = Table.grid(padding=(0, 1))
        for _ in range(3):
            line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, overflow="ellipsis", style="dim")
        line.add_row(self._spinner, Text(f"{self._timeline.elapsed:5.0f} s "), self._words, self._task)
        return line


def display_for(console: Console, timeline: Timeline) -> Display:
    """The display that fits where the output goes."""
    return LiveDisplay(console, timeline) if console.is_terminal else PlainDisplay(console)
