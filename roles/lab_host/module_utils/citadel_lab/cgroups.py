"""Cgroups for a machine that no systemd starts: without them, limits inside it are silently ignored."""

import os
from functools import partial
from pathlib import Path

from .system import LabError, kill, wait_until

_PERIOD = 100_000  # microseconds: the kernel's default accounting period for CPU quotas
_PARENT = "citadel-lab"


def create(name: str, memory: int, cpus: float) -> list[Path]:
    """Make a host's group in every hierarchy, with its limits; returns the groups.

    `memory` is in MiB, `cpus` in CPUs; 0 leaves either unlimited.
    """
    groups = [hierarchy / _PARENT / name for hierarchy in _hierarchies()]
    for group in groups:
        group.mkdir(parents=True, exist_ok=True)
        for file, value in _limits(memory, cpus).items():
            if (group / file).exists():
                (group / file).write_text(value)
        _inherit_cpuset(group)
    return groups


def remove(name: str) -> None:
    """End every process in a host's groups and remove them.

    Raises:
        LabError: a process did not end.
    """
    for group in _existing(name):
        if not wait_until(partial(_is_emptied, group), timeout=10):
            raise LabError(f"processes in {group} do not end: {_members(group)}")
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()
        parent = group.parent
        if not any(child.is_dir() for child in parent.iterdir()):
            parent.rmdir()


def exist(name: str) -> bool:
    """Whether groups of a host are there."""
    return bool(_existing(name))


def _existing(name: str) -> list[Path]:
    groups = (hierarchy / _PARENT / name for hierarchy in _hierarchies())
    return [group for group in groups if group.is_dir()]


def _hierarchies() -> list[Path]:
    """Where the kernel's cgroup hierarchies are mounted: one in version 2, many in version 1."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        if source.split()[0] in {"cgroup", "cgroup2"}:
            points.append(Path(fields.split()[4]))
    return points


def _limits(memory: int, cpus: float) -> dict[str, str]:
    """The files that hold the limits, of both versions; a hierarchy has those of its own."""
    limits: dict[str, str] = {}
    if memory:
        limits |= {"memory.limit_in_bytes": str(memory << 20), "memory.max": str(memory << 20)}
    if cpus:
        quota = str(int(cpus * _PERIOD))
        limits |= {"cpu.cfs_quota_us": quota, "cpu.max": f"{quota} {_PERIOD}"}
    return limits


def _inherit_cpuset(group: Path) -> None:
    # A new group of version 1 has no CPU and no memory node, and takes no process until it has.
    for file in ("cpuset.cpus", "cpuset.mems"):
        for folder in (group.parent, group):
            if (folder / file).exists() and not (folder / file).read_text().strip():
                (folder / file).write_text((folder.parent / file).read_text())


def _members(group: Path) -> list[int]:
    pids: list[int] = []
    for procs in group.rglob("cgroup.procs"):
        pids += [int(pid) for pid in procs.read_text().split()]
    return pids


def _is_emptied(group: Path) -> bool:
    pids = _members(group)
    for pid in pids:
        kill(pid)
    return not pids
