"""The demo's last lines: answers and what to try next, or what failed and what to do."""

import json
import shlex
import textwrap
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .follower import Failure
from .question import CHAT, COMPLETION, STOP, Answers
from .site import Site
from .timeline import Timeline


def write_timings(path: Path, timeline: Timeline, changed: int) -> None:
    """Write the time of each stage, in seconds, as JSON."""
    content = {
        "total_seconds": round(timeline.total, 1),
        "changed_tasks": changed,
        "stages": [{"name": stage.name, "seconds": round(stage.seconds, 1)} for stage in timeline.stages],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def show_timings(console: Console, timeline: Timeline, changed: int) -> None:
    """Show the time of each stage and of all."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    for stage in timeline.stages:
        table.add_row(f"{stage.seconds:.1f} s", Text(stage.words))
    tasks = (
        f"tasks that changed something: {changed}"
        if changed
        else "nothing was changed: all was there already"
    )
    table.add_row(f"{timeline.total:.1f} s", Text(f"in all; {tasks}"), style="bold")
    console.print(Padding(table, (1, 0, 0, 2)))


def show_answers(console: Console, site: Site, answers: Answers, key: str) -> None:
    """Show what the model answered, and how to go on. The key goes to a terminal, never into a log."""
    _print(console, f"\n{site.model} answers:\n", "bold")
    _print(console, f"  {CHAT}\n    {answers.chat}\n")
    _print(console, f"  {COMPLETION} …\n    {answers.completion}\n")
    _print(console, f"The API: {site.url}", "bold")
    if console.is_terminal:
        _print(console, f"A key:   {key}", "bold")
        key_line = f"export OPENAI_API_KEY={key}"
    else:
        key_line = f'export OPENAI_API_KEY="$({shlex.join(site.key_command)})"'
    _print(console, "\nTo try next, in this folder:\n", "bold")
    for line in (f"export OPENAI_BASE_URL={site.url}", key_line, "", *commands(site)):
        _print(console, f"  {line}" if line else "")
    _print(console, "\n`make demo-down` removes all of it.")


def commands(site: Site) -> list[str]:
    """Three commands to go on with, a line each; the API's address and key are in their environment."""
    messages = [{"role": "user", "content": CHAT}]
    body = {"model": site.model, "messages": messages, "max_tokens": 32, "temperature": 0}
    request = f"model={site.model!r}, prompt={COMPLETION!r}, max_tokens=16, temperature=0, stop={STOP!r}"
    code = f"from openai import OpenAI; print(OpenAI().completions.create({request}).choices[0].text)"
    curl = (
        'curl -sw "\\n" "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY"'
        f" -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
    )
    return [curl, f'.venv/bin/python -c "{code}"', shlex.join(site.ssh)]


def show_failure(
    console: Console, stage: str, failure: Failure | str, *, log: Path, login: list[str]
) -> None:
    """Say what failed (a task, or what else was said), where the log is, and what to do."""
    if isinstance(failure, Failure):
        rows = [("task", failure.task), ("host", failure.host), ("said", failure.message)]
    else:
        rows = [("said", failure)]
    rows += [
        ("log", str(log)),
        ("do", "put right what it names, then `make demo` again: what is done is not done twice"),
        ("", f"look on the host: {shlex.join(login)}"),
        ("", "or start afresh: make demo-down"),
    ]
    _print(console, f"\nThe demo failed at: {stage}\n", "bold red")
    for label, text in rows:
        _print(console, textwrap.indent(text, " " * 8).replace(" " * 8, f"  {label:6}", 1))


def _print(console: Console, text: str, style: str = "") -> None:
    # As it is: no markup, no wrapping, so that what is shown can be pasted.
    console.print(Text(text, style), soft_wrap=True)
