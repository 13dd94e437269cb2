#!/usr/bin/python
"""Make many folders, each with its owner, group and mode, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: citadel_directories
short_description: Make many folders, each with its owner, group and mode
description:
  - Makes a list of folders in the order given, so that a parent may stand before its children.
  - One call for the whole list, where M(ansible.builtin.file) needs one for each folder.
  - A folder that is there keeps what is in it; only its own owner, group and mode are set.
  - A symbolic link in the last part of a path is refused, for the folder that it leads to may be anyone's.
author: Citadel
options:
  folders:
    description: The folders.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: The absolute path.
        type: path
        required: true
      owner:
        description: The owning user's name.
        type: str
        required: true
      group:
        description: The owning group's name.
        type: str
        required: true
      mode:
        description: The permissions, as an octal string such as C("0755").
        type: str
        required: true
  require_mounts:
    description: Folders that must stand on a file system of their own, not on the root's.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    description: Reports what would change and changes nothing.
    support: full
  diff_mode:
    description: Shows each folder's owner, group and mode before and after.
    support: full
"""

EXAMPLES = r"""
- name: Make the project's folders
  citadel_directories:
    folders:
      - {path: /opt/citadel, owner: root, group: root, mode: "0755"}
      - {path: /opt/citadel/secrets, owner: citadel, group: citadel, mode: "0700"}
    require_mounts: [/mnt/nvme0n1/models]
"""

RETURN = r"""
created:
  description: The folders that were made.
  type: list
  elements: str
  returned: always
corrected:
  description: The folders whose owner, group or mode was set.
  type: list
  elements: str
  returned: always
"""

import grp
import os
import pwd
import stat
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule


class Folder(NamedTuple):
    """A folder as it is wanted or found; owner and group are names, or the number where no name is known."""

    path: str
    owner: str
    group: str
    mode: str

    def describe(self) -> str:
        """Return one line for a diff, as ls would order it."""
        return f"{self.mode} {self.owner}:{self.group} {self.path}"


class Refused(Exception):
    """What stands at a path is no folder, or not where it must be."""


def wanted_folder(entry: dict[str, str]) -> Folder:
    """Return the entry as a folder with a four-digit mode and no trailing slash.

    Raises:
        Refused: the path is relative or the mode is no octal number.
    """
    path = entry["path"]
    if not path.startswith("/"):
        raise Refused(f"{path}: the path must be absolute")
    try:
        mode = int(entry["mode"], 8)
    except ValueError as error:
        raise Refused(f'{path}: the mode is {entry["mode"]!r}; wanted is an octal string such as "0755"') from error
    return Folder(os.path.normpath(path), entry["owner"], entry["group"], f"{mode:04o}")


def observe(path: str) -> Folder | None:
    """Return the folder that stands at the path, or None where nothing stands.

    Raises:
        Refused: something else stands there.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise Refused(f"{path}: a parent of it is no folder") from error
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "a file"
        raise Refused(f"{path}: {kind} stands there, wanted is a folder")
    return Folder(path, _user_name(found.st_uid), _group_name(found.st_gid), f"{stat.S_IMODE(found.st_mode):04o}")


def plan(wanted: list[Folder], found: dict[str, Folder | None]) -> list[tuple[Folder | None, Folder]]:
    """Return what has to change, as pairs of what is (None: nothing) and what shall be, in the order given."""
    return [(found[folder.path], folder) for folder in wanted if found[folder.path] != folder]


def apply(found: Folder | None, folder: Folder) -> None:
    """Make the folder or correct it, through a descriptor so that nobody can swap it meanwhile.

    It is made closed to others and opened last.
    """
    if found is None:
        os.makedirs(folder.path, mode=0o700, exist_ok=True)
    descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, pwd.getpwnam(folder.owner).pw_uid, grp.getgrnam(folder.group).gr_gid)
        os.fchmod(descriptor, int(folder.mode, 8))
    finally:
        os.close(descriptor)


def unknown_names(wanted: list[Folder]) -> list[str]:
    """Return a sentence for each user and group that the host does not have."""
    users = [name for name in sorted({folder.owner for folder in wanted}) if not _exists(pwd.getpwnam, name)]
    groups = [name for name in sorted({folder.group for folder in wanted}) if not _exists(grp.getgrnam, name)]
    return [f"there is no user {name}" for name in users] + [f"there is no group {name}" for name in groups]


def on_root_file_system(path: str) -> bool:
    """Tell whether the nearest part of the path that exists lies on the root's file system."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.stat(path).st_dev == os.stat("/").st_dev


def _exists(lookup: object, name: str) -> bool:
    try:
        lookup(name)  # type: ignore[operator]
    except KeyError:
        return False
    return True


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def run(module: AnsibleModule) -> None:
    """Observe, plan, apply."""
    try:
        wanted = [wanted_folder(entry) for entry in module.params["folders"]]
        found = {folder.path: observe(folder.path) for folder in wanted}
    except Refused as error:
        module.fail_json(msg=str(error))
    unmounted = [path for path in module.params["require_mounts"] if on_root_file_system(path)]
    if unmounted:
        module.fail_json(
            msg=f"Not mounted: {', '.join(unmounted)} would stand on the root's file system. Mount the storage first."
        )
    changes = plan(wanted, found)
    if not module.check_mode:
        unknown = unknown_names(wanted)
        if unknown:
            module.fail_json(msg=f"Folders cannot be given away: {'; '.join(unknown)}.")
        for before, after in changes:
            apply(before, after)
    module.exit_json(
        changed=bool(changes),
        created=[after.path for before, after in changes if before is None],
        corrected=[after.path for before, after in changes if before is not None],
        diff={
            "before": "".join(f"{before.describe()}\n" for before, _ in changes if before is not None),
            "after": "".join(f"{after.describe()}\n" for _, after in changes),
        },
    )


def main() -> None:
    """Run as an Ansible module."""
    folder = {
        "path": {"type": "path", "required": True},
        "owner": {"type": "str", "required": True},
        "group": {"type": "str", "required": True},
        "mode": {"type": "str", "required": True},
    }
    run(
        AnsibleModule(
            argument_spec={
                "folders": {"type": "list", "elements": "dict", "required": True, "options": folder},
                "require_mounts": {"type": "list", "elements": "path", "default": []},
            },
            supports_check_mode=True,
        )
    )


if __name__ == "__main__":
    main()
