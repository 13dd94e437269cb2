#!/usr/bin/python
"""Set kernel settings now and for every boot, and say which ones the host does not let through."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: citadel_sysctl
short_description: Set kernel settings now and for every boot
description:
  - Writes one file for C(sysctl.d) and sets the running kernel's values to match it.
  - In a container most settings belong to the host around it. What cannot be set is returned with the reason,
    and does not fail, for the file is right for a machine of its own.
author: Citadel
options:
  path:
    description: The file below C(/etc/sysctl.d).
    type: path
    required: true
  settings:
    description: Values by the setting's name.
    type: dict
    required: true
attributes:
  check_mode:
    description: Reports what would change and changes nothing.
    support: full
  diff_mode:
    description: Shows the file and the running values before and after.
    support: full
"""

EXAMPLES = r"""
- name: Keep weights in memory
  citadel_sysctl:
    path: /etc/sysctl.d/60-citadel.conf
    settings:
      vm.swappiness: 10
"""

RETURN = r"""
not_applied:
  description: The settings that the running kernel keeps, each with the value it keeps and why.
  type: list
  elements: str
  returned: always
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

_PROC = Path("/proc/sys")
_HEADER = "# Written by Ansible: the role citadel_user, variable citadel_user_sysctl.\n"


def render(settings: dict[str, str]) -> str:
    """Return the file's text."""
    return _HEADER + "".join(f"{name} = {value}\n" for name, value in sorted(settings.items()))


def value_file(name: str, proc: Path = _PROC) -> Path:
    """Return where the kernel shows a setting; dots in its name are folders."""
    return proc / name.replace(".", "/")


def observe(settings: dict[str, str], proc: Path = _PROC) -> dict[str, str | None]:
    """Return the running values with single blanks; None for a setting that this kernel does not show."""
    values: dict[str, str | None] = {}
    for name in settings:
        try:
            values[name] = " ".join(value_file(name, proc).read_text().split())
        except OSError:
            values[name] = None
    return values


def obstacle(name: str, proc: Path = _PROC) -> str | None:
    """Return why a setting cannot be set here, or None when it can."""
    file = value_file(name, proc)
    if not file.exists():
        return "this kernel does not have it"
    if not os.access(file, os.W_OK):
        return "it is read-only here; a container's host decides it"
    return None


def set_value(name: str, value: str, proc: Path = _PROC) -> str | None:
    """Set the running value; return the kernel's reason when it refuses."""
    try:
        value_file(name, proc).write_text(f"{value}\n")
    except OSError as error:
        return error.strerror or str(error)
    return None


def differing(settings: dict[str, str], running: dict[str, str | None]) -> dict[str, str]:
    """Return the wanted values that the kernel does not have."""
    return {name: value for name, value in settings.items() if running[name] != " ".join(value.split())}


def write_file(path: Path, text: str) -> None:
    """Replace the file in one step."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text)
    draft.chmod(0o644)
    draft.replace(path)


def _describe(name: str, running: str | None, reason: str) -> str:
    return f"{name} stays {running if running is not None else 'unset'}: {reason}"


def _lines(values: dict[str, str | None]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in sorted(values.items()))


def run(module: AnsibleModule) -> None:
    """Observe, plan, apply."""
    settings = {name: str(value) for name, value in module.params["settings"].items()}
    path = Path(module.params["path"])
    before = path.read_text() if path.is_file() else ""
    after = render(settings)
    running = observe(settings)
    reasons = {name: reason for name in differing(settings, running) if (reason := obstacle(name))}
    to_set = {name: value for name, value in differing(settings, running).items() if name not in reasons}
    if not module.check_mode:
        if before != after:
            write_file(path, after)
        reasons |= {name: reason for name, value in to_set.items() if (reason := set_value(name, value))}
    done = {name: value for name, value in to_set.items() if name not in reasons}
    module.exit_json(
        changed=before != after or bool(done),
        not_applied=[_describe(name, running[name], reason) for name, reason in sorted(reasons.items())],
        diff=[
            {"before": before, "after": after, "before_header": str(path), "after_header": str(path)},
            {
                "before": _lines({name: running[name] for name in done}),
                "after": _lines({name: settings[name] for name in done}),
                "before_header": "running kernel",
                "after_header": "running kernel",
            },
        ],
    )


def main() -> None:
    """Run as an Ansible module."""
    run(
        AnsibleModule(
            argument_spec={
                "path": {"type": "path", "required": True},
                "settings": {"type": "dict", "required": True},
            },
            supports_check_mode=True,
        )
    )


if __name__ == "__main__":
    main()
