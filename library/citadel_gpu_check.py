#!/usr/bin/python
"""Compare a host's GPUs and their driver with what they must be, and say what would do."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: citadel_gpu_check
short_description: Compare a host's GPUs and their driver with what they must be
description:
  - Takes what M(citadel_gpu_facts) returned and reports every requirement at once, with what was found,
    what was wanted, and the remedy. It reads nothing else and changes nothing.
author: Citadel
options:
  facts:
    description: What M(citadel_gpu_facts) returned.
    type: dict
    required: true
  gpus:
    description: What the GPUs must be; C(hardware_profile.gpus). What is absent is not checked.
    type: dict
    default: {}
    suboptions:
      count:
        description: The least number; one for an O(engine_build) of C(cuda), when absent.
        type: int
      name:
        description: A regular expression that each one's name must match, whatever the case.
        type: str
      memory_gib:
        description: The least memory of each, in GiB as it is sold; the driver's part of 8 % is forgiven.
        type: float
      compute_capability:
        description: The least compute capability of each, such as C("8.0").
        type: str
      ecc:
        description: Whether ECC must be on, or off.
        type: bool
      persistence:
        description: Whether persistence mode must be on, or off.
        type: bool
      mig:
        description: Whether MIG must be on, or off. A GPU that cannot be divided counts as off.
        type: bool
      fabric:
        description: >-
          With C(false), GPUs behind NVSwitch need not have been joined by the fabric manager. Otherwise they
          must with an O(engine_build) of C(cuda), for CUDA does not start without.
        type: bool
      nvlink:
        description: With C(true), each pair must be joined by NVLink.
        type: bool
      peer_to_peer:
        description: With C(true), the driver must allow peer-to-peer between each pair.
        type: bool
      pcie_generation:
        description: >-
          The least PCIe generation that each card and its slot can reach. What it runs at now does not count,
          for an idle GPU slows down.
        type: int
      pcie_width:
        description: The least number of PCIe lanes that each card can use, likewise.
        type: int
      other_processes_mib:
        description: The most memory of a GPU, in MiB, that a process may hold which is none of O(own_units).
        type: int
  driver:
    description: What the driver must be; C(hardware_profile.driver). What is absent is not checked.
    type: dict
    default: {}
    suboptions:
      branch:
        description: The oldest branch that will do, such as 575.
        type: int
      open:
        description: With C(true), the kernel module must be the open one.
        type: bool
  engine_build:
    description: With C(cuda), at least one GPU is required by default and O(cuda) is checked.
    type: str
    choices: [cuda, cpu]
    default: cuda
  cuda:
    description: The CUDA version that the engine is built with, such as C("13.0"); empty is not checked.
    type: str
    default: ""
  own_units:
    description: A regular expression for the systemd units whose processes may use the GPUs.
    type: str
    default: ^citadel-
  enforce:
    description: Whether a requirement that is not met fails the task.
    type: bool
    default: true
attributes:
  check_mode:
    description: Only ever compares.
    support: full
"""

EXAMPLES = r"""
- name: Look for GPUs
  citadel_gpu_facts:
  register: __example_gpus

- name: Compare them with what they must be
  citadel_gpu_check:
    facts: "{{ __example_gpus }}"
    gpus: {count: 2, name: RTX 5060 Ti, memory_gib: 16, mig: false}
    driver: {branch: 575, open: true}
    cuda: "13.0"
"""

RETURN = r"""
findings:
  description: >-
    Each requirement with C(requirement), C(found), C(wanted), C(met) and C(remedy). The first begins
    with C(GPU) or with C(driver).
  type: list
  elements: dict
  returned: always
met:
  description: Whether all are met.
  type: bool
  returned: always
"""

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from collections.abc import Iterator

Facts = dict[str, Any]

# A card sold with 16 GiB shows 15.9, and less with ECC.
_MEMORY_TOLERANCE = 0.08

# The oldest branch on which every minor version of a CUDA major version runs ("minor version compatibility"):
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1.
_CUDA_BRANCHES = {11: 450, 12: 525, 13: 580}


