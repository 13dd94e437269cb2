#!/usr/bin/python
"""Ansible's door to the lab: parameters in, plan applied, result out."""

DOCUMENTATION = r"""
module: lab_hosts
short_description: Make, start, show and remove lab hosts
description:
  - A lab host is a booted systemd machine with an address and an SSH server of its own, inside this one.
  - What is there is observed each time, so that the remains of a killed run are recognised and replaced.
  - Needs root, systemd-nspawn, mmdebstrap, nft, ip and ssh-keygen.
options:
  state:
    description:
      - C(up) has every host made and running, C(down) has nothing left of them.
      - C(status) changes nothing. C(purged) is C(down), and removes the caches too.
      - The network goes with the last host of the lab.
    type: str
    choices: [up, down, status, purged]
    default: up
  hosts:
    description: The hosts, each with a name and an address in the subnet.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The host's name.
        type: str
        required: true
      address:
        description: The host's IPv4 address.
        type: str
        required: true
  suite:
    description: The Debian or Ubuntu suite of new hosts.
    type: str
    default: bookworm
  mirror:
    description: Where the suite comes from; empty for mmdebstrap's choice.
    type: str
    default: ""
  packages:
    description: What is installed in new hosts.
    type: list
    elements: str
    required: true
  memory:
    description: The memory of each host in MiB; 0 for no limit.
    type: int
    default: 0
  cpus:
    description: The CPUs of each host; 0 for no limit.
    type: float
    default: 0
  subnet:
    description: The lab's IPv4 network; its first address is the bridge's.
    type: str
    required: true
  bridge:
    description: The name of the lab's bridge.
    type: str
    required: true
  state_dir:
    description: Where hosts, keys and logs are kept while the lab stands.
    type: path
    required: true
  cache_dir:
    description: Where what is worth keeping between labs is kept.
    type: path
    required: true
  boot_timeout:
    description: How long a host may take to boot, in seconds.
    type: int
    default: 90
author:
  - Citadel
"""

EXAMPLES = r"""
- name: Have a host
  lab_hosts:
    state: up
    hosts:
      - name: citadel-lab-1
        address: 10.89.13.11
    packages: [systemd, systemd-sysv, dbus, python3, sudo, openssh-server, iproute2, ca-certificates]
    subnet: 10.89.13.0/24
    bridge: citadel-lab0
    state_dir: /var/lib/citadel-lab
    cache_dir: /var/cache/citadel-lab
"""

RETURN = r"""
hosts:
  description: Each host with its name, address, state (running, stopped, remains, absent) and the way in.
  returned: always
  type: list
  elements: dict
steps:
  description: What was done, or in check mode would be.
  returned: always
  type: list
  elements: str
"""

import os
from contextlib import nullcontext
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.citadel_lab.definition import Host, Lab, check, subnet_from
from ansible.module_utils.citadel_lab.lab import LOCK, Plan, plan_down, plan_purge, plan_up, status, tidy
from ansible.module_utils.citadel_lab.machine import wait
from ansible.module_utils.citadel_lab.supervisor import for_this_machine
from ansible.module_utils.citadel_lab.system import LabError, locked

_PLANS = {"up": plan_up, "down": plan_down, "purged": plan_purge, "status": lambda *_: Plan()}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["up", "down", "status", "purged"], "default": "up"},
            "hosts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                },
            },
            "suite": {"type": "str", "default": "bookworm"},
            "mirror": {"type": "str", "default": ""},
            "packages": {"type": "list", "elements": "str", "required": True},
            "memory": {"type": "int", "default": 0},
            "cpus": {"type": "float", "default": 0},
            "subnet": {"type": "str", "required": True},
            "bridge": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
            "cache_dir": {"type": "path", "required": True},
            "boot_timeout": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**_bring_about(module))
    except LabError as error:
        module.fail_json(msg=str(error))


def _bring_about(module: AnsibleModule) -> dict[str, object]:
    params = dict(module.params)
    state = params.pop("state")
    lab = Lab(
        **params
        | {
            "hosts": tuple(Host(**host) for host in params["hosts"]),
            "packages": tuple(params["packages"]),
            "subnet": subnet_from(params["subnet"]),
            "state_dir": Path(params["state_dir"]),
            "cache_dir": Path(params["cache_dir"]),
        }
    )
    check(lab)
    if os.geteuid() != 0:
        raise LabError("a lab host needs root: bridges, mounts and systemd-nspawn are root's; use sudo")
    supervisor = for_this_machine()
    with nullcontext() if module.check_mode else locked(LOCK):
        plan = _PLANS[state](lab, supervisor)
        if not module.check_mode:
            plan.apply()
    if plan.steps and not module.check_mode:
        tidy(lab)
    for host in [] if module.check_mode else plan.starting:
        said = wait(lab, host)
        if said not in {"running", "starting"}:
            module.warn(f"{host.name} booted, but its systemd says {said}: see systemctl --failed there")
    steps = [step.what for step in plan.steps]
    return {
        "changed": bool(steps),
        "steps": steps,
        "hosts": status(lab, supervisor),
        "diff": {"prepared": "".join(f"{step}\n" for step in steps)},
    }


if __name__ == "__main__":
    main()
