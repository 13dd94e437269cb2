#!/usr/bin/python
# Copyright: Citadel
# Apache License 2.0
"""Make the one account of a Valkey: its password in a file for clients, its hash in the server's ACL file."""

DOCUMENTATION = r"""
module: citadel_valkey_account
short_description: Make the one account of a Valkey
description:
  - The password is made on the host where none is given, and kept in a file; it is not returned, nor shown.
  - The server's ACL file gets its SHA-256 alone, and lets in nobody else.
author: Citadel
options:
  name:
    description: The account's name.
    type: str
    required: true
  rules:
    description: What it may do, in the words of an ACL file.
    type: str
    required: true
  password:
    description: Its password. When empty, one is made where there is none yet.
    type: str
    default: ""
  password_file:
    description: The file for those who log in. Its folder must be there.
    type: path
    required: true
  password_group:
    description: Who may read it beside root.
    type: str
    required: true
  acl_file:
    description: The server's ACL file.
    type: path
    required: true
  acl_group:
    description: Who may read it beside root.
    type: str
    required: true
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Make the gateways' account
  citadel_valkey_account:
    name: citadel-gateway
    rules: on ~citadel:limits:* -@all +get +incrby +expire
    password_file: /etc/citadel/credentials/limits-password
    password_group: citadel-gateway
    acl_file: /etc/valkey/citadel.acl
    acl_group: valkey
"""

RETURN = r"""
files:
  description: The files that were written, or whose owner or mode was set.
  type: list
  elements: str
  returned: success
"""

import grp
import hashlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

SECRET_BYTES = 32
MODE = 0o640


def plan(password: str, kept: str | None, name: str, rules: str) -> tuple[str, str]:
    """Say what the two files shall hold.

    Args:
        password: The one that is wanted; empty for any.
        kept: What the password's file holds, if it is there.
        name: The account's.
        rules: The account's.

    Returns:
        The texts of the password's file and of the ACL file.
    """
    # A password from a vault often ends in a new line; whoever reads the file takes it for none of its own.
    chosen = password.strip() or (kept or "").strip() or secrets.token_urlsafe(SECRET_BYTES)
    digest = hashlib.sha256(chosen.encode()).hexdigest()
    return f"{chosen}\n", f"user default off resetpass resetkeys -@all\nuser {name} {rules} #{digest}\n"


def write(path: Path, text: str, group: int) -> None:
    """Put a file in place, whole or not at all."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chown(draft, 0, group)
        os.chmod(draft, MODE)  # noqa: PTH101 - as the lines around it
        os.replace(draft, path)  # noqa: PTH105 - as the lines around it
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def differs(path: Path, text: str, group: int) -> bool:
    """Tell whether a file is not as it shall be."""
    try:
        found = path.lstat()
        there = path.read_text()
    except FileNotFoundError:
        return True
    known = (stat.S_ISREG(found.st_mode), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    return known != (True, MODE, 0, group) or there != text


def main() -> None:
    """Run as an Ansible module."""
    spec = {
        name: {"type": "str", "required": True} for name in ("name", "rules", "password_group", "acl_group")
    }
    module = AnsibleModule(
        argument_spec={
            **spec,
            "password": {"type": "str", "default": "", "no_log": True},
            "password_file": {"type": "path", "required": True, "no_log": False},
            "acl_file": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    asked = module.params
    password_file, acl_file = Path(asked["password_file"]), Path(asked["acl_file"])
    try:
        kept = password_file.read_text() if password_file.exists() else None
        password, acl = plan(asked["password"], kept, asked["name"], asked["rules"])
        files = []
        for path, text, group in (
            (password_file, password, asked["password_group"]),
            (acl_file, acl, asked["acl_group"]),
        ):
            number = grp.getgrnam(group).gr_gid
            if differs(path, text, number):
                files.append(str(path))
                if not module.check_mode:
                    write(path, text, number)
    except (OSError, KeyError) as error:
        module.fail_json(msg=f"The account cannot be made: {error}")
    module.exit_json(changed=bool(files), files=files)


if __name__ == "__main__":
    main()
