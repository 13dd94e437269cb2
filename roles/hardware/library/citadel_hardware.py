#!/usr/bin/python
"""Ansible's door to the machine: look, compare, and write the host's report."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: citadel_hardware
short_description: Compare a host with the profile that it should meet
description:
  - Gathers processors, memory, storage, PCIe, system, clock, swap and names, and asks other services in their
    own protocols. Nothing has to be installed on the host.
  - Compares them with O(profile), adds the findings on the GPUs that it is given, and reports every
    requirement at once.
  - Writes facts and findings to the host as JSON and as one HTML page. Nothing that varies from run to run
    (free space, latencies, measured speeds) stands there, so a second run changes nothing.
  - Run in the role C(hardware), its action plugin refuses a profile that cannot be used before the host is
    looked at, and keeps a copy of the reports on the controller, with what varies.
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
  gpu_findings:
    description: The findings that M(citadel_gpu_check) returned.
    type: list
    elements: dict
    default: []
  services:
    description: The services that must answer; C(citadel_external_services).
    type: list
    elements: dict
    default: []
  timeout:
    description: How long asking one of them may take, in seconds. All are asked at once.
    type: float
    default: 3
  read_seconds:
    description: For how many seconds at most each storage path is read to measure it; 0 for not at all.
    type: float
    default: 0
  read_gib:
    description: How much of each path is read at most, in GiB.
    type: float
    default: 4
  report:
    description: The JSON file on the host. The HTML page stands beside it, with C(.html) for C(.json).
    type: path
    required: true
  enforce:
    description: Whether a requirement that is not met fails the task. Then nothing is written to the host.
    type: bool
    default: true
  host:
    description: What the host is called in the reports.
    type: str
    default: this host
  folder:
    description: >-
      The folder on the controller for the copies, as C(<host>.json) and C(<host>.html); empty for none.
      Only the action plugin of the role C(hardware) writes them. If it cannot, that is a warning.
    type: str
    default: ""
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
    gpu_findings: "{{ __example_gpu_check.findings }}"
    report: /etc/citadel/hardware.json
"""

RETURN = r"""
facts:
  description: What the host is.
  type: dict
  returned: always, but by the role C(hardware) only when the task succeeds
now:
  description: What was so at that moment (free space, errors, measured speeds, the GPUs' use).
  type: dict
  returned: always, but by the role C(hardware) only when the task succeeds
findings:
  description: >-
    Each requirement with what was found, what was wanted, whether it is met, the remedy, which part of the
    machine it speaks of, and what was so at that moment.
  type: list
  elements: dict
  returned: always, but by the role C(hardware) only when the task succeeds
table:
  description: What the host is, and the findings, as aligned lines.
  type: list
  elements: str
  returned: always, but by the role C(hardware) only when the task succeeds
missed:
  description: The lines of the findings that are not met.
  type: list
  elements: str
  returned: always, but by the role C(hardware) only when the task succeeds
"""

import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.citadel_machine import (  # type: ignore[import-not-found]  # Ansible puts it there
    compare,
    observe,
    page,
    report,
    services,
)
from ansible.module_utils.citadel_machine.terms import Finding  # type: ignore[import-not-found]

_GPU = re.compile(r"GPU (\d+) ")


def gpu_finding(given: dict[str, Any]) -> Finding:
    """Return a finding of citadel_gpu_check with the part of the machine that it speaks of."""
    requirement = given["requirement"]
    one = _GPU.match(requirement)
    part = f"gpu:{one[1]}" if one else "driver" if requirement.startswith("driver") else "gpus"
    fields = {key: given[key] for key in ("requirement", "found", "wanted", "met", "remedy")}
    if requirement.endswith("other processes"):
        # Who holds how much varies, and the report must not.
        return Finding(
            **fields | {"found": "none" if given["met"] else "some"}, part=part, now=given["found"]
        )
    return Finding(**fields, part=part)


def write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o644)
    draft.replace(path)


def look(parameters: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[Finding]]:
    """Return facts, what is so at this moment, and findings."""
    profile, asked = parameters["profile"], parameters["services"]
    paths = {*parameters["paths"], *(storage["path"] for storage in profile.get("storage") or [])}
    names = [service["host"] for service in asked] + list((profile.get("network") or {}).get("names") or [])
    facts, now = observe.observe(sorted(paths), names, parameters["gpus"])
    if parameters["read_seconds"]:
        observe.measure(now, parameters["read_seconds"], parameters["read_gib"])
    answers = services.ask_all(asked, parameters["timeout"])
    facts["services"] = [services.facts(*pair) for pair in zip(asked, answers, strict=True)]
    findings = [
        *compare.compare(profile, facts, now),
        *(gpu_finding(finding) for finding in parameters["gpu_findings"]),
        *(services.finding(*pair) for pair in zip(asked, answers, strict=True)),
    ]
    return facts, now, findings


def run(module: AnsibleModule) -> None:
    """Look, compare, report."""
    parameters = module.params
    facts, now, findings = look(parameters)
    missed = [finding for finding in findings if not finding.met]
    results: dict[str, Any] = {
        "facts": facts,
        "now": now,
        "findings": [finding._asdict() for finding in findings],
        "table": [*report.summary(facts, now), *report.table(findings)],
        "missed": report.table(missed),
    }
    if missed and parameters["enforce"]:
        heading = f"{len(missed)} of {len(findings)} requirements are not met (hardware_mode is enforce):"
        module.fail_json(msg="\n".join([heading, *results["missed"]]), **results)
    path = Path(parameters["report"])
    texts = {
        path: report.host_json(facts, findings),
        path.with_name(f"{path.name.removesuffix('.json')}.html"): page.render(
            parameters["host"], facts, findings
        ),
    }
    before = {
        file: file.read_text(encoding="utf-8", errors="replace") if file.is_file() else "" for file in texts
    }
    for file, text in texts.items():
        if text != before[file] and not module.check_mode:
            try:
                write(file, text)
            except OSError as error:
                said = f"{file} cannot be written ({error.strerror or error}): correct hardware_report"
                module.fail_json(msg=said)
    # The page says nothing that the JSON does not: it would only make the difference longer.
    diff = {
        "before": before[path],
        "after": texts[path],
        "before_header": str(path),
        "after_header": str(path),
    }
    module.exit_json(changed=texts != before, diff=diff, **results)


def main() -> None:
    """Run as an Ansible module."""
    run(
        AnsibleModule(
            argument_spec={
                "profile": {"type": "dict", "default": {}},
                "paths": {"type": "list", "elements": "path", "default": []},
                "gpus": {"type": "dict", "required": True},
                "gpu_findings": {"type": "list", "elements": "dict", "default": []},
                "services": {"type": "list", "elements": "dict", "default": []},
                "timeout": {"type": "float", "default": 3},
                "read_seconds": {"type": "float", "default": 0},
                "read_gib": {"type": "float", "default": 4},
                "report": {"type": "path", "required": True},
                "enforce": {"type": "bool", "default": True},
                "host": {"type": "str", "default": "this host"},
                "folder": {"type": "str", "default": ""},
            },
            supports_check_mode=True,
        )
    )


if __name__ == "__main__":
    main()
