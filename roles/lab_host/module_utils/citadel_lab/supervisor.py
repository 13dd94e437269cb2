"""How a machine is started and killed: as a unit where systemd runs, detached where it does not."""

import subprocess
from pathlib import Path
from typing import Protocol

from . import cgroups
from .system import run, succeeds

# How systemd-nspawn ends when its machine reboots and --keep-unit leaves the rest to its supervisor.
_REBOOT = 133


class Supervisor(Protocol):
    """Starts a machine's process so that it outlives this one, and ends all that is left of it."""

    def start(self, name: str, command: list[str], log: Path, memory: int, cpus: float) -> None:
        """Start `command` for the host `name`; its output goes to `log`."""

    def remains(self, name: str) -> bool:
        """Whether anything of the host `name` is left."""

    def clear(self, name: str) -> None:
        """End and remove all that is left of the host `name`."""


class Unit:
    """A transient unit of this machine's own systemd."""

    def start(self, name: str, command: list[str], log: Path, memory: int, cpus: float) -> None:
        """See `Supervisor`."""
        properties = [
            "Delegate=yes",
            "KillMode=mixed",
            f"RestartForceExitStatus={_REBOOT}",
            f"SuccessExitStatus={_REBOOT}",
            f"StandardOutput=append:{log}",
        ]
        if memory:
            properties.append(f"MemoryMax={memory}M")
        if cpus:
            properties.append(f"CPUQuota={cpus:.0%}")
        run(
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={_unit(name)}",
            f"--description=Citadel lab host {name}",
            *(f"--property={item}" for item in properties),
            "--",
            *command,
        )

    def remains(self, name: str) -> bool:
        """See `Supervisor`."""
        return succeeds("systemctl", "--quiet", "is-active", _unit(name))

    def clear(self, name: str) -> None:
        """See `Supervisor`."""
        if self.remains(name):
            run("systemctl", "kill", "--kill-who=all", "--signal=SIGKILL", _unit(name))
            run("systemctl", "stop", _unit(name))


class Detached:
    """A process in a session and in cgroups of its own."""

    # Joins the cgroups named before the `--`; then runs the command after it, again after each reboot.
    _RUN = f"""
        while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done
        shift
        while :; do "$@"; [ $? = {_REBOOT} ] || exit; done
    """

    def start(self, name: str, command: list[str], log: Path, memory: int, cpus: float) -> None:
        """See `Supervisor`."""
        groups = [str(group) for group in cgroups.create(name, memory, cpus)]
        with log.open("ab") as output:
            subprocess.Popen(  # noqa: S603 - no shell reads the words
                ["/bin/sh", "-c", self._RUN, "sh", *groups, "--", *command],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def remains(self, name: str) -> bool:
        """See `Supervisor`."""
        return cgroups.exist(name)

    def clear(self, name: str) -> None:
        """See `Supervisor`."""
        cgroups.remove(name)


def for_this_machine() -> Supervisor:
    """The one that fits: systemd says so itself, by this folder (sd_booted(3))."""
    return Unit() if Path("/run/systemd/system").is_dir() else Detached()


def _unit(name: str) -> str:
    return f"citadel-lab-{name}.service"
