#!/usr/bin/python
"""Tell which NVIDIA GPUs a host has, or why none can be used."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: citadel_gpu_facts
short_description: Tell which NVIDIA GPUs a host has, or why none can be used
description:
  - Asks C(nvidia-smi), which comes with the driver, so nothing has to be installed on the host.
  - Without a working driver it succeeds, with no GPUs and the reason.
author: Citadel
options: {}
attributes:
  check_mode:
    description: Only ever reads.
    support: full
"""

EXAMPLES = r"""
- name: Look for GPUs
  citadel_gpu_facts:
  register: __example_gpus
"""

RETURN = r"""
gpus:
  description: One entry for each GPU, in the driver's order.
  type: list
  elements: dict
  returned: always
  sample:
    - index: 0
      uuid: GPU-0c1b2d3e-4f5a-6b7c-8d9e-0f1a2b3c4d5e
      name: NVIDIA GeForce RTX 5060 Ti
      memory_mib: 16311
      compute_capability: "12.0"
driver:
  description: The driver's C(version), and whether its kernel module is the C(open) one; else empty.
  type: dict
  returned: always
reason:
  description: Why there are no GPUs to use; empty when there are.
  type: str
  returned: always
"""

import csv
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

_FIELDS = ("index", "uuid", "name", "memory.total", "driver_version", "compute_cap")
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


def parse_gpus(output: str) -> list[dict[str, Any]]:
    """Return the GPUs in nvidia-smi's CSV without header and units; memory in MiB.

    Raises:
        ValueError: the output has another shape.
    """
    gpus = []
    for row in csv.reader(output.strip().splitlines(), skipinitialspace=True):
        if len(row) != len(_FIELDS):
            raise ValueError(f"nvidia-smi answered {len(row)} fields in place of {len(_FIELDS)}: {row}")
        index, uuid, name, memory, _, capability = (field.strip() for field in row)
        gpus.append(
            {
                "index": int(index),
                "uuid": uuid,
                "name": name,
                "memory_mib": int(memory),
                "compute_capability": capability,
            }
        )
    return gpus


def parse_driver(output: str, kernel_module: str) -> dict[str, Any]:
    """Return the driver's version, and from its file in /proc whether the kernel module is the open one."""
    first = next(csv.reader(output.strip().splitlines(), skipinitialspace=True))
    return {"version": first[4].strip(), "open": "Open Kernel Module" in kernel_module}


def reason_for(status: int, output: str) -> str:
    """Return in one line why nvidia-smi has no GPUs to show."""
    said = " ".join(output.split())
    return (
        f"nvidia-smi failed ({status}): {said}" if said else f"nvidia-smi failed ({status}) and said nothing"
    )


def run(module: AnsibleModule) -> None:
    """Ask, and give the answer or the reason."""
    none: dict[str, Any] = {"changed": False, "gpus": [], "driver": {}}
    program = module.get_bin_path("nvidia-smi")
    if program is None:
        module.exit_json(**none, reason="there is no nvidia-smi, so no NVIDIA driver is installed")
    status, out, err = module.run_command(
        [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    )
    if status != 0 or not out.strip():
        module.exit_json(**none, reason=reason_for(status, out + err))
    kernel_module = _KERNEL_MODULE.read_text() if _KERNEL_MODULE.exists() else ""
    try:
        gpus, driver = parse_gpus(out), parse_driver(out, kernel_module)
    except ValueError as error:
        module.exit_json(**none, reason=str(error))
    module.exit_json(changed=False, gpus=gpus, driver=driver, reason="")


def main() -> None:
    """Run as an Ansible module."""
    run(AnsibleModule(argument_spec={}, supports_check_mode=True))


if __name__ == "__main__":
    main()
