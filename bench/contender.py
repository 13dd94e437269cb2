"""What a contender is, and how it tells its version."""

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import Peers
from bench.processes import Started


@dataclass(frozen=True)
class Engine:
    """Where the stub listens."""

    folder: Path
    socket: Path
    port: int


@dataclass(frozen=True)
class Contender:
    """One of those that are measured.

    Attributes:
        name: What it is called in tables.
        settings: How it was set up, for the reader of the results.
        start: Starts it: its folder, its port, and the core it gets.
        version: Tells its version.
        key: The key that clients need.
    """

    name: str
    settings: str
    start: Callable[[Path, int, int], Started]
    version: Callable[[], str]
    key: Callable[[], str] = field(default=lambda: "")


def package_version(peers: Peers, package: str) -> str:
    """The version of a package in the environment of the peers."""
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    return said([str(peers.python), "-c", asked])


def version(command: list[str | Path], pattern: str, environment: dict[str, str]) -> str:
    """What a pattern finds in a program's words about itself."""
    found = re.search(pattern, said([str(word) for word in command], environment))
    return found[1] if found else "?"


def said(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a command says; nothing if it fails."""
    done = subprocess.run(  # noqa: S603 - the benchmark's own commands
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip() if done.returncode == 0 else ""
