"""Check what several variables say together: the models' catalogue, and who listens on which port.

The catalogue is judged by the very schema with which the services read it on the host.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

# Which variable a setting of the application is rendered from.
_VARIABLES = {
    "models": "citadel_models",
    "engine.build": "citadel_engine_build",
    "environment": "citadel_environment",
    "gateway.address": "citadel_api_address",
    "gateway.port": "citadel_api_port",
    "models_root": "citadel_models_root",
    "root": "citadel_root",
}


def settings_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables as the tree of settings that the role `config` renders from them."""
    settings: dict[str, Any] = {}
    for path, name in _VARIABLES.items():
        part = settings
        *parents, key = path.split(".")
        for parent in parents:
            part = part.setdefault(parent, {})
        part[key] = plain(variables[name])
    return settings


def plain(value: Any) -> Any:
    """Return a value without Ansible's own types, which a strict schema would not take."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def variable_of(key: str) -> str:
    """Return a setting's path as the place in the variables that it comes from."""
    for path, name in _VARIABLES.items():
        if key == path or key.startswith((f"{path}.", f"{path}[")):
            return name + key[len(path) :]
    return key


def catalogue_faults(settings: dict[str, Any], source: Path) -> Iterator[str]:
    """Yield what the application's schema, found in a source folder, has against the settings."""
    if str(source) not in sys.path:
        sys.path.insert(0, str(source))
    from citadel_llm.config import ConfigError, Layers, validate  # noqa: PLC0415 - found by the line above

    try:
        validate(Layers(values=settings))
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
        names = [*_VARIABLES.values(), *self._task.args["listening_ports"]]
        values = {name: self._templar.template(variables[name]) for name in names if name in variables}
        ports = {name: int(values[name]) for name in self._task.args["listening_ports"] if name in values}
        try:
            faults = list(catalogue_faults(settings_of(values), Path(self._task.args["source"])))
        except ImportError as error:
            faults = [f"{error}: run ansible-playbook from an environment with requirements.txt installed"]
        faults += port_faults(ports)
        result["changed"] = False
        if faults:
            lines = [f"- {fault}" for fault in faults]
            summary = f"{len(lines)} of the settings cannot be used together. Nothing was changed."
            result |= {"failed": True, "msg": "\n".join([summary, *lines])}
        return result
