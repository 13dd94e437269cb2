#!/usr/bin/python
# Copyright: Citadel
# Apache License 2.0
"""Put a set of files in place together, validated as a whole."""

DOCUMENTATION = r"""
module: citadel_file_set
short_description: Put a set of files in place together, validated as a whole
description:
  - Files that only make sense together (layers of a configuration, units and their drop-ins) are written into
    a staging folder first, which O(validate) judges; then each one is renamed into its place.
  - A set whose files all stand there already is neither staged nor validated.
  - A symbolic link that stands where a file belongs is replaced, never written through.
author: Citadel
options:
  root:
    description: The folder that the files' paths are relative to. It is made when absent.
    type: path
    required: true
  files:
    description: The content of each file by its path below O(root).
    type: dict
    required: true
  exclusive:
    description:
      - Patterns, as of the shell, of the files below O(root) that belong to the set.
      - What matches and is not in O(files) is removed, with the folders that this empties.
    type: list
    elements: str
    default: []
  validate:
    description:
      - A command that judges the staged set. V(%s) stands for the staging folder.
      - An exit status other than 0 fails the task with what the command said, and nothing is changed.
    type: list
    elements: str
    default: []
  validate_mentions:
    description:
      - Whether a staged file that the command names in what it says is refused, too.
      - For judges that warn of what they ignore, and succeed, such as C(systemd-analyze verify).
    type: bool
    default: false
  validate_advice:
    description: What ends the message of a refusal, such as where the files' contents come from.
    type: str
    default: ""
  validate_when:
    description: A path; while it does not exist on the host, O(validate) is not run.
    type: path
  owner:
    description: The owner of the files, and of the folders made for them.
    type: str
    default: root
  group:
    description: The group of the files, and of the folders made for them.
    type: str
    default: root
  as_owner:
    description:
      - Whether everything is done as O(owner).
      - For folders that are not root's, for their owner could lead root elsewhere with a link.
    type: bool
    default: false
  mode:
    description: The mode of the files. Folders are made with 0755.
    type: str
    default: "0644"
attributes:
  check_mode:
    support: full
    description: Stages and validates, and changes nothing.
  diff_mode:
    support: full
    description: Shows the content of each file before and after.
"""

EXAMPLES = r"""
- name: Put the configuration in place
  citadel_file_set:
    root: /opt/citadel/config
    files:
      global/citadel.yml: "{{ lookup('ansible.builtin.template', 'global/citadel.yml.j2') }}"
    exclusive: ["*/*.yml"]
    validate: [/opt/citadel/current/venv/bin/citadel, config, validate, --directory, "%s"]
"""

RETURN = r"""
placed:
  description: The files that were written, or would be.
  type: list
  elements: str
  returned: success
removed:
  description: The files that were removed, or would be.
  type: list
  elements: str
  returned: success
checksums:
  description: The SHA-256 of each file of the set, by its path below O(root).
  type: dict
  returned: success
validated:
  description: Whether the set was judged; false when nothing was to be changed.
  type: bool
  returned: success
said:
  description: What the judge wrote to its standard output; empty when the set was not judged.
  type: str
  returned: success
"""

import contextlib
import grp
import hashlib
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule

FOLDER_MODE = 0o755


class Target(NamedTuple):
    """What each file of the set shall be: user and group id, and mode."""

    uid: int
    gid: int
    mode: int


class Plan(NamedTuple):
    """What is to be written and removed, as paths below the root in order."""

    place: list[str]
    remove: list[str]


def path_fault(relative: str) -> str | None:
    """Say why a path may not be part of a set, or None when it may."""
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or str(path) in {"", "."}:
        return f"{relative!r} must be a path below root"
    return None


def read_file(path: Path) -> bytes | None:
    """Return a regular file's content; None when there is none, or something else stands there."""
    try:
        return path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else None
    except FileNotFoundError:
        return None


