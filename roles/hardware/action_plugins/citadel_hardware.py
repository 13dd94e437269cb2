"""The controller's side of the module: refuse what cannot be used first, keep a copy of the reports after."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# Ansible finds a role's module_utils for what runs on the host; this runs on the controller.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "module_utils"))

from citadel_machine import page, profile, report  # type: ignore[import-not-found]
from citadel_machine.terms import Finding  # type: ignore[import-not-found]

# `exception` is the module's own message once more, which Ansible would show in place of ours.
_LONG = ("facts", "now", "findings", "table", "missed", "exception")


class ActionModule(ActionBase):
    """Runs the module of the same name, and writes the copies also when a requirement failed it."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module returned, with a warning where the copies could not be written."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        faults = profile.faults(arguments.get("profile") or {}, float(arguments.get("read_seconds") or 0))
        if faults:
            return result | {"failed": True, "msg": profile.message(faults)}
        result |= self._execute_module(module_args=arguments, task_vars=task_vars)
        if "findings" in result and not self._task.check_mode:
            self._copy(result, str(arguments.get("folder") or ""), str(arguments.get("host") or "this host"))
        if result.get("failed") and "findings" in result:
            # Ansible prints all that a failed task returns; the message and the page say it better.
            return {key: value for key, value in result.items() if key not in _LONG}
        return result

    def _copy(self, result: dict[str, Any], folder: str, host: str) -> None:
        """Keep copies of the reports in a folder, and tell where, or why not."""
        if not folder:
            return
        try:
            where = copy_reports(Path(folder), host, result)
        except OSError as error:
            said = f"{error.strerror or error}: {error.filename or folder}"
            warning = f"no copy of the hardware report on the controller ({said}); see hardware_report_folder"
            result["warnings"] = [*(result.get("warnings") or []), warning]
            return
        if result.get("failed"):
            result["msg"] += f"\nThe whole report, with a picture: {where}"


def copy_reports(folder: Path, host: str, result: dict[str, Any]) -> str:
    """Write `<host>.json` and `<host>.html`, with what was so at this moment; return where the page is.

    Raises:
        OSError: the folder cannot be made or written.
    """
    time = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts, now = result["facts"], result["now"]
    findings = [Finding(**finding) for finding in result["findings"]]
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in host)
    texts = {
        "json": report.controller_json(host, time, facts, findings, now),
        "html": page.render(host, facts, findings, time, now),
    }
    for kind, text in texts.items():
        draft = folder / f".{name}.{kind}.new"
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / f"{name}.{kind}")
    return str(folder / f"{name}.html")
