"""The settings' reference for people, written from the schema."""

import json
import re
from typing import Any

from citadel_llm.config.inventory import GROUPS, VARIABLES
from citadel_llm.config.schema import Settings

_WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "date": "a day, `2030-01-31`",
}


def markdown() -> str:
    """One table for each group of settings, in Markdown."""
    schema = Settings.model_json_schema()
    groups = {"Settings": schema, **schema["$defs"]}
    for path, variable in {**VARIABLES, **GROUPS}.items():
        parent, _, key = path.rpartition(".")
        field = groups[group_at(parent) or "Settings"]["properties"][key]
        field["description"] += f" In the inventory: `{variable}`."
    return "\n\n".join(_group(name, group) for name, group in groups.items() if "properties" in group)


def group_at(path: str) -> str | None:
    """The name of the group of settings that stands at a dotted path, one or many; none where none does."""
    schema = Settings.model_json_schema()
    name = None
    for key in path.split(".") if path else ():
        group = schema["$defs"][name] if name else schema
        refs = re.findall(r"#/\$defs/(\w+)", json.dumps(group["properties"][key]))
        name = refs[0] if len(set(refs)) == 1 else None
    return name


def _group(name: str, group: dict[str, Any]) -> str:
    rows = [_row(key, field, key in group.get("required", ())) for key, field in group["properties"].items()]
    heading = f"### {name}\n\n{' '.join(group['description'].split())}"
    return "\n".join([heading, "", "| setting | type | default | meaning |", "|---|---|---|---|", *rows])


def _row(key: str, field: dict[str, Any], required: bool) -> str:
    # The defaults of a group stand in the group's own table.
    is_group = "$ref" in field or any("$ref" in each for each in field.get("allOf", ()))
    default = "required" if required else "" if is_group else f"`{json.dumps(field.get('default'))}`"
    meaning = " ".join(field.get("description", "").split())
    return " ".join(["|", f"`{key}`", "|", _type(field), "|", default, "|", meaning, "|"]).replace(
        "|  |", "| |"
    )


def _type(field: dict[str, Any]) -> str:
    several = field.get("anyOf") or field.get("oneOf")
    if several:
        return " or ".join(dict.fromkeys(_type(each) for each in several if each.get("type") != "null"))
    if "$ref" in field:
        return _link(field["$ref"].rsplit("/", 1)[-1])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum") or [field["const"]])
    match field["type"]:
        case "array":
            return f"list of {_type(field['items'])}"
        case "object":
            # Where the keys must match a pattern, the values' type stands under it.
            values = [*field.get("patternProperties", {}).values(), field.get("additionalProperties")]
            return f"mapping to {_type(values[0])}"
    unit = f" of {field['unit']}" if "unit" in field else ""
    return _WORDS.get(field.get("format", ""), _WORDS[field["type"]]) + unit + _limits(field)


def _link(name: str) -> str:
    return "anything" if name == "JsonValue" else f"[{name}](#{name.lower()})"


def _limits(field: dict[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "above",
        "maxLength": "length up to",
    }
    limits = [f"{word} {field[key]:g}" for key, word in words.items() if key in field]
    return f", {', '.join(limits)}" if limits else ""
