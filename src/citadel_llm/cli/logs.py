"""`citadel logs`: the services' log, from systemd's journal."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from citadel_llm.cli.common import (
    EXIT_FAILED,
    EXIT_NOT_PERMITTED,
    JsonOption,
    colour,
    complete_service,
    examples,
    fail,
    load_settings,
    pick_services,
)

app = typer.Typer()

JOURNALCTL = "/usr/bin/journalctl"
_LEVEL_COLOURS = {"warning": "yellow", "error": "red", "critical": "red", "debug": "dim"}
# What a line's head shows already, or nobody wants to read in each line.
_HIDDEN = {"event", "exception", "level", "logger", "service", "timestamp"}
_PRIORITIES = ("critical", "critical", "critical", "error", "warning", "info", "info", "debug")


class Level(StrEnum):
    """The least severe lines to show; journalctl's own names for them are the values."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "err"


@app.command(
    epilog=examples(
        "citadel logs",
        "citadel logs gateway -f",
        "citadel logs MODEL --since '1 hour ago' --level warning",
        "citadel logs gateway --json | jq 'select(.status >= 500)'",
    )
)
def logs(  # noqa: PLR0917 - each is an option of the command line
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SERVICE|MODEL]...",
            help="`gateway`, or a model's name; all when absent.",
            autocompletion=complete_service,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as new lines come.")] = False,
    since: Annotated[
        str | None, typer.Option(help="From when on: `10:30`, `yesterday`, `1 hour ago`, `2026-01-31 08:00`.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100,
    level: Annotated[Level, typer.Option(help="Leave out what is less severe.")] = Level.debug,
    as_json: JsonOption = False,
) -> None:
    """Show the services' logs: all of them together, or those named."""
    from citadel_llm.services.service_manager import services_of  # noqa: PLC0415 - loads the settings' library

    settings = load_settings()
    services = pick_services(settings, names or []) or services_of(settings)
    command = [JOURNALCTL, "--output=json", "--quiet", f"--priority={level.value}"]
    command += [f"--unit={service.unit}" for service in services]
    # A span of time is shown whole.
    command += [f"--since={since}"] if since else [f"--lines={lines}"]
    if follow:
        command.append("--follow")
    try:
        for entry in _entries(command):
            typer.echo(json.dumps(entry, default=str) if as_json else write(entry))
    except KeyboardInterrupt:
        return


def read(record: Mapping[str, object]) -> dict[str, object]:
    """A record of the journal as one flat entry: our own fields where the message is ours.

    Args:
        record: As `journalctl --output=json` writes it.
    """
    message = _text(record.get("MESSAGE"))
    # What systemd itself says of a unit names the unit in UNIT.
    unit = _text(record.get("UNIT") or record.get("_SYSTEMD_UNIT") or record.get("SYSLOG_IDENTIFIER"))
    moment = int(_text(record.get("__REALTIME_TIMESTAMP")) or 0) / 1_000_000
    entry: dict[str, object] = {
        "timestamp": datetime.fromtimestamp(moment).astimezone().isoformat(timespec="milliseconds"),
        "service": unit.removesuffix(".service").removeprefix("citadel-"),
        "level": _PRIORITIES[int(_text(record.get("PRIORITY")) or 6)],
    }
    try:
        ours = json.loads(message)
    except ValueError:
        ours = None
    if isinstance(ours, dict) and "event" in ours:
        return {**entry, **ours, "timestamp": entry["timestamp"]}
    return {**entry, "event": message}


def write(entry: Mapping[str, object]) -> str:
    """An entry as one line for people."""
    level = str(entry["level"])
    head = f"{str(entry['timestamp'])[:23].replace('T', ' ')}  {entry['service']}"
    fields = [
        f"{key}={value}" for key, value in entry.items() if key not in _HIDDEN and value not in ("", None)
    ]
    tail = f"  {colour(' '.join(fields), 'dim')}" if fields else ""
    mark = colour(f"{level:7}", _LEVEL_COLOURS.get(level, "bold"))
    text = f"{colour(head, 'dim')}  {mark}  {entry['event']}{tail}"
    return f"{text}\n{entry['exception']}" if "exception" in entry else text


def _entries(command: list[str]) -> Iterator[dict[str, object]]:
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    except OSError as error:
        fail(f"{command[0]} cannot be run: {error.strerror}")
    try:
        for line in process.stdout or ():
            yield read(json.loads(line))
    finally:
        process.terminate()
        _, complaint = process.communicate()
    if process.returncode > 0:
        if "permission" in complaint:
            hint = "your account may not read the journal: it must be in the group systemd-journal"
            fail(f"{hint}\n{complaint.strip()}", EXIT_NOT_PERMITTED)
        fail(complaint.strip() or f"journalctl ended with code {process.returncode}", EXIT_FAILED)


def _text(value: object) -> str:
    """A field of the journal: text, or a list of bytes where it is not UTF-8, or nothing."""
    if isinstance(value, list):
        return bytes(value).decode(errors="replace")
    return "" if value is None else str(value)
