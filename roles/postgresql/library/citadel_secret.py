#!/usr/bin/python
# Copyright: Citadel
# Apache License 2.0
"""Make a file with a random secret, where there is none."""

DOCUMENTATION = r"""
module: citadel_secret
short_description: Make a file with a random secret, where there is none
description:
  - The secret is made on the host and written to the file whole; it is not returned, nor shown in a diff.
  - A file that stands there keeps its secret; its owner, group and mode are set right.
author: Citadel
options:
  path:
    description: The file. Its folder must be there.
    type: path
    required: true
    aliases: [dest]
  length:
    description: Bytes of randomness; the file holds them as text of letters, digits, C(-) and C(_).
    type: int
    default: 32
extends_documentation_fragment: ansible.builtin.files
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Make the database's password
  citadel_secret:
    path: /etc/citadel/credentials/database-password
    owner: root
    group: citadel-gateway
    mode: "0640"
"""

RETURN = r"""
made:
  description: Whether a secret was made, or would be.
  type: bool
  returned: success
"""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def make(path: Path, length: int) -> None:
    """Write a new secret; whole or not at all, and never over one that another run has just made."""
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secrets.token_urlsafe(length)}\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True, "aliases": ["dest"]},
            "length": {"type": "int", "default": 32},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    absent = not path.exists()
    if absent and module.check_mode:
        module.exit_json(changed=True, made=True)
    if absent:
        try:
            make(path, module.params["length"])
        except OSError as error:
            module.fail_json(msg=f"{path}: cannot be made: {error.strerror}")
    attributes = module.load_file_common_arguments(module.params)
    changed = module.set_fs_attributes_if_different(attributes, absent)
    module.exit_json(changed=changed, made=absent)


if __name__ == "__main__":
    main()
