"""A host for the command line: its configuration, and a stand-in for systemd.

What the stand-in leaves unproven, that systemd is asked rightly and does it, is seen on a lab host by
tests/lab/test_systemd.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import yaml
from typer.testing import Result

from citadel_llm.services.systemd import SystemdError, UnitState

Run = Callable[..., Result]
HEALTH = "citadel-health.service"


class Machine:
    """What the command line finds on a host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.called: list[str] = []
        self._moments: list[list[UnitState]] = [[]]
        self.gateway_settings = (0, "")
        self.answers()
        self.configure()

    def configure(self, **changes: object) -> None:
        """Write the configuration: one model, named small."""
        model = {"name": "small", "source": {"kind": "folder", "path": "/x"}}
        tree = {
            "environment": "staging",
            "root": str(self.folder / "root"),
            "run_dir": str(self.folder / "run"),
            "models_root": str(self.folder / "models"),
            "engine": {"build": "cpu"},
            "models": [model],
            # How busy the machine is that runs the tests is no matter of theirs.
            "health": {"built_in": {name: {"enabled": False} for name in ("disk", "memory", "cpu")}},
            **changes,
        }
        (self.folder / "config" / "global").mkdir(parents=True, exist_ok=True)
        (self.folder / "config" / "global" / "a.yml").write_text(yaml.safe_dump(tree))

    def answers(self, error: SystemdError | None = None) -> None:
        """What a start and its like end with."""
        self.error = error

    def is_seen_as(self, *moments: list[UnitState]) -> None:
        """How the units are, each time that systemd is asked; the last one for ever."""
        self._moments = list(moments)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def states(self, units: Sequence[str]) -> list[UnitState]:
        seen = list(self._moments.pop(0) if len(self._moments) > 1 else self._moments[0])
        # The health checks, which every site has, run always.
        return [replace(RUNNING if unit == HEALTH else seen.pop(0), unit=unit) for unit in units]

    def __getattr__(self, verb: str) -> Any:
        if verb not in {"start", "stop", "restart", "reload", "reset_failed"}:
            raise AttributeError(verb)

        async def move(unit: str) -> None:
            self.called.append(f"{verb} {unit}")
            if self.error and verb != "reset_failed":
                raise self.error

        return move


def state(active: str, sub: str, says: str = "", **fields: Any) -> UnitState:
    """A unit's state."""
    up = {"main_pid": 4711, "memory_bytes": 3267440640, "active_enter": 1.0}
    known = {
        "active_state": active,
        "sub_state": sub,
        "status_text": says,
        **(up if active == "active" else {}),
    }
    return UnitState("any.service", **{**known, **fields})


RUNNING = state("active", "running", "ready after 0.3 s")
STOPPED = state("inactive", "dead")
LOADING = state("activating", "start", "loading the weights, 50% (12 s)")
FAILED = state("failed", "failed", "failed: out of memory", result="exit-code")
