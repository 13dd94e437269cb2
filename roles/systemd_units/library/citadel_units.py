#!/usr/bin/python
# Copyright: Citadel
# Apache License 2.0
"""Bring a group of systemd services to what they should be, restarting none without a reason."""

from __future__ import annotations

DOCUMENTATION = r"""
module: citadel_units
short_description: Start, restart and stop a group of services, by what they run with
description:
  - Each unit sets C(CITADEL_REVISION) in its environment. A service whose process carries another revision
    than the wanted one is restarted; one that carries the wanted one is left alone.
  - So nothing is started twice, and a restart that an interrupted run owes is made by the next.
  - Starts and restarts are only asked for; O(state=ready) tells when they are done.
  - A service that hands over is reloaded instead of restarted. Its reload starts a process with all that is
    new, which takes over when it is ready. If it does not come up, the running process goes on, and the
    module fails with what the journal says of it.
author: Citadel
options:
  units:
    description: The services.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The unit's name.
        type: str
        required: true
      revision:
        description: The revision that its process must carry.
        type: str
        required: true
      on_demand:
        description: Whether it runs only when somebody starts it, and is not enabled, started or waited for.
        type: bool
        default: false
      hands_over:
        description: Whether a reload replaces its process by one with all that is new, without a gap.
        type: bool
        default: false
      settings:
        description: Not used; what else is known of the unit may be handed over with it.
        type: dict
  state:
    description:
      - V(started) enables the units and the target, and starts or restarts what does not run as it should.
      - V(stopped) disables and stops them.
      - V(ready) only looks, and fails when a service has failed, with the end of its journal.
    type: str
    choices: [started, stopped, ready]
    required: true
  target:
    description: The target that groups the services.
    type: str
  patterns:
    description:
      - Units that match one and are not in O(units) are stopped and disabled. One that hands over finishes
        what it has begun, however long that takes, and is not waited for.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Says what would be done, and does nothing.
"""

EXAMPLES = r"""
- name: Start, restart and stop what differs
  citadel_units:
    state: started
    units:
      - {name: citadel-gateway.service, revision: 0a1b2c3d}
    target: citadel.target
    patterns: [citadel-engine@*.service]
"""

RETURN = r"""
ready:
  description: Whether every service is active and carries its revision.
  type: bool
  returned: success
waiting_for:
  description: The services that are not ready, each with what it says about itself.
  type: dict
  returned: success
actions:
  description: What was done, or would be, as commands of C(systemctl).
  type: list
  elements: str
  returned: success
"""

import fnmatch
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = (
    "Id",
    "ActiveState",
    "SubState",
    "Result",
    "UnitFileState",
    "NeedDaemonReload",
    "MainPID",
    "Job",
    "StatusText",
)
JOURNAL_LINES = 20
# What every entry of a service's log has, and what a person who reads its end knows already.
COMMON_KEYS = {"event", "level", "logger", "service", "timestamp"}
VARIABLE = "CITADEL_REVISION"
# Where a service and its successor meet is in the folder that this names; one that was started without it, by
# an older release, can only be restarted.
MEETING_POINT = "RUNTIME_DIRECTORY"


class Unit(NamedTuple):
    """What systemd says of a unit, and the revision that its process carries (empty when none runs)."""

    name: str
    active: str
    sub: str
    result: str
    enabled: bool
    outdated: bool
    queued: bool
    status: str
    revision: str
    hands_over: bool

    @property
    def runs(self) -> bool:
        """Whether it is up, coming up, or about to."""
        return self.active in {"active", "activating", "reloading"} and self.sub != "auto-restart"

    def is_ready(self, revision: str) -> bool:
        """Whether it is up with the given revision."""
        return self.active == "active" and self.revision == revision

    @property
    def failed(self) -> bool:
        """Whether it will not come up without help, or came down while it was to come up."""
        stopped = self.active == "inactive" and not self.queued
        return stopped or self.active == "failed" or self.sub == "auto-restart"


class Plan(NamedTuple):
    """What to ask of systemctl, in this order."""

    reload: bool
    stop: list[str]
    dismiss: list[str]
    disable: list[str]
    enable: list[str]
    restart: list[str]
    start: list[str]
    hand_over: list[str]

    def commands(self) -> list[list[str]]:
        """Return the arguments of each call."""
        calls = [["daemon-reload"]] if self.reload else []
        verbs: list[tuple[list[str], list[str]]] = [
            (["stop"], self.stop),
            (["stop", "--no-block"], self.dismiss),
            (["disable"], self.disable),
            (["enable"], self.enable),
            (["reset-failed"], self.start),
            (["restart", "--no-block"], self.restart),
            (["start", "--no-block"], self.start),
            # The last, for it is waited for, and may fail.
            (["reload"], self.hand_over),
        ]
        return calls + [[*verb, *names] for verb, names in verbs if names]