class Finding(NamedTuple):
    """One requirement: what was found and wanted, whether it is met, and what to do when it is not."""

    requirement: str
    found: str
    wanted: str
    met: bool
    remedy: str


def numbers(version: str) -> tuple[int, ...]:
    """Return a version's numbers; none for what is no version."""
    return tuple(int(part) for part in version.split(".")) if re.fullmatch(r"\d+(\.\d+)*", version) else ()


# --- Each GPU ---


def check_gpus(wanted: Facts, facts: Facts, engine_build: str, own_units: str) -> Iterator[Finding]:
    """Yield the findings on the GPUs: their number, each one, and the links between them."""
    yield from _count(wanted.get("count"), facts, engine_build)
    for gpu in facts["gpus"]:
        for kind, found, limit, met, remedy in _one_gpu(wanted, gpu):
            yield Finding(f"GPU {gpu['index']} {kind}", found, limit, met, remedy)
        if gpu.get("fabric") and wanted.get("fabric") is not False and engine_build == "cuda":
            yield _fabric(gpu)
        if wanted.get("other_processes_mib") is not None:
            yield _processes(gpu, wanted["other_processes_mib"], own_units)
    yield from _links(wanted, facts)


def _count(asked: int | None, facts: Facts, engine_build: str) -> Iterator[Finding]:
    gpus, by_engine = facts["gpus"], int(engine_build == "cuda")
    if least := by_engine if asked is None else asked:
        silent = [f"{gpu['pci_address']} {gpu['reason']}" for gpu in facts.get("missing") or []]
        found = "; ".join([str(len(gpus)), *(silent if gpus else [facts["reason"]])])
        first = facts.get("remedy") or "look for the others with lspci -d 10de:"
        if gpus and silent:
            first = "read journalctl -k -g 'NVRM|Xid', switch the host off and on, look at power and seat"
        without = [f"lower hardware_profile.gpus.count to {len(gpus)}"] if asked is not None else []
        without += ["set citadel_engine_build to cpu"] if by_engine and not gpus else []
        remedy = f"{first}, or {' and '.join(without)}"
        yield Finding("GPUs", found, f">= {least}", len(gpus) >= least, remedy)


def _one_gpu(wanted: Facts, gpu: Facts) -> Iterator[tuple[str, str, str, bool, str]]:
    """Yield what is asked of one GPU as kind, found, wanted, met, remedy."""
    setting = "hardware_profile.gpus"
    if wanted.get("name"):
        met = re.search(wanted["name"], gpu["name"], re.IGNORECASE) is not None
        yield "model", gpu["name"], wanted["name"], met, f"correct {setting}.name"
    if wanted.get("memory_gib"):
        gibibytes = round(gpu["memory_mib"] / 1024, 1)
        met = gibibytes * (1 + _MEMORY_TOLERANCE) >= wanted["memory_gib"]
        remedy = f"lower {setting}.memory_gib"
        yield "memory", f"{gibibytes} GiB", f">= {wanted['memory_gib']:g} GiB", met, remedy
    if wanted.get("compute_capability"):
        least, found = wanted["compute_capability"], gpu["compute_capability"]
        known = found or "unknown: nvidia-smi tells it from driver 510 on"
        remedy = f"use a newer GPU, or lower {setting}.compute_capability"
        yield "compute capability", known, f">= {least}", numbers(found) >= numbers(least), remedy
    yield from _modes(wanted, gpu)
    for key, kind, unit in (("generation", "PCIe generation", ""), ("width", "PCIe width", " lanes")):
        least, possible = wanted.get(f"pcie_{key}"), gpu["pcie"][f"{key}_max"]
        if least:
            shown = "unknown" if possible is None else f"{possible}{unit} possible"
            remedy = f"use another slot (or its firmware setting), or lower {setting}.pcie_{key}"
            yield kind, shown, f">= {least}{unit}", (possible or 0) >= least, remedy


