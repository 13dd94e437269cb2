#!/usr/bin/python
"""Gather what a host is, compare it with what it should be, and write both down."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: citadel_hardware
short_description: Compare a host with the profile that it should meet
description:
  - Gathers processor, memory, storage, operating system and the reachability of other services.
  - Compares them, and the GPUs that it is given, with O(profile), and reports every requirement at once.
  - Writes facts and findings to the host as JSON. Nothing that varies from run to run (free space, latencies)
    stands there, so a second run changes nothing.
author: Citadel
options:
  profile:
    description: What the host must have; a requirement that is absent is not checked.
    type: dict
    default: {}
  paths:
    description: Storage paths that are written down, whether or not the profile names them.
    type: list
    elements: path
    default: []
  gpus:
    description: What M(citadel_gpu_facts) returned.
    type: dict
    required: true
  engine_build:
    description: With C(cuda), at least one GPU is required.
    type: str
    required: true
  services:
    description: Services that must be reachable, as C(name), C(host) and C(port).
    type: list
    elements: dict
    default: []
  timeout:
    description: How long connecting to one of them may take, in seconds. All are tried at once.
    type: float
    default: 3
  report:
    description: The JSON file.
    type: path
    required: true
  enforce:
    description: Whether a requirement that is not met fails the task. Then nothing is written.
    type: bool
    default: true
attributes:
  check_mode:
    description: Compares and reports, and writes nothing.
    support: full
  diff_mode:
    description: Shows the report before and after.
    support: full
"""

EXAMPLES = r"""
- name: Compare the host with its profile
  citadel_hardware:
    profile:
      cpu: {model: Threadripper PRO 7965WX, cores: 16}
      memory_gib: 256
    gpus: "{{ __example_gpus }}"
    engine_build: cuda
    report: /etc/citadel/hardware.json
"""

RETURN = r"""
facts:
  description: What the host is.
  type: dict
  returned: always
findings:
  description: Each requirement with what was found, what was wanted, whether it is met, and the remedy.
  type: list
  elements: dict
  returned: always
table:
  description: The findings as aligned lines.
  type: list
  elements: str
  returned: always
"""

import json
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 1024**3
# Firmware and kernel keep a part of what is plugged in; 256 GiB show as some 251.
_MEMORY_TOLERANCE = 0.05
# A card sold with 16 GiB shows 15.9, and less with ECC.
_GPU_MEMORY_TOLERANCE = 0.08

Facts = dict[str, Any]


class Finding(NamedTuple):
    """One requirement: what was found and wanted, whether it is met, and what to do when it is not."""

    requirement: str
    found: str
    wanted: str
    met: bool
    remedy: str


# --- Observe: what the host says of itself, from files whose formats do not change with the distribution. ---


def parse_cpu(cpuinfo: str) -> Facts:
    """Return model, sockets, cores and threads from /proc/cpuinfo."""
    processors = [dict(_pairs(block)) for block in cpuinfo.strip().split("\n\n")]
    processors = [processor for processor in processors if "processor" in processor]
    places = {(p["physical id"], p["core id"]) for p in processors if {"physical id", "core id"} <= p.keys()}
    return {
        "model": processors[0].get("model name", "unknown") if processors else "unknown",
        "sockets": len({socket_id for socket_id, _ in places}) or 1,
        # Without a topology (some virtual machines) each thread counts as a core.
        "cores": len(places) or len(processors),
        "threads": len(processors),
    }


