#!/usr/bin/python
# Copyright: Citadel
# Apache License 2.0
"""Build the project's wheel, and name the release that it makes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: citadel_wheel
short_description: Build the project's wheel, and name the release that it makes
description:
  - Builds the wheel of a hatchling project without build isolation, in a temporary folder, and keeps it in a
    cache under its checksum.
  - The build is reproducible, so the same source gives the same wheel and the same release.
author: Citadel
options:
  project:
    description: The folder with the project's C(pyproject.toml).
    type: path
    required: true
  python:
    description: The interpreter whose environment has hatchling.
    type: path
    required: true
  cache:
    description: The folder in which wheels are kept.
    type: path
    required: true
  identity:
    description: What else makes a release another one (the lock's checksum, the interpreter).
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: none
"""

EXAMPLES = r"""
- name: Build the application's wheel
  citadel_wheel:
    project: "{{ playbook_dir }}/.."
    python: "{{ ansible_playbook_python }}"
    cache: /tmp/wheels
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: The wheel's path in the cache.
  type: str
  returned: success
version:
  description: The project's version.
  type: str
  returned: success
release:
  description: The release's id, V(<version>-<12 hexadecimal digits over the wheel and O(identity)>).
  type: str
  returned: success
"""

import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DIGITS = 12
KEPT = 10


def release_id(version: str, wheel_checksum: str, identity: list[str]) -> str:
    """Name a release after all that makes it what it is."""
    whole = "\n".join([wheel_checksum, *identity])
    return f"{version}-{hashlib.sha256(whole.encode()).hexdigest()[:DIGITS]}"


def keep(wheel: Path, cache: Path) -> tuple[Path, str]:
    """Move a wheel to its place in the cache, which keeps the newest; return the place and the checksum."""
    checksum = hashlib.sha256(wheel.read_bytes()).hexdigest()
    place = cache / checksum[:DIGITS] / wheel.name
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        wheel.rename(place)
    place.parent.touch()
    # Other runs may be about to copy theirs to a host; what is that old, none is.
    with contextlib.suppress(FileNotFoundError):
        for old in sorted(cache.glob(f"{'?' * DIGITS}/"), key=lambda folder: folder.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return place, checksum


def main() -> None:
    """Build in a temporary folder of the cache's file system, and keep the result."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "path", "required": True},
            "python": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "identity": {"type": "list", "elements": "str", "default": []},
        }
    )
    cache = Path(module.params["cache"])
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        build = ["-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
        command = [module.params["python"], *build]
        status, out, err = module.run_command(command, cwd=module.params["project"])
        wheels = list(Path(folder).glob("*.whl"))
        if status or len(wheels) != 1:
            module.fail_json(msg=f"The application's wheel cannot be built:\n{out}{err}", rc=status)
        place, checksum = keep(wheels[0], cache)
    version = place.name.split("-")[1]
    release = release_id(version, checksum, module.params["identity"])
    module.exit_json(changed=False, path=str(place), version=version, release=release)


if __name__ == "__main__":
    main()