def _modes(wanted: Facts, gpu: Facts) -> Iterator[tuple[str, str, str, bool, str]]:
    index = gpu["index"]
    persistence = "enabled" if gpu["persistence"] else "disabled"
    for key, kind, found, command in (
        ("ecc", "ECC", gpu["ecc"], f"nvidia-smi -i {index} -e {{}}, then restart"),
        ("mig", "MIG", gpu["mig"], f"nvidia-smi -i {index} -mig {{}}"),
        (
            "persistence",
            "persistence mode",
            persistence,
            f"nvidia-smi -i {index} -pm {{}} or nvidia-persistenced",
        ),
    ):
        asked = wanted.get(key)
        if asked is None:
            continue
        met = (found == "enabled") == asked
        remedy = (
            f"this GPU has no {kind}: drop hardware_profile.gpus.{key}"
            if found == "unsupported"
            else f"{command.format(int(asked))}, or drop hardware_profile.gpus.{key}"
        )
        yield kind, found, "enabled" if asked else "disabled", met, remedy


def _fabric(gpu: Facts) -> Finding:
    """Until it is through, CUDA says that the system is not ready (NVIDIA's "Fabric Manager User Guide")."""
    remedy = (
        "install nvidia-fabricmanager of the driver's own version and start it (systemctl status and "
        "/var/log/fabricmanager.log tell why it does not), or set hardware_profile.gpus.fabric to false"
    )
    found = gpu["fabric"]
    return Finding(f"GPU {gpu['index']} fabric", found, "completed", found == "completed", remedy)


def _processes(gpu: Facts, most: int, own_units: str) -> Finding:
    others = [
        process
        for process in gpu["processes"]
        if not re.search(own_units, process.get("unit") or "") and (process["memory_mib"] or 0) > most
    ]
    shown = [f"{p['name']} ({p['pid']}) holds {p['memory_mib']} MiB" for p in others]
    remedy = "end them (engines need the memory), or raise hardware_profile.gpus.other_processes_mib"
    wanted = f"<= {most} MiB each"
    return Finding(
        f"GPU {gpu['index']} other processes", ", ".join(shown) or "none", wanted, not others, remedy
    )


# --- Between the GPUs ---


def _links(wanted: Facts, facts: Facts) -> Iterator[Finding]:
    links = facts["links"]
    if wanted.get("nvlink"):
        without = [f"{_pair(link)} {link['label']}" for link in links if link["kind"] != "nvlink"]
        remedy = "add the NVLink bridges, or drop hardware_profile.gpus.nvlink"
        yield _pairs("GPU NVLink", links, without, "between all", remedy)
    if wanted.get("peer_to_peer"):
        without = [f"{_pair(link)} {link['peer_to_peer']}" for link in links if link["peer_to_peer"] != "ok"]
        remedy = (
            "look at IOMMU and ACS in the firmware (GNS: the driver does not allow it for this GPU), "
            "or drop hardware_profile.gpus.peer_to_peer"
        )
        yield _pairs("GPU peer-to-peer", links, without, "between all", remedy)


def _pair(link: Facts) -> str:
    return "-".join(str(index) for index in link["gpus"])


def _pairs(requirement: str, links: list[Facts], without: list[str], wanted: str, remedy: str) -> Finding:
    found = ", ".join(without) if links else "no pair of GPUs whose link is known"
    return Finding(requirement, found or wanted, wanted, bool(links) and not without, remedy)


# --- The driver ---


def check_driver(wanted: Facts, found: Facts, cuda: str) -> Iterator[Finding]:
    """Yield the findings on the driver: branch, kernel module, whether it runs that CUDA version."""
    version = found.get("version") or "none"
    branch = (numbers(version.partition(".")[0]) or (0,))[0]
    if wanted.get("branch"):
        remedy = (
            "install this branch or newer (role nvidia_driver), or correct hardware_profile.driver.branch"
        )
        least = wanted["branch"]
        yield Finding("driver branch", version, f">= {least}", branch >= least, remedy)
    if wanted.get("open"):
        kind = "none" if not found else "open" if found.get("open") else "closed"
        remedy = (
            "install the driver's -open package (role nvidia_driver), or drop hardware_profile.driver.open"
        )
        yield Finding("driver's kernel module", kind, "open", kind == "open", remedy)
    if cuda:
        yield _cuda(cuda, version, branch, found.get("cuda") or "")


