"""The stages of the demo and the time that each takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

_WORDS = {
    "bootstrap": "Controller: the tools in .venv",
    "lab_host": "Lab host: a machine of its own, booted, with SSH",
    "citadel": "Preflight: the inventory, and whether the models fit, before anything is touched",
    "nvidia_driver": "Driver: the GPUs', where the site asks for it",
    "hardware": "Hardware: what the host has, against the profile",
    "citadel_user": "Accounts: the operator, limits, kernel settings, firewall",
    "python_env": "Python: interpreter, uv, the engine's environment",
    "directories": "Folders: owners and modes",
    "config": "Configuration: rendered, then judged by the application",
    "services": "Application: a release, switched to when complete",
    "gateway": "Gateway: accounts and the first key",
    "models": "Model: fetched, verified, in its place",
    "systemd_units": "Services: units, and the wait until they answer",
    "monitoring": "Monitoring: Prometheus, node exporter, logs",
    "operations": "Operations: the command citadel",
    "validation": "Validation: the running system, from outside",
    "question": "Question: the deployed API is asked",
}


@dataclass
class Stage:
    """A part of the demo: its short name, what it does in words, and how many seconds it took."""

    name: str
    words: str
    seconds: float = 0.0


@dataclass
class Timeline:
    """The stages in their order. One runs at a time; the next one ends it."""

    clock: Callable[[], float] = time.monotonic
    stages: list[Stage] = field(default_factory=list)
    running: Stage | None = None
    _since: float = 0.0

    def begin(self, name: str, words: str = "") -> Stage:
        """Start a stage; the one before must have ended."""
        self.running = Stage(name, words or _words_for(name))
        self.stages.append(self.running)
        self._since = self.clock()
        return self.running

    def end(self) -> Stage | None:
        """End the running stage, if one is, and return it."""
        ended, self.running = self.running, None
        if ended:
            ended.seconds = self.clock() - self._since
        return ended

    def add(self, name: str, seconds: float) -> Stage:
        """Add a stage that ran before the timeline was there."""
        stage = Stage(name, _words_for(name), seconds)
        self.stages.append(stage)
        return stage

    @property
    def elapsed(self) -> float:
        """Seconds since the running stage began; 0 when none is."""
        return self.clock() - self._since if self.running else 0.0

    @property
    def total(self) -> float:
        """Seconds of all stages that have ended."""
        return sum(stage.seconds for stage in self.stages)


def _words_for(name: str) -> str:
    """What a stage does; a role that is new to the demo is called by its name."""
    return _WORDS.get(name, name.replace("_", " ").capitalize())