def _pairs(block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            yield key.strip(), value.strip()


def parse_memory(meminfo: str) -> float:
    """Return the memory that the kernel manages, in GiB, from /proc/meminfo."""
    kibibytes = int(dict(_pairs(meminfo))["MemTotal"].split()[0])
    return round(kibibytes * 1024 / GIB, 1)


def parse_os(os_release: str) -> Facts:
    """Return distribution, version and full name from /etc/os-release."""
    values = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    values = {key: value.strip("\"'") for key, value in values.items()}
    return {
        "distribution": values.get("ID", "unknown"),
        "version": values.get("VERSION_ID", "unknown"),
        "name": values.get("PRETTY_NAME", "unknown"),
    }


def mount_of(path: str, mounts: str) -> Facts:
    """Return the mount point, device and file system that hold a path, from /proc/self/mounts."""
    entries = [line.split()[:3] for line in mounts.splitlines()]
    holding = [entry for entry in entries if Path(path).is_relative_to(_unescaped(entry[1]))]
    # The last of several mounts on one point is the one that is seen.
    device, point, file_system = max(reversed(holding), key=lambda entry: len(entry[1]))
    return {"mount": _unescaped(point), "device": device, "file_system": file_system}


def _unescaped(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)


def observe_storage(path: str, mounts: str) -> Facts:
    """Return where a path is mounted and the size of that file system in GiB."""
    nearest = next(part for part in (Path(path), *Path(path).parents) if part.exists())
    space = os.statvfs(nearest)
    size = round(space.f_blocks * space.f_frsize / GIB, 1)
    return {"path": path, "size_gib": size, **mount_of(str(nearest.resolve()), mounts)}


def observe(paths: list[str], gpus: Facts) -> Facts:
    """Gather all facts of this host."""
    mounts = Path("/proc/self/mounts").read_text()
    return {
        "cpu": parse_cpu(Path("/proc/cpuinfo").read_text()),
        "memory_gib": parse_memory(Path("/proc/meminfo").read_text()),
        "storage": [observe_storage(path, mounts) for path in paths],
        "gpus": gpus["gpus"],
        "gpus_reason": gpus["reason"],
        "driver": gpus["driver"],
        "os": {**parse_os(Path("/etc/os-release").read_text()), "kernel": os.uname().release},
    }


def reach(host: str, port: int, timeout: float) -> tuple[bool, str]:
    """Connect over TCP; return whether that worked, and the latency or the reason."""
    start = time.monotonic()
    try:
        with socket.create_connection((host, port), timeout):
            return True, f"{(time.monotonic() - start) * 1000:.1f} ms"
    except ConnectionRefusedError:
        return False, "refused: the host answers, and nothing listens on the port"
    except TimeoutError:
        return False, f"no answer within {timeout:g} s"
    except socket.gaierror:
        return False, "its name is not known"
    except OSError as error:
        return False, error.strerror or str(error)


# --- Compare: requirements in, findings out. ---


def compare(profile: Facts, facts: Facts, engine_build: str) -> list[Finding]:
    """Return a finding for each requirement of the profile."""
    return [
        *_cpu(profile.get("cpu") or {}, facts["cpu"]),
        *_memory(profile.get("memory_gib"), facts["memory_gib"]),
        *_storage(profile.get("storage") or [], facts["storage"]),
        *_gpus(profile.get("gpus") or {}, facts, engine_build),
        *_driver(profile.get("driver") or {}, facts["driver"]),
        *_os(profile.get("os") or {}, facts["os"]),
    ]


def _cpu(wanted: Facts, found: Facts) -> Iterator[Finding]:
    if wanted.get("model"):
        met = re.search(wanted["model"], found["model"], re.IGNORECASE) is not None
        remedy = "this is another machine than the profile's: correct hardware_profile.cpu.model"
        yield Finding("CPU model", found["model"], wanted["model"], met, remedy)
    if wanted.get("cores"):
        remedy = "give the machine more cores, or lower hardware_profile.cpu.cores"
        met = found["cores"] >= int(wanted["cores"])
        yield Finding("CPU cores", str(found["cores"]), f">= {wanted['cores']}", met, remedy)


def _memory(wanted: float | None, found: float) -> Iterator[Finding]:
    if wanted:
        met = found * (1 + _MEMORY_TOLERANCE) >= float(wanted)
        remedy = (
            "look whether each module is seen (dmidecode -t memory), or lower hardware_profile.memory_gib"
        )
        yield Finding("memory", f"{found} GiB", f">= {wanted} GiB", met, remedy)


def _storage(wanted: list[Facts], found: list[Facts]) -> Iterator[Finding]:
    by_path = {storage["path"]: storage for storage in found}
    for requirement in wanted:
        path = requirement["path"]
        storage, point = by_path[path], by_path[path]["mount"]
        if requirement.get("size_gib"):
            met = storage["size_gib"] >= float(requirement["size_gib"])
            shown = f"{storage['size_gib']} GiB on {storage['device']}"
            remedy = f"mount the storage at {path} (it is part of {point}), or lower its size_gib"
            yield Finding(f"storage {path}", shown, f">= {requirement['size_gib']} GiB", met, remedy)
        if requirement.get("mounted"):
            remedy = f"mount the storage and enter it in /etc/fstab, or drop mounted from {path}"
            shown = f"part of {point} ({storage['file_system']})"
            yield Finding(f"mount of {path}", shown, "a file system of its own", point != "/", remedy)


def _gpus(wanted: Facts, facts: Facts, engine_build: str) -> Iterator[Finding]:
    gpus = facts["gpus"]
    count = int(wanted.get("count") or (1 if engine_build == "cuda" else 0))
    if count:
        shown = f"{len(gpus)}{': ' + facts['gpus_reason'] if facts['gpus_reason'] else ''}"
        remedy = (
            "install the NVIDIA driver, look for the cards with lspci, or set citadel_engine_build to cpu"
        )
        yield Finding("GPUs", shown, f">= {count}", len(gpus) >= count, remedy)
    for gpu in gpus:
        name = f"GPU {gpu['index']}"
        if wanted.get("name"):
            met = re.search(wanted["name"], gpu["name"], re.IGNORECASE) is not None
            yield Finding(
                f"{name} model", gpu["name"], wanted["name"], met, "correct hardware_profile.gpus.name"
            )
        if wanted.get("memory_gib"):
            gibibytes = round(gpu["memory_mib"] / 1024, 1)
            met = gibibytes * (1 + _GPU_MEMORY_TOLERANCE) >= float(wanted["memory_gib"])
            shown, limit = f"{gibibytes} GiB", f">= {wanted['memory_gib']} GiB"
            yield Finding(f"{name} memory", shown, limit, met, "lower hardware_profile.gpus.memory_gib")


def _driver(wanted: Facts, found: Facts) -> Iterator[Finding]:
    version = found.get("version", "none")
    if wanted.get("branch"):
        branch = int(version.split(".")[0]) if version != "none" else 0
        remedy = "install a driver of this branch or a newer one, or correct hardware_profile.driver.branch"
        yield Finding(
            "driver branch", version, f">= {wanted['branch']}", branch >= int(wanted["branch"]), remedy
        )
    if wanted.get("open"):
        kind = "open" if found.get("open") else "closed" if found else "none"
        remedy = "install the driver's -open package, or drop hardware_profile.driver.open"
        yield Finding("driver's kernel module", kind, "open", kind == "open", remedy)


def _os(wanted: Facts, found: Facts) -> Iterator[Finding]:
    if wanted:
        distribution, version = str(wanted.get("distribution", "")), str(wanted.get("version", ""))
        met = found["distribution"] == distribution.lower() or not distribution
        met = met and (found["version"] == version or not version)
        remedy = "install that system, or correct hardware_profile.os"
        yield Finding("operating system", found["name"], f"{distribution} {version}".strip(), met, remedy)


def reachability(services: list[Facts], timeout: float) -> tuple[list[Facts], list[Finding]]:
    """Try all services at once; return what is lasting of it, and the findings with latencies."""
    if not services:
        return [], []
    with ThreadPoolExecutor(max_workers=len(services)) as pool:
        answers = list(pool.map(lambda s: reach(s["host"], int(s["port"]), timeout), services))
    facts = [
        {"name": service["name"], "host": service["host"], "port": int(service["port"]), "reachable": reached}
        for service, (reached, _) in zip(services, answers, strict=True)
    ]
    findings = [
        Finding(
            f"service {service['name']}",
            said,
            f"{service['host']}:{service['port']} reachable",
            reached,
            "start it, open the firewalls between, or correct its entry in citadel_external_services",
        )
        for service, (reached, said) in zip(services, answers, strict=True)
    ]
    return facts, findings


# --- Report. ---


def summary(facts: Facts) -> list[str]:
    """Return what the host is, in a few lines."""
    cpu = facts["cpu"]
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_mib']} MiB)" for gpu in facts["gpus"])
    return [
        f"system  {facts['os']['name']}, kernel {facts['os']['kernel']}",
        f"CPU     {cpu['model']}: {cpu['cores']} cores, {cpu['threads']} threads",
        f"memory  {facts['memory_gib']} GiB",
        *(
            f"storage {disk['path']}: {disk['size_gib']} GiB, part of {disk['mount']} ({disk['device']})"
            for disk in facts["storage"]
        ),
        f"GPUs    {gpus or 'none: ' + facts['gpus_reason']}",
    ]


def render_table(findings: list[Finding]) -> list[str]:
    """Return the findings as aligned lines, those not met with their remedy."""
    width = max((len(finding.requirement) for finding in findings), default=0)
    lines = []
    for finding in findings:
        verdict = "ok  " if finding.met else "FAIL"
        line = f"{verdict}  {finding.requirement:<{width}}  wanted {finding.wanted}, found {finding.found}"
        lines.append(line if finding.met else f"{line}; {finding.remedy}")
    return lines


def report_text(facts: Facts, lasting: list[Finding], reached: list[Finding]) -> str:
    """Return the JSON report. Latencies vary with each run, so of services only the verdict is kept."""
    kept = [*lasting, *(finding._replace(found="reachable" if finding.met else "not") for finding in reached)]
    findings = [finding._replace(remedy="" if finding.met else finding.remedy)._asdict() for finding in kept]
    return json.dumps({"facts": facts, "findings": findings}, indent=2, sort_keys=True) + "\n"


def write_report(path: Path, text: str) -> None:
    """Replace the report in one step."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text)
    draft.chmod(0o644)
    draft.replace(path)


def run(module: AnsibleModule) -> None:
    """Observe, compare, report."""
    parameters = module.params
    profile_paths = [storage["path"] for storage in parameters["profile"].get("storage") or []]
    facts = observe(sorted({*parameters["paths"], *profile_paths}), parameters["gpus"])
    try:
        lasting = compare(parameters["profile"], facts, parameters["engine_build"])
    except re.error as error:
        module.fail_json(
            msg=f"hardware_profile holds {error.pattern!r}, which is no regular expression: {error}"
        )
    facts["services"], reached = reachability(parameters["services"], parameters["timeout"])
    findings = [*lasting, *reached]
    table = [*summary(facts), *render_table(findings)]
    results: dict[str, Any] = {
        "facts": facts,
        "findings": [finding._asdict() for finding in findings],
        "table": table,
    }
    failed = [finding for finding in findings if not finding.met]
    if failed and parameters["enforce"]:
        heading = f"{len(failed)} of {len(findings)} requirements are not met (hardware_mode is enforce):"
        module.fail_json(msg="\n".join([heading, *render_table(failed)]), **results)
    path = Path(parameters["report"])
    before = path.read_text() if path.is_file() else ""
    after = report_text(facts, lasting, reached)
    if before != after and not module.check_mode:
        write_report(path, after)
    module.exit_json(changed=before != after, diff={"before": before, "after": after}, **results)


def main() -> None:
    """Run as an Ansible module."""
    run(
        AnsibleModule(
            argument_spec={
                "profile": {"type": "dict", "default": {}},
                "paths": {"type": "list", "elements": "path", "default": []},
                "gpus": {"type": "dict", "required": True},
                "engine_build": {"type": "str", "required": True},
                "services": {"type": "list", "elements": "dict", "default": []},
                "timeout": {"type": "float", "default": 3},
                "report": {"type": "path", "required": True},
                "enforce": {"type": "bool", "default": True},
            },
            supports_check_mode=True,
        )
    )


if __name__ == "__main__":
    main()