def _cuda(cuda: str, version: str, branch: int, supported: str) -> Finding:
    """Tell whether a driver runs what is built with a CUDA version."""
    least = _CUDA_BRANCHES.get(numbers(cuda)[0])
    newer = bool(supported) and numbers(supported) >= numbers(cuda)
    related = least is not None and branch >= least
    found = f"driver {version} for CUDA {supported}" if supported else f"driver {version}"
    if related and not newer:
        found += ", which runs it by minor version compatibility"
    remedy = (
        f"install driver branch {least or 'for CUDA ' + cuda} or newer (role nvidia_driver), "
        "or lock an engine that is built for an older CUDA"
    )
    return Finding("driver for the engine's CUDA", found, f"CUDA {cuda}", newer or related, remedy)


# --- Answer ---


def faults(parameters: Facts) -> list[str]:
    """Return what is wrong with the requirements themselves, each by the setting's name."""
    wanted, driver = parameters["gpus"], parameters["driver"]
    said = [
        f"hardware_profile.gpus.{key} is {value}: it cannot be negative"
        for key, value in wanted.items()
        if isinstance(value, (int, float)) and value < 0
    ]
    if (driver.get("branch") or 0) < 0:
        said.append(f"hardware_profile.driver.branch is {driver['branch']}: it cannot be negative")
    for setting, expression in (
        ("hardware_profile.gpus.name", wanted.get("name")),
        ("own_units", parameters["own_units"]),
    ):
        try:
            re.compile(expression or "")
        except re.error as error:
            said.append(f"{setting} is {expression!r}, which is no regular expression: {error}")
    for setting, version in (
        ("hardware_profile.gpus.compute_capability", wanted.get("compute_capability")),
        ("cuda", parameters["cuda"]),
    ):
        if version and not numbers(version):
            said.append(f'{setting} is {version!r}, which is no version such as "12.0"')
    return said


def render(findings: list[Finding]) -> list[str]:
    """Return the findings as lines for people."""
    return [f"{f.requirement}: wanted {f.wanted}, found {f.found}; {f.remedy}" for f in findings]


def run(module: AnsibleModule) -> None:
    """Compare and answer."""
    parameters = module.params
    if said := faults(parameters):
        module.fail_json(msg="\n".join(said))
    facts, build = parameters["facts"], parameters["engine_build"]
    findings = [
        *check_gpus(parameters["gpus"], facts, build, parameters["own_units"]),
        *check_driver(parameters["driver"], facts["driver"], parameters["cuda"] if build == "cuda" else ""),
    ]
    failed = [finding for finding in findings if not finding.met]
    answer: dict[str, Any] = {"findings": [finding._asdict() for finding in findings], "met": not failed}
    if failed and parameters["enforce"]:
        heading = f"{len(failed)} of {len(findings)} requirements on the GPUs are not met:"
        module.fail_json(msg="\n".join([heading, *render(failed)]), **answer)
    module.exit_json(changed=False, **answer)


def main() -> None:
    """Run as an Ansible module."""
    gpus = {
        "count": "int",
        "name": "str",
        "memory_gib": "float",
        "compute_capability": "str",
        "ecc": "bool",
        "persistence": "bool",
        "mig": "bool",
        "fabric": "bool",
        "nvlink": "bool",
        "peer_to_peer": "bool",
        "pcie_generation": "int",
        "pcie_width": "int",
        "other_processes_mib": "int",
    }
    driver = {"branch": "int", "open": "bool"}
    run(
        AnsibleModule(
            argument_spec={
                "facts": {"type": "dict", "required": True},
                "gpus": {
                    "type": "dict",
                    "default": {},
                    "options": {key: {"type": kind} for key, kind in gpus.items()},
                },
                "driver": {
                    "type": "dict",
                    "default": {},
                    "options": {key: {"type": kind} for key, kind in driver.items()},
                },
                "engine_build": {"type": "str", "choices": ["cuda", "cpu"], "default": "cuda"},
                "cuda": {"type": "str", "default": ""},
                "own_units": {"type": "str", "default": "^citadel-"},
                "enforce": {"type": "bool", "default": True},
            },
            supports_check_mode=True,
        )
    )


if __name__ == "__main__":
    main()
