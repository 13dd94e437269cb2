"""What a service runs with, written down by itself: `<run_dir>/settings/citadel-<kind>/<service>.json`.

Each account has a folder there, in which it alone writes and which the operator's group may read
(tmpfiles.d); where there is none, nothing is written. No secret is a setting, so none is in it. `citadel
config diff` compares it with what is on disk; how a service came up and reloaded stands beside it, for
metrics.
"""

import contextlib
import datetime
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from citadel_llm.config.layers import VARIABLE_PREFIX

FOLDER = "settings"
_MODE = 0o640


@dataclass
class Running:
    """A service that runs.

    Attributes:
        service: What it calls itself.
        pid: Its main process.
        settings: What it runs with, as JSON.
        since: When it became ready.
        began: When its process was started, by the kernel's count: process ids come again.
        start_seconds: How long that took.
        reloads: How often it has taken over new settings since.
        reload_failed: Why it did not, the last time it was to; empty when it did.
        variables: The environment variables over its settings.
    """

    service: str
    settings: dict[str, Any]
    start_seconds: float
    pid: int = field(default_factory=os.getpid)
    since: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    began: int | None = field(default_factory=lambda: _began(os.getpid()))
    reloads: int = 0
    reload_failed: str = ""
    variables: list[str] = field(
        default_factory=lambda: sorted(name for name in os.environ if name.startswith(VARIABLE_PREFIX))
    )

    def write(self, run_dir: Path) -> None:
        """Put it where it is looked for, in one step.

        Raises:
            OSError: The folder is there, and cannot be written to.
        """
        path = file_of(run_dir, self.service)
        if not path.parent.is_dir():
            return
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        # For the group, whatever the service's umask.
        draft.chmod(_MODE)
        draft.replace(path)

    def rewrite(self, run_dir: Path) -> None:
        """Bring it up to date, unless it is a successor's by now.

        Raises:
            OSError: It cannot be written.
        """
        if self._is_there(run_dir):
            self.write(run_dir)

    def remove(self, run_dir: Path) -> None:
        """Take it away, unless it is a successor's by now."""
        if self._is_there(run_dir):
            with contextlib.suppress(OSError):
                file_of(run_dir, self.service).unlink()

    def _is_there(self, run_dir: Path) -> bool:
        try:
            return Running.read(file_of(run_dir, self.service)).pid == self.pid
        except (OSError, ValueError, TypeError):
            return False

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what a service wrote.

        Raises:
            OSError: There is none, or it is not readable for this account.
            ValueError, TypeError: It is another release's.
        """
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def file_of(run_dir: Path, service: str) -> Path:
    """Where a service writes down what it runs with; `gateway.2` and `engine@phi` beside their like."""
    kind = service.partition("@")[0].partition(".")[0]
    return run_dir / FOLDER / f"citadel-{kind}" / f"{service}.json"


def service_of(unit: str) -> str:
    """What the service of a unit calls itself: `engine@phi` of citadel-engine@phi.service."""
    name = unit.removeprefix("citadel-").removesuffix(".service")
    return name.replace("@", ".", 1) if name.startswith("gateway@") else name


def running_in(run_dir: Path) -> list[Running]:
    """All services that run and have written it down.

    Raises:
        OSError: This account may not read it.
    """
    found = []
    for folder in (run_dir / FOLDER).iterdir() if (run_dir / FOLDER).is_dir() else ():
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
                found.append(Running.read(path))
    # One that was killed has left its file behind.
    alive = [each for each in found if each.began == _began(each.pid)]
    return sorted(alive, key=lambda each: each.service)


def _began(pid: int) -> int | None:
    """When a process was started, in the kernel's ticks since the boot; none when there is none."""
    try:
        # The name, which may hold anything, is the second field; this is the 22nd (proc_pid_stat(5)).
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None
