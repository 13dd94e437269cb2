#!/usr/bin/python
"""Make many folders, each with its owner, group and mode, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: citadel_directories
short_description: Make many folders, each with its owner, group and mode
description:
  - Makes a list of folders, parents before their children.
  - One call for the whole list, where M(ansible.builtin.file) needs one for each folder.
  - A folder that is there keeps what is in it; only its own owner, group and mode are set.
  - A symbolic link at a folder's place is refused, and on the way to it unless the link is root's,
    for the folder that it leads to may be anyone's.
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
      children:
        description: Paths below it that get its owner, group and mode, with all folders on the way to them.
        type: list
        elements: str
        default: []
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
      - {path: /opt/citadel/src, owner: citadel, group: citadel, mode: "0755", children: [api/routes, cli]}
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
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from collections.abc import Callable

_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class Folder(NamedTuple):
    """A folder as it is wanted or found; owner and group are names, or the number where no name is known."""

    path: str
    owner: str
    group: str
    mode: str

    def describe(self) -> str:
        """Return one line for a diff, as ls would order it."""
        return f"{self.mode} {self.owner}:{self.group} {self.path}"


class RefusedError(Exception):
    """What stands at a path is no folder, or not where it must be."""


def wanted_folders(entries: list[dict[str, Any]]) -> list[Folder]:
    """Return the entries' folders and those below them, parents first.

    Raises:
        RefusedError: a path is not absolute, a child leads out of its parent, a mode is no octal number,
            or one folder is wanted in two ways.
    """
    folders: dict[str, Folder] = {}
    for entry in entries:
        for path in _paths(entry["path"], entry.get("children") or []):
            folder = Folder(path, entry["owner"], entry["group"], _mode(path, entry["mode"]))
            if folders.setdefault(path, folder) != folder:
                raise RefusedError(
                    f"{path} is wanted as {folders[path].describe()} and as {folder.describe()}"
                )
    return sorted(folders.values())


def _paths(parent: str, children: list[str]) -> list[str]:
    """Return the parent's normal path and, for each child, every folder from there down to it."""
    if not parent.startswith("/"):
        raise RefusedError(f"{parent}: the path must be absolute")
    top = PurePosixPath(os.path.normpath(parent))
    paths = [str(top)]
    for child in children:
        parts = PurePosixPath(child).parts
        if not parts or ".." in parts or child.startswith("/"):
            raise RefusedError(f"{child!r} below {top}: wanted is a relative path without '..'")
        paths += [str(top.joinpath(*parts[:depth])) for depth in range(1, len(parts) + 1)]
    return paths


def _mode(path: str, text: str) -> str:
    """Return the mode as four octal digits."""
    try:
        return f"{int(text, 8):04o}"
    except ValueError as error:
        raise RefusedError(
            f'{path}: the mode is {text!r}; wanted is an octal string such as "0755"'
        ) from error


def observe(path: str) -> Folder | None:
    """Return the folder that stands at the path, or None where nothing stands.

    Raises:
        RefusedError: something else stands there.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise RefusedError(f"{path}: a parent of it is no folder") from error
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "a file"
        raise RefusedError(f"{path}: {kind} stands there, wanted is a folder")
    return Folder(
        path, _user_name(found.st_uid), _group_name(found.st_gid), f"{stat.S_IMODE(found.st_mode):04o}"
    )


def plan(wanted: list[Folder], found: dict[str, Folder | None]) -> list[tuple[Folder | None, Folder]]:
    """Return what has to change, as pairs of what is (None: nothing) and what shall be."""
    return [(found[folder.path], folder) for folder in wanted if found[folder.path] != folder]


def apply(folder: Folder) -> None:
    """Make the folder where it is missing, and set its owner, group and mode.

    A new one is closed to others until it belongs to its owner.

    Raises:
        RefusedError: a part of the path is a link that is not root's.
    """
    descriptor = _open_or_make(folder.path)
    try:
        os.fchown(descriptor, pwd.getpwnam(folder.owner).pw_uid, grp.getgrnam(folder.group).gr_gid)
        os.fchmod(descriptor, int(folder.mode, 8))
    finally:
        os.close(descriptor)


def _open_or_make(path: str) -> int:
    """Walk down the path, making what is missing, and return the last folder's descriptor.

    Some parents belong to a user who must not become root: each part is opened relative to the one
    before, and only root's own links are followed, so that nobody can put a link in the way and be
    given another folder.
    """
    parts = path.strip("/").split("/")
    descriptor = os.open("/", _FOLDER)
    for depth, part in enumerate(parts, start=1):
        last = depth == len(parts)
        try:
            below = _open_or_make_in(descriptor, part, mode=0o700 if last else 0o755, follow=not last)
        except OSError as error:
            raise RefusedError(
                f"{path}: {part!r} in it cannot be opened as a folder: {error.strerror}"
            ) from error
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _open_or_make_in(parent: int, name: str, *, mode: int, follow: bool) -> int:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        os.mkdir(name, mode, dir_fd=parent)
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    if follow and stat.S_ISLNK(found.st_mode) and found.st_uid == 0:
        return os.open(name, _FOLDER, dir_fd=parent)
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)


def unknown_names(wanted: list[Folder]) -> list[str]:
    """Return a sentence for each user and group that the host does not have."""
    users = [name for name in sorted({folder.owner for folder in wanted}) if not _exists(pwd.getpwnam, name)]
    groups = [name for name in sorted({folder.group for folder in wanted}) if not _exists(grp.getgrnam, name)]
    return [f"there is no user {name}" for name in users] + [f"there is no group {name}" for name in groups]


def on_root_file_system(path: str) -> bool:
    """Tell whether the nearest part of the path that exists lies on the root's file system."""
    nearest = next(part for part in (Path(path), *Path(path).parents) if part.exists())
    return nearest.stat().st_dev == Path("/").stat().st_dev


def _exists(lookup: Callable[[str], object], name: str) -> bool:
    try:
        lookup(name)
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
        wanted = wanted_folders(module.params["folders"])
        found = {folder.path: observe(folder.path) for folder in wanted}
    except RefusedError as error:
        module.fail_json(msg=str(error))
    unmounted = [path for path in module.params["require_mounts"] if on_root_file_system(path)]
    if unmounted:
        module.fail_json(
            msg=f"Not mounted: {', '.join(unmounted)} would stand on the root's file system. "
            "Mount the storage first."
        )
    changes = plan(wanted, found)
    if not module.check_mode:
        unknown = unknown_names(wanted)
        if unknown:
            module.fail_json(msg=f"Folders cannot be given away: {'; '.join(unknown)}.")
        try:
            for _, after in changes:
                apply(after)
        except RefusedError as error:
            module.fail_json(msg=str(error))
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
        "children": {"type": "list", "elements": "str", "default": []},
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
