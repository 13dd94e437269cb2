"""Refuse a profile that cannot be used, before any host is touched."""

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# Ansible finds a role's module_utils for what runs on the host; this runs on the controller.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "module_utils"))

from citadel_machine import profile  # type: ignore[import-not-found]


class ActionModule(ActionBase):
    """Runs on the controller; the host is not contacted."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with all that is wrong with `profile`, given also the role's `read_seconds`."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        faults = profile.faults(arguments["profile"], float(arguments.get("read_seconds") or 0))
        if faults:
            return result | {"failed": True, "msg": profile.message(faults)}
        return result | {"changed": False}
