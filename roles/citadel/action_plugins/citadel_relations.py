"""Check what several variables say together: the models' catalogue, and who listens on which port.

The catalogue is judged by the very schema with which the services read it on the host.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


def variable_names(source: Path) -> list[str]:
    """Return the variables that settings are rendered from, as the application in a folder has them."""
    if str(source) not in sys.path:
        sys.path.insert(0, str(source))
    from citadel_llm.config.inventory import VARIABLES  # noqa: PLC0415 - found by the line above

    return list(VARIABLES.values())


def catalogue_faults(variables: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the application's schema has against the settings that come from the variables."""
    from citadel_llm.config import ConfigError, Layers, validate  # noqa: PLC0415 - see variable_names
    from citadel_llm.config.inventory import settings_of, variable_of  # noqa: PLC0415

    try:
        validate(Layers(values=settings_of(variables)))
    except ConfigError as error:
        for problem in error.problems:
            remedy = f"; {problem.remedy}" if problem.remedy else ""
            yield f"{variable_of(problem.key)}: {problem.message}{remedy}"


def port_faults(ports: Mapping[str, int]) -> Iterator[str]:
    """Yield each pair of variables that puts two services on one port."""
    taken: dict[int, str] = {}
    for name, port in ports.items():
        if port in taken:
            free = next(number for number in range(port + 1, port + 1000) if number not in ports.values())
            yield (
                f"{name}: it is {port}, and so is {taken[port]}, but two services cannot listen on one port; "
                f"{free} would do"
            )
        taken.setdefault(port, name)


class ActionModule(ActionBase):
    """Runs on the controller; the host is not contacted."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with all faults at once."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        try:
            names = [*variable_names(Path(self._task.args["source"])), *self._task.args["listening_ports"]]
        except ImportError as error:
            raise AnsibleActionFail(
                f"{error}: run ansible-playbook from an environment with requirements.txt installed"
            ) from error
        values = {name: self._templar.template(variables[name]) for name in names if name in variables}
        ports = {name: int(values[name]) for name in self._task.args["listening_ports"] if name in values}
        faults = [*catalogue_faults(values), *port_faults(ports)]
        result["changed"] = False
        if faults:
            lines = [f"- {fault}" for fault in faults]
            summary = f"{len(lines)} of the settings cannot be used together. Nothing was changed."
            result |= {"failed": True, "msg": "\n".join([summary, *lines])}
        return result
