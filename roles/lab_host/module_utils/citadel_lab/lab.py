"""Observe, plan, apply: the steps from what is there to what is asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from . import machine, network, pip_settings, rootfs, ssh
from .definition import Host, Lab
from .supervisor import Supervisor
from .system import LabError, locked, remove_tree

# One for all labs of this machine: they share the kernel's forwarding, and may share caches and bridge.
LOCK = Path("/run/lock/citadel-lab.lock")


@dataclass(frozen=True)
class Step:
    """One thing to do: what it is, in words, and how."""

    what: str
    do: Callable[[], object]


@dataclass
class Plan:
    """The steps to take, and the hosts to wait for after them."""

    steps: list[Step] = field(default_factory=list)
    starting: list[Host] = field(default_factory=list)

    def add(self, what: str, do: Callable[[], object]) -> None:
        """Add a step."""
        self.steps.append(Step(what, do))

    def apply(self) -> None:
        """Take the steps in their order."""
        for step in self.steps:
            step.do()


def plan_up(lab: Lab, supervisor: Supervisor) -> Plan:
    """The steps until every host runs."""
    for host in lab.hosts:
        machine.check(lab, host)
    plan = Plan()
    if not ssh.has_key(lab):
        plan.add("make the key pair", partial(ssh.create_key, lab))
    absent = [host for host in lab.hosts if not machine.is_complete(lab, host)]
    if absent and not rootfs.path_of(lab).exists():
        plan.add(f"build the root file system of {lab.suite}", partial(rootfs.build, lab))
    if missing := network.missing(lab):
        plan.add(f"make the network: {', '.join(missing)}", partial(network.create, lab))
    settings = pip_settings.read()
    for host in lab.hosts:
        _plan_host_up(plan, lab, host, supervisor, settings)
    return plan


def plan_down(lab: Lab, supervisor: Supervisor) -> Plan:
    """The steps until nothing of the hosts is left, nor of the network when no host needs it."""
    plan = Plan()
    for host in lab.hosts:
        if machine.has_remains(lab, host, supervisor):
            plan.add(f"remove {host.name}", partial(machine.remove, lab, host, supervisor))
    others = others_in(lab)
    if not others and (network.exists(lab) or lab.ssh_dir.exists()):
        plan.add(f"remove the network on {lab.bridge}, and {lab.state_dir}", partial(_close, lab))
    return plan


def plan_purge(lab: Lab, supervisor: Supervisor) -> Plan:
    """The steps until the caches are gone too.

    Raises:
        LabError: other hosts use them.
    """
    named = {host.name for host in lab.hosts}
    users = sorted({*others_in(lab), *machine.users_of(lab.uv_cache_dir)} - named)
    if users:
        raise LabError(f"{', '.join(users)} still use {lab.cache_dir}: take them down first")
    plan = plan_down(lab, supervisor)
    caches = (rootfs.folder_of(lab), machine.packages_of(lab), lab.uv_cache_dir)
    if any(cache.exists() for cache in caches):
        plan.add(f"remove {lab.cache_dir}", partial(_remove_caches, lab, caches))
    return plan


def tidy(lab: Lab) -> None:
    """Remove what was put aside, and the lab's folders if they are empty; not to be called under the lock."""
    machine.sweep(lab)
    with locked(LOCK):
        _remove_if_empty(lab.machines_dir, lab.state_dir)


def others_in(lab: Lab) -> list[str]:
    """The lab's hosts that were not named."""
    named = {host.name for host in lab.hosts}
    return [name for name in machine.all_in(lab) if name not in named]


def status(lab: Lab, supervisor: Supervisor) -> list[dict[str, str]]:
    """What stands: each host's name, address, state, and the way in."""
    return [
        {
            "name": host.name,
            "address": host.address,
            "state": _state(lab, host, supervisor),
            "ssh": f"ssh -F {ssh.config_path(lab)} {host.name}",
        }
        for host in lab.hosts
    ]


def _plan_host_up(
    plan: Plan, lab: Lab, host: Host, supervisor: Supervisor, settings: pip_settings.PipSettings
) -> None:
    state = _state(lab, host, supervisor)
    if state == "running":
        if not ssh.answers(host):  # another run has only just started it
            plan.starting.append(host)
        return
    if state == "remains":
        plan.add(f"remove the remains of {host.name}", partial(machine.remove, lab, host, supervisor))
    if state == "stopped":
        plan.add(f"clear away what ran of {host.name}", partial(machine.stop, lab, host, supervisor))
    else:
        plan.add(f"make {host.name}", partial(machine.create, lab, host, settings))
    plan.add(f"start {host.name} at {host.address}", partial(_start, lab, host, supervisor))
    plan.starting.append(host)


def _start(lab: Lab, host: Host, supervisor: Supervisor) -> None:
    ssh.introduce(lab, host)
    machine.start(lab, host, supervisor)


def _close(lab: Lab) -> None:
    # A host of another lab may be on the same bridge.
    if not network.in_use(lab):
        network.remove(lab)
    remove_tree(lab.ssh_dir)


def _remove_if_empty(*folders: Path) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _remove_caches(lab: Lab, caches: tuple[Path, ...]) -> None:
    for cache in caches:
        remove_tree(cache)
    _remove_if_empty(lab.cache_dir)


def _state(lab: Lab, host: Host, supervisor: Supervisor) -> str:
    complete = machine.is_complete(lab, host)
    if complete and machine.is_running(lab, host):
        return "running"
    if complete:
        return "stopped"
    return "remains" if machine.has_remains(lab, host, supervisor) else "absent"
