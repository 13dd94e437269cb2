#!/usr/bin/python
"""Tell which NVIDIA GPUs a host has and how they are joined, or why none can be used."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: citadel_gpu_facts
short_description: Tell which NVIDIA GPUs a host has and how they are joined, or why none can be used
description:
  - Asks C(nvidia-smi), which comes with the driver, and reads the kernel's own files. Nothing has to be
    installed on the host.
  - Without a working driver it succeeds, with no GPUs, the reason and the remedy.
author: Citadel
options:
  timeout:
    description: >-
      How long C(nvidia-smi) may take for one answer, in seconds. Without persistence mode it wakes every GPU
      first; a GPU that has fallen off the bus can keep it forever.
    type: float
    default: 60
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
  description: >-
    One entry for each GPU, in the driver's order. What the driver does not tell is null, an empty text or
    C(unsupported). C(fabric) is C(completed) where the fabric manager has joined the GPU to its NVSwitches,
    the driver's words for what else is so, and empty where there are none. PCIe generation and width, memory
    used, temperature and processes vary from call to call.
  type: list
  elements: dict
  returned: always
  sample:
    - index: 0
      uuid: GPU-0c1b2d3e-4f5a-6b7c-8d9e-0f1a2b3c4d5e
      name: NVIDIA GeForce RTX 5060 Ti
      memory_mib: 16311
      memory_used_mib: 12
      compute_capability: "12.0"
      pci_address: "0000:01:00.0"
      numa_node: 0
      pcie: {generation: 1, generation_max: 5, width: 8, width_max: 8}
      ecc: unsupported
      power_limit_w: 180.0
      persistence: true
      temperature_c: 34
      mig: unsupported
      fabric: ""
      processes: [{pid: 4711, name: VLLM::EngineCore, memory_mib: 14000, unit: citadel-engine@phi.service}]
links:
  description: >-
    How each pair of GPUs is joined. C(kind) is C(nvlink), C(switch) (the same PCIe switches), C(bridge) (one
    host bridge), C(socket) (one NUMA node) or C(sockets); C(label) is the driver's own word, and
    C(peer_to_peer) is C(ok) or the driver's word for why not.
  type: list
  elements: dict
  returned: always
  sample: [{gpus: [0, 1], kind: bridge, label: PHB, peer_to_peer: GNS}]
missing:
  description: GPUs on the PCI bus, or in the driver's list, that do not answer; each with the reason.
  type: list
  elements: dict
  returned: always
  sample: [{pci_address: "0000:02:00.0", reason: "has fallen off the bus"}]
pci:
  description: >-
    NVIDIA's GPUs on the PCI bus, with the kernel C(driver) that holds each (empty for none), and whether it
    is C(gone), which is to say that it answers the bus no longer.
  type: list
  elements: dict
  returned: always
driver:
  description: The driver's C(version), whether its kernel module is C(open), the newest C(cuda) it runs.
  type: dict
  returned: always
secure_boot:
  description: Whether the firmware lets the kernel load signed modules only.
  type: bool
  returned: always
reason:
  description: Why there are no GPUs to use; empty when there are.
  type: str
  returned: always
remedy:
  description: What to do about it.
  type: str
  returned: always
unread:
  description: What could not be asked beside the GPUs themselves.
  type: list
  elements: str
  returned: always
"""

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.citadel_nvidia import (  # type: ignore[import-not-found]  # Ansible puts it there
    kernel,
    reasons,
    smi,
)
from ansible.module_utils.citadel_nvidia.terms import (  # type: ignore[import-not-found]
    Answer,
    Facts,
    number,
    one_line,
)

# Seconds that a process which was killed has to end.
_END = 1
_TABLE = ["--query-gpu=index,uuid,compute_cap", "--format=csv,noheader"]

Ask = Callable[[list[str]], Answer]