def is_as_wanted(path: Path, content: bytes, target: Target) -> bool:
    """Whether the file stands there with this content, owner and mode."""
    if read_file(path) != content:
        return False
    found = path.lstat()
    return (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == target


def make_plan(root: Path, files: dict[str, bytes], exclusive: list[str], target: Target) -> Plan:
    """Compare what stands below the root with the set."""
    place = [
        name for name, content in sorted(files.items()) if not is_as_wanted(root / name, content, target)
    ]
    present = {str(path.relative_to(root)) for pattern in exclusive for path in root.glob(pattern)}
    return Plan(place, sorted(present - set(files)))


def stage(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files of the set below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def make_parents(root: Path, name: str, target: Target) -> None:
    """Make the folders that a file needs, the root among them; leave those that exist as they are."""
    missing = [folder for folder in (root / name).parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=FOLDER_MODE)
        folder.chmod(FOLDER_MODE)
        os.chown(folder, target.uid, target.gid)


def place(path: Path, content: bytes, target: Target) -> None:
    """Write a file beside its place and rename it there, in one step for whoever reads it."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchown(descriptor, target.uid, target.gid)
            os.fchmod(descriptor, target.mode)
            file.write(content)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def remove(root: Path, name: str) -> None:
    """Remove a file, and the folders below the root that are empty without it."""
    path = root / name
    path.unlink()
    for folder in path.parents:
        if folder == root or any(folder.iterdir()):
            return
        folder.rmdir()


def text(content: bytes | None) -> str:
    """Return content as a diff shows it."""
    return (content or b"").decode("utf-8", "replace")


def diff(root: Path, files: dict[str, bytes], plan: Plan) -> list[dict[str, str]]:
    """Show each file before and after; a change of owner or mode alone shows no lines."""
    return [
        {
            "before_header": str(root / name),
            "after_header": str(root / name),
            "before": text(read_file(root / name)),
            "after": text(files.get(name)),
        }
        for name in plan.place + plan.remove
    ]


def resolve_target(module: AnsibleModule) -> Target:
    """Turn names and the mode's text into numbers; fail with the name that the host does not know.

    On a fresh host in check mode the account may not exist yet, and nothing of the set does.
    """
    owner, group, mode = (module.params[key] for key in ("owner", "group", "mode"))
    try:
        return Target(pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid, int(mode, 8))
    except KeyError as error:
        if module.check_mode:
            return Target(os.getuid(), os.getgid(), int(mode, 8))
        module.fail_json(msg=f"owner is {owner}, group is {group}: {error.args[0]}")
    except ValueError:
        module.fail_json(msg=f"mode is {mode!r}: it must be octal, such as '0644'")


@contextlib.contextmanager
def acting_as(target: Target) -> Iterator[None]:
    """Have the file system judge by the files' owner, not by root, for a while."""
    before = os.geteuid(), os.getegid()
    os.setegid(target.gid)
    os.seteuid(target.uid)
    try:
        yield
    finally:
        os.seteuid(before[0])
        os.setegid(before[1])


def validate(module: AnsibleModule, files: dict[str, bytes]) -> str | None:
    """Let the command judge the staged set; return what it said, if it did, and fail when it refuses."""
    needed = module.params["validate_when"]
    if not module.params["validate"] or (needed and not Path(needed).exists()):
        return None
    with tempfile.TemporaryDirectory(prefix="citadel-") as folder:
        stage(Path(folder), files)
        command = [part.replace("%s", folder) for part in module.params["validate"]]
        status, out, err = module.run_command(command)
    said = "\n".join(part.strip() for part in (out, err) if part.strip())
    if status or (module.params["validate_mentions"] and f"{folder}/" in said):
        said = said.replace(f"{folder}/", "")
        judge = " ".join(module.params["validate"]).replace("%s", "").strip()
        advice = module.params["validate_advice"]
        lines = [f"The files are refused by `{judge}`:", said, *([advice] if advice else [])]
        module.fail_json(msg="\n".join(lines), rc=status)
    return str(out)


def apply(root: Path, files: dict[str, bytes], plan: Plan, target: Target) -> None:
    """Carry out the plan."""
    for name in plan.place:
        make_parents(root, name, target)
        place(root / name, files[name], target)
    for name in plan.remove:
        remove(root, name)


def main() -> None:
    """Stage, validate, place."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "exclusive": {"type": "list", "elements": "str", "default": []},
            "validate": {"type": "list", "elements": "str", "default": []},
            "validate_mentions": {"type": "bool", "default": False},
            "validate_advice": {"type": "str", "default": ""},
            "validate_when": {"type": "path"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "as_owner": {"type": "bool", "default": False},
            "mode": {"type": "str", "default": "0644"},
        },
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    files = {name: str(content).encode() for name, content in module.params["files"].items()}
    faults = [fault for fault in map(path_fault, files) if fault]
    if faults:
        module.fail_json(msg="; ".join(faults))

    target = resolve_target(module)
    writer = target if module.params["as_owner"] else Target(os.geteuid(), os.getegid(), 0)
    try:
        with acting_as(writer):
            plan = make_plan(root, files, module.params["exclusive"], target)
            changes = diff(root, files, plan)
        needed = bool(plan.place or plan.remove)
        said = validate(module, files) if needed else None
        if needed and not module.check_mode:
            with acting_as(writer):
                apply(root, files, plan, target)
    except OSError as error:
        module.fail_json(msg=f"The files cannot be put in place: {error}")
    module.exit_json(
        changed=needed,
        placed=plan.place,
        removed=plan.remove,
        checksums={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        validated=said is not None,
        said=said or "",
        diff=changes,
    )


if __name__ == "__main__":
    main()
