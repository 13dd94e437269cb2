#!/usr/bin/python
# Copyright: Citadel
# Apache License 2.0
"""Switch to a release that is installed, and remove those that are no longer kept."""

from __future__ import annotations

DOCUMENTATION = r"""
module: citadel_release
short_description: Switch to a release, and remove those that are no longer kept
description:
  - Verifies a release with commands of its own, lets C(current) point at it in one step,
    and removes old releases.
  - Never removes the release in use, nor one from which a process still runs.
author: Citadel
options:
  root:
    description: The base folder, with C(releases) and C(current).
    type: path
    required: true
  release:
    description: The id of the release to use; its folder must be complete.
    type: str
    required: true
  command:
    description: The link through which people call the release's command.
    type: path
    required: true
  verify:
    description: Commands that must succeed before a switch; not run when the release is in use already.
    type: list
    elements: list
    default: []
  keep:
    description: How many releases besides the one in use are kept; the newest are.
    type: int
    default: 2
attributes:
  check_mode:
    support: full
    description: Says what would be switched and removed. A release that is not there yet is no error.
  diff_mode:
    support: full
    description: Shows the links and the releases before and after.
"""

EXAMPLES = r"""
- name: Switch to the release
  citadel_release:
    root: /opt/citadel
    release: 0.1.0-1234567890ab
    command: /usr/local/bin/citadel
"""

RETURN = r"""
previous:
  description: The release that was in use before, empty when there was none.
  type: str
  returned: success
removed:
  description: The releases that were removed.
  type: list
  elements: str
  returned: success
"""

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

MARKER = "venv/.citadel-complete"


def link_target(link: Path) -> str:
    """Return where a symbolic link points; empty when there is none."""
    return str(link.readlink()) if link.is_symlink() else ""


def switch(link: Path, target: str) -> None:
    """Let a symbolic link point somewhere else, with no moment at which it is absent."""
    fresh = link.with_name(f".{link.name}.fresh")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def used_releases(releases: Path, proc: Path = Path("/proc")) -> set[str]:
    """Return the ids of the releases from which processes run.

    A release's scripts name their interpreter by its full path, so it stands in the command line.
    """
    prefix = os.fsencode(releases) + b"/"
    used = set()
    for cmdline in proc.glob("[0-9]*/cmdline"):
        try:
            program = cmdline.read_bytes().split(b"\0")[0]
        except OSError:  # The process ended meanwhile.
            continue
        if program.startswith(prefix):
            used.add(os.fsdecode(program[len(prefix) :].split(b"/")[0]))
    return used


def outdated(releases: Path, release: str, keep: int, used: set[str]) -> list[str]:
    """Name the releases to remove: half-built ones, and complete ones beyond the newest `keep`."""
    if not releases.is_dir():
        return []
    others = [folder for folder in releases.iterdir() if folder.name != release]
    complete = [folder for folder in others if (folder / MARKER).exists()]
    complete.sort(key=lambda folder: (folder / MARKER).stat().st_mtime, reverse=True)
    kept = {folder.name for folder in complete[:keep]} | used
    return sorted(folder.name for folder in others if folder.name not in kept)


def verify(module: AnsibleModule) -> None:
    """Run the release's own checks; fail with what the first that fails says."""
    for command in module.params["verify"]:
        status, out, err = module.run_command(command)
        if status:
            said = "\n".join(part.strip() for part in (out, err) if part.strip())
            reason = f"`{' '.join(command)}` failed:\n{said}"
            module.fail_json(msg=f"{module.params['release']} is not switched to: {reason}", rc=status)


def listing(links: dict[Path, str], names: list[str]) -> str:
    """Write links and releases as lines for a diff."""
    return "\n".join([*(f"{link} -> {target}" for link, target in links.items()), *names, ""])


def main() -> None:
    """Observe, plan, apply."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "command": {"type": "path", "required": True},
            "verify": {"type": "list", "elements": "list", "default": []},
            "keep": {"type": "int", "default": 2},
        },
        supports_check_mode=True,
    )
    root, release = Path(module.params["root"]), module.params["release"]
    releases, current, command = root / "releases", root / "current", Path(module.params["command"])
    complete = (releases / release / MARKER).exists()
    if not complete and not module.check_mode:
        module.fail_json(msg=f"{releases / release} is not a complete release")

    wanted = {current: f"releases/{release}", command: f"{current}/venv/bin/{command.name}"}
    before = {link: link_target(link) for link in wanted}
    remove = outdated(releases, release, module.params["keep"], used_releases(releases))
    if complete and before[current] != wanted[current]:
        verify(module)
    if not module.check_mode:
        for link, target in wanted.items():
            if before[link] != target:
                switch(link, target)
        for name in remove:
            shutil.rmtree(releases / name)

    module.exit_json(
        changed=before != wanted or bool(remove),
        previous=Path(before[current]).name,
        removed=remove,
        diff={"before": listing(before, remove), "after": listing(wanted, [])},
    )


if __name__ == "__main__":
    main()
