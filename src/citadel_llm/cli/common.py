"""What the commands share: exit codes, reading the settings, and tables that need no library."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from citadel_llm.config import Settings
    from citadel_llm.services.service_manager import Service

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_PERMITTED = 4

JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: JSON instead of a table.")]
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--directory",
        "-d",
        help="The configuration folder (default: $CITADEL_CONFIG or /opt/citadel/config).",
    ),
]

_COLOURS = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1"}
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def examples(*lines: str) -> str:
    """A command's examples, for the end of its help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    """Say on standard error what is wrong, and exit."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


def load_settings(directory: Path | None = None) -> "Settings":
    """The host's settings; when they are wrong, every problem on its own line, and exit code 2."""
    from citadel_llm.config import ConfigError, load  # noqa: PLC0415 - pydantic takes a while to load

    try:
        return load(directory)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)


def pick_services(settings: "Settings", names: Sequence[str]) -> "list[Service]":
    """The services that the user named, each once; end when there is none of a name."""
    from citadel_llm.services.service_manager import find_services, services_of  # noqa: PLC0415

    picked: list[Service] = []
    for name in names:
        found = find_services(settings, name)
        if not found:
            known = ", ".join(each.name for each in services_of(settings))
            fail(f"there is no service {name!r}; there are: {known}", EXIT_USAGE)
        picked += [each for each in found if each not in picked]
    return picked


def complete_service(incomplete: str) -> list[str]:
    """For the shell: the names of services and models that begin so; none where there are no settings."""
    from citadel_llm.config import ConfigError, load  # noqa: PLC0415
    from citadel_llm.services.service_manager import services_of  # noqa: PLC0415

    try:
        settings = load(None)
    except ConfigError:
        return []
    models = [name for model in settings.served_models for name in (model.name, *model.aliases)]
    names = dict.fromkeys([*(each.name for each in services_of(settings)), *models])
    return [name for name in names if name.startswith(incomplete)]


def print_json(value: object) -> None:
    """Write a value for scripts."""
    typer.echo(json.dumps(value, indent=2, default=str))


def colour(text: str, name: str) -> str:
    """Colour a text where it goes to a person's terminal."""
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns of equal width. Written by hand: a library for it takes longer to load than to use."""
    lines = [[colour(heading, "dim") for heading in headings], *rows]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `3 d 4 h`, `12 min`, `5 s`."""
    if seconds is None:
        return "-"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def size(count: int | None) -> str:
    """Bytes as people say them: `3.1 GiB`."""
    if count is None:
        return "-"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _width(text: str) -> int:
    return len(_ESCAPE.sub("", text))
