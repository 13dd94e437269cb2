"""The settings as JSON Schema, for editors that complete and check YAML."""

from collections.abc import Iterator
from typing import Any

from citadel_llm.config.inventory import GROUPS, VARIABLES
from citadel_llm.config.reference import group_at
from citadel_llm.config.schema import Settings

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def of_layers() -> dict[str, Any]:
    """What may stand in a layer's file: any part of the settings, for layers are merged, key by key."""
    schema = Settings.model_json_schema()
    for group in (schema, *(schema["$defs"][name] for name in _merged(schema, schema["$defs"], set()))):
        group.pop("required", None)
    return {"$schema": _DIALECT, **schema, "title": "A layer of Citadel's settings"}


def of_inventory() -> dict[str, Any]:
    """What the variables of an inventory may hold that settings are rendered from; others are left alone."""
    layers = of_layers()
    fields = {variable: _field(layers, path) for path, variable in {**VARIABLES, **GROUPS}.items()}
    whole = {"type": "object", "properties": layers["properties"], "additionalProperties": False}
    fields["config_environments"] = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Layer"}}
    return {
        "$schema": _DIALECT,
        "title": "The variables of an inventory of Citadel",
        "type": "object",
        "properties": fields,
        "$defs": {**layers["$defs"], "Layer": whole},
    }


def _field(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema of the setting at a dotted path."""
    parent, _, key = path.rpartition(".")
    group = group_at(parent)
    found: dict[str, Any] = (schema["$defs"][group] if group else schema)["properties"][key]
    return found


def _merged(node: object, groups: dict[str, Any], seen: set[str]) -> Iterator[str]:
    """The groups that stand in mappings alone; a list is replaced whole, so what is in one is complete."""
    if isinstance(node, list):
        for item in node:
            yield from _merged(item, groups, seen)
    elif isinstance(node, dict):
        name = str(node.get("$ref", "")).rsplit("/", 1)[-1]
        if name and name not in seen:
            seen.add(name)
            yield name
            yield from _merged(groups[name], groups, seen)
        for key, item in node.items():
            if key not in {"items", "prefixItems", "$defs"}:
                yield from _merged(item, groups, seen)
