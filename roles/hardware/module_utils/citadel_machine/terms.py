"""The words that observing, comparing and reporting share."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

KIB = 1024
GIB = 1024**3

Facts = dict[str, Any]


class Finding(NamedTuple):
    """One requirement: what was found and wanted, whether it is met, and what to do when it is not.

    `part` names the piece of the machine that it speaks of (`cpu`, `memory`, `storage:/path`, `gpu:0`,
    `gpus`, `driver`, `system`, `network`, `service:name`), for the picture. `now` is what else was seen and
    varies from run to run (free space, a latency); it is shown, and not written to the host's report.
    """

    requirement: str
    found: str
    wanted: str
    met: bool
    remedy: str
    part: str
    now: str = ""


def read(path: Path, default: str = "") -> str:
    """Return a small file's text without the blanks around it, or the default where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return default


def read_number(path: Path) -> int | None:
    """Return the whole number that a file holds, or None where there is none."""
    text = read(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield the `key: value` lines of a text, as /proc writes them."""
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            yield key.strip(), value.strip()


def assignments(text: str) -> Facts:
    """Return the `KEY=value` lines of a text, without quotes, as os-release and systemd write them."""
    values = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, value in values}


def numbered(folder: Path, prefix: str) -> list[tuple[int, Path]]:
    """Return the entries of a folder that are the prefix and a number, in the numbers' order."""
    if not folder.is_dir():
        return []
    found = [(re.fullmatch(rf"{prefix}(\d+)", entry.name), entry) for entry in folder.iterdir()]
    return sorted((int(match[1]), entry) for match, entry in found if match)


def counted(count: int, noun: str) -> str:
    """Return `1 socket`, `2 sockets`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