def observe(ask: Ask | None, sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> Facts:
    """Return all facts; `ask` is nvidia-smi, None where there is none."""
    pci, module = kernel.pci_gpus(sys), kernel.kernel_module(kernel.read(proc / "driver/nvidia/version"))
    facts: Facts = {"gpus": [], "links": [], "missing": [], "unread": []}
    facts |= {"pci": pci, "driver": module, "secure_boot": kernel.secure_boot(sys)}
    if ask is None:
        reason, remedy = reasons.why_unclaimed(pci, with_tool=False)
        if module:
            reason = f"the kernel module {module['version']} is loaded, and there is no nvidia-smi"
            remedy = "install the driver's tools of the same version (nvidia-utils, nvidia-smi)"
        return facts | {"reason": reason, "remedy": remedy}
    answer = ask(["-q", "-x"])
    logs = [answer]
    if any(word in answer.text for word in reasons.LOST) and "<nvidia_smi_log" not in answer.text:
        # One lost GPU can keep nvidia-smi from showing the others: ask for each alone.
        logs = ask_each(ask, [gpu["pci_address"] for gpu in pci])
    try:
        roots = [smi.parse_log(log.text) for log in logs if log.status == 0 or "<nvidia_smi_log" in log.text]
    except ValueError as error:
        said = f"nvidia-smi answered, but {error}"
        return facts | {"reason": said, "remedy": "run nvidia-smi -q -x on the host"}
    silent: dict[str, str] = {}
    for gpu in (gpu for root in roots for gpu in root.findall("gpu")):
        try:
            facts["gpus"].append(smi.parse_gpu(gpu))
        except ValueError as error:
            silent[smi.address_of(gpu)] = str(error)
    shown = {gpu["pci_address"] for gpu in facts["gpus"]}
    unseen = {gpu["pci_address"]: reasons.why_missing(gpu) for gpu in pci if gpu["pci_address"] not in shown}
    facts["missing"] = [{"pci_address": a, "reason": r} for a, r in sorted((unseen | silent).items())]
    if roots:
        facts["driver"] = {
            "version": roots[0].findtext("driver_version", "").strip(),
            "open": bool(module.get("open")),
            "cuda": cuda if number(cuda := roots[0].findtext("cuda_version", "").strip()) else "",
        }
    if not facts["gpus"]:
        reason, remedy = reasons.why_none(answer, pci, module)
        return facts | {"reason": reason, "remedy": remedy}
    complete(facts, ask, sys, proc)
    return facts | {"reason": "", "remedy": ""}


def ask_each(ask: Ask, addresses: list[str]) -> list[Answer]:
    """Ask for each GPU alone, until one keeps nvidia-smi waiting: it would do so again."""
    answers: list[Answer] = []
    for address in addresses:
        answers.append(ask(["-q", "-x", f"--id={address}"]))
        if answers[-1].status is None:
            break
    return answers


def complete(facts: Facts, ask: Ask, sys: Path, proc: Path) -> None:
    """Add what stands elsewhere: index, compute capability, NUMA node, services, links."""

    def asked(arguments: list[str]) -> str:
        # What kept it waiting once would do so again.
        answer = Answer(None, "") if waited else ask(arguments)
        if answer.status is None:
            waited.append(arguments)
        if answer.status != 0:
            said = "no answer in time" if answer.status is None else one_line(answer.text)[:120]
            facts["unread"].append(f"nvidia-smi {' '.join(arguments)}: {said}")
        return str(answer.text)

    waited: list[list[str]] = []
    table = smi.parse_table(asked(_TABLE))
    # The driver counts in the order of the bus, also those that are lost.
    held = [gpu["pci_address"] for gpu in facts["pci"] if gpu["driver"] == "nvidia"]
    for position, gpu in enumerate(facts["gpus"]):
        address = gpu["pci_address"]
        counted = held.index(address) if address in held else position
        index, capability = table.get(gpu["uuid"], (counted, ""))
        gpu |= {"index": index, "compute_capability": capability, "numa_node": kernel.numa_node(address, sys)}
        for process in gpu["processes"]:
            process["unit"] = kernel.unit_of(process["pid"], proc)
    indices = sorted(gpu["index"] for gpu in facts["gpus"])
    if len(indices) > 1:
        matrices = [smi.parse_matrix(asked(["topo", *what])) for what in (["-m"], ["-p2p", "r"])]
        facts["links"] = smi.links_of(indices, *matrices)


class Tool:
    """Runs nvidia-smi and waits no longer than it may."""

    def __init__(self, program: str, timeout: float) -> None:
        self.program, self.timeout = program, timeout

    def __call__(self, arguments: list[str]) -> Answer:
        """Return what it says."""
        process = subprocess.Popen(  # noqa: S603
            [self.program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
        try:
            output, _ = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            self._abandon(process)
            return Answer(None, "")
        return Answer(process.returncode, output.decode(errors="replace"))

    @staticmethod
    def _abandon(process: subprocess.Popen[bytes]) -> None:
        """End a process, and do not wait for one that is asleep in the kernel until its GPU answers."""
        process.kill()
        if process.stdout:
            process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={"timeout": {"type": "float", "default": 60}}, supports_check_mode=True
    )
    program = module.get_bin_path("nvidia-smi")
    module.exit_json(changed=False, **observe(Tool(program, module.params["timeout"]) if program else None))


if __name__ == "__main__":
    main()