def process_environment(pid: int, proc: Path = Path("/proc")) -> dict[str, str]:
    """Return a process's environment as it was started with; empty when there is no such process."""
    try:
        environment = (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    return dict(os.fsdecode(line).partition("=")[::2] for line in environment.split(b"\0") if line)


def parse(text: str, proc: Path = Path("/proc")) -> dict[str, Unit]:
    """Read the output of C(systemctl show) for several units, separated by empty lines."""
    units = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        environment = process_environment(int(values.get("MainPID") or 0), proc)
        units[values["Id"]] = Unit(
            name=values["Id"],
            active=values["ActiveState"],
            sub=values["SubState"],
            result=values.get("Result", ""),
            enabled=values["UnitFileState"] == "enabled",
            outdated=values["NeedDaemonReload"] == "yes",
            queued=bool(values.get("Job")),
            status=values.get("StatusText", ""),
            revision=environment.get(VARIABLE, ""),
            hands_over=bool(environment.get(MEETING_POINT)),
        )
    return units


def plan_start(
    units: dict[str, Unit],
    wanted: dict[str, str],
    leftover: list[Unit],
    target: Unit | None,
    on_demand: frozenset[str] = frozenset(),
    *,
    handing_over: frozenset[str] = frozenset(),
) -> Plan:
    """Plan for services that shall run; those on demand are only brought up to date where they run.

    One that hands over does so instead of being restarted, when it is up and was started so that it can. One
    that ran always and is on demand now, is stopped: the others were given its memory.
    """
    every = [unit for unit in (*units.values(), target) if unit]
    no_longer = [unit.name for unit in every if unit.enabled and unit.name in on_demand]
    still_up = [name for name in no_longer if units[name].active not in {"inactive", "failed"}]
    always = [unit for unit in every if unit.name not in on_demand]
    replace = [
        name
        for name in wanted
        if units[name].runs and units[name].revision != wanted[name] and name not in no_longer
    ]
    hand_over = [
        name
        for name in replace
        if name in handing_over and units[name].hands_over and units[name].active == "active"
    ]
    start = [name for name in wanted if not units[name].runs and name not in on_demand]
    if target and target.active != "active":
        start.append(target.name)
    return Plan(
        reload=any(unit.outdated for unit in every),
        stop=[*(unit.name for unit in leftover if not unit.hands_over), *still_up],
        dismiss=[unit.name for unit in leftover if unit.hands_over],
        disable=[*(unit.name for unit in leftover), *no_longer],
        enable=[unit.name for unit in always if not unit.enabled],
        restart=[name for name in replace if name not in hand_over],
        start=start,
        hand_over=hand_over,
    )


def plan_stop(units: dict[str, Unit], leftover: list[Unit], target: Unit | None) -> Plan:
    """Plan for services that shall not run."""
    every = [unit for unit in (*units.values(), target) if unit]
    running = [unit.name for unit in every if unit.active not in {"inactive", "failed"}]
    return Plan(
        reload=any(unit.outdated for unit in every),
        stop=[*running, *(unit.name for unit in leftover)],
        dismiss=[],
        disable=[unit.name for unit in (*every, *leftover) if unit.enabled or unit in leftover],
        enable=[],
        restart=[],
        start=[],
        hand_over=[],
    )


class Systemctl:
    """The few questions and orders that systemctl is used for."""

    def __init__(self, module: AnsibleModule) -> None:
        """Speak for a module, which fails when systemctl does."""
        self.module = module

    def run(self, *arguments: str) -> str:
        """Run systemctl and return what it says."""
        _, out, _ = self.module.run_command(["systemctl", *arguments], check_rc=True)
        return str(out)

    def units(self, names: list[str]) -> dict[str, Unit]:
        """Describe units, known to systemd or not, in the order given."""
        if not names:
            return {}
        found = parse(self.run("show", f"--property={','.join(PROPERTIES)}", "--", *names))
        return {name: found[name] for name in names}

    def matching(self, pattern: str) -> set[str]:
        """Name the units that match a pattern and are enabled, or loaded and not yet on their way down."""
        lines = self.run("list-units", "--all", "--plain", "--no-legend", pattern).splitlines()
        loaded = [line for line in lines if "deactivating" not in line.split()[2:3]]
        enabled = (path.name for path in Path("/etc/systemd/system").glob("*.wants/*"))
        names = {line.split()[0] for line in loaded if line.strip()}
        return names | {name for name in enabled if fnmatch.fnmatch(name, pattern)}

    def hand_over(self, names: list[str]) -> None:
        """Have services replaced by their successors; fail, with the reason, when one does not come up."""
        began = int(time.time())
        rc, _, err = self.module.run_command(["systemctl", "reload", *names])
        if rc:
            reports = "\n\n".join(
                f"{name} goes on as it was: what was to take over from it did not come up.\n"
                # The running one goes on writing a line for each request: what went wrong is more severe.
                f"Its journal since:\n{self.journal(name, f'--since=@{began}', '--priority=warning')}"
                for name in names
            )
            self.module.fail_json(msg=f"{reports}\n\n{str(err).strip()}")

    def journal(self, name: str, *filters: str) -> str:
        """Return the end of a unit's journal."""
        command = ["journalctl", "--no-pager", "--output=cat", f"--lines={JOURNAL_LINES}", f"--unit={name}"]
        _, out, err = self.module.run_command([*command, *filters])
        return "\n".join(readable(line) for line in str(out or err).strip().splitlines())


def readable(line: str) -> str:
    """Write an entry of a service's JSON log as a person reads it; other lines stay as they are."""
    try:
        entry = json.loads(line)
        event = entry["event"]
    except (ValueError, KeyError, TypeError):
        return line
    details = " ".join(f"{key}={value}" for key, value in entry.items() if key not in COMMON_KEYS)
    return f"{entry.get('level', '')}: {event} {details}".strip(": ")


def describe(unit: Unit) -> str:
    """Say in a few words how a unit is."""
    return f"{unit.active} ({unit.sub})" + (f": {unit.status}" if unit.status else "")


def unready(units: dict[str, Unit], wanted: dict[str, str]) -> dict[str, str]:
    """Name the services that are not up with their revision, each with how it is."""
    return {name: describe(units[name]) for name in wanted if not units[name].is_ready(wanted[name])}


def look(module: AnsibleModule, systemctl: Systemctl, wanted: dict[str, str]) -> None:
    """Say which services are ready; fail when one has failed."""
    units = systemctl.units(list(wanted))
    waiting = unready(units, wanted)
    failed = [units[name] for name in waiting if units[name].failed]
    if failed:
        reports = [
            f"{unit.name} is {describe(unit)}, result {unit.result}.\n"
            f"The end of its journal:\n{systemctl.journal(unit.name)}"
            for unit in failed
        ]
        module.fail_json(msg="\n\n".join(reports), waiting_for=waiting)
    module.exit_json(changed=False, ready=not waiting, waiting_for=waiting, actions=[])


def main() -> None:
    """Observe, plan, apply."""
    module = AnsibleModule(
        argument_spec={
            "units": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "revision": {"type": "str", "required": True},
                    "on_demand": {"type": "bool", "default": False},
                    "hands_over": {"type": "bool", "default": False},
                    "settings": {"type": "dict"},
                },
            },
            "state": {"type": "str", "choices": ["started", "stopped", "ready"], "required": True},
            "target": {"type": "str"},
            "patterns": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    systemctl = Systemctl(module)
    wanted = {unit["name"]: unit["revision"] for unit in module.params["units"]}
    on_demand = frozenset(unit["name"] for unit in module.params["units"] if unit["on_demand"])
    handing_over = frozenset(unit["name"] for unit in module.params["units"] if unit["hands_over"])
    always = {name: revision for name, revision in wanted.items() if name not in on_demand}
    if module.params["state"] == "ready":
        look(module, systemctl, always)

    target_name = module.params["target"]
    units = systemctl.units([*wanted, target_name] if target_name else list(wanted))
    target = units.pop(target_name, None)
    matching = set[str]().union(*map(systemctl.matching, module.params["patterns"]))
    leftover = list(systemctl.units(sorted(matching - set(wanted))).values())
    if module.params["state"] == "started":
        plan = plan_start(units, wanted, leftover, target, on_demand, handing_over=handing_over)
    else:
        plan = plan_stop(units, leftover, target)
    commands = plan.commands()
    if not module.check_mode:
        for command in commands:
            if command[0] == "reload":
                systemctl.hand_over(plan.hand_over)
            else:
                systemctl.run(*command)

    waiting = unready(units, always)
    nothing_to_wait_for = module.check_mode or module.params["state"] == "stopped"
    module.exit_json(
        changed=bool(commands),
        ready=nothing_to_wait_for or not (waiting or plan.restart or plan.start),
        waiting_for=waiting,
        actions=[" ".join(["systemctl", *command]) for command in commands],
    )


if __name__ == "__main__":
    main()
