"""From an inventory's variables to the settings that are rendered from them: used on the controller."""

import re
from collections.abc import Mapping
from typing import Any

# Which variable a setting of the application is rendered from.
VARIABLES = {
    "models": "citadel_models",
    "engine.build": "citadel_engine_build",
    "environment": "citadel_environment",
    "gateway.address": "citadel_api_address",
    "gateway.port": "citadel_api_port",
    "models_root": "citadel_models_root",
    "placement": "citadel_placement",
    "root": "citadel_root",
}

# Which variable holds what a group of settings is to be, beside what other variables say of it.
GROUPS = {
    "engine": "config_engine",
    "features": "config_features",
    "gateway": "config_gateway",
    "health": "config_health",
    "logging": "config_logging",
    "residency": "config_residency",
}

_ENTRY = re.compile(r"(?<![\w.])models\[")


def settings_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables as the tree of settings that the role `config` renders from them."""
    settings: dict[str, Any] = {}
    for path, name in VARIABLES.items():
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
    for path, name in VARIABLES.items():
        if key == path or key.startswith((f"{path}.", f"{path}[")):
            return name + key[len(path) :]
    return key


def said_of_variables(message: str) -> str:
    """Return a message with the catalogue's entries as the inventory calls them."""
    return _ENTRY.sub(f"{VARIABLES['models']}[", message)
