"""From the merged layers to checked settings, with errors that name the file, the key, and what would do."""

import difflib
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from citadel_llm.config.errors import ConfigError, Problem, show_value
from citadel_llm.config.layers import KeyPath, Layers, dotted_path, read_layers
from citadel_llm.config.parts import MisfitError
from citadel_llm.config.schema import Settings


def load(directory: Path | None = None) -> Settings:
    """Read and check the settings of this host.

    Args:
        directory: The configuration folder; `$CITADEL_CONFIG` or /opt/citadel/config when absent.

    Raises:
        ConfigError: With every problem found, not only the first.
    """
    return validate(read_layers(directory))


def validate(layers: Layers) -> Settings:
    """Check merged layers against the schema.

    Raises:
        ConfigError: With every problem found, not only the first.
    """
    try:
        return Settings.model_validate(layers.values)
    except ValidationError as error:
        raise ConfigError([_problem(details, layers) for details in error.errors()]) from None


def _problem(details: ErrorDetails, layers: Layers) -> Problem:
    path = _real_path(details["loc"], layers.values)
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, MisfitError):
        path += cause.path
    if details["type"].startswith("union_tag"):
        path += ("kind",)
    message, remedy = _explain(details, path)
    return Problem(str(layers.origin(path) or ""), dotted_path(path), message, remedy)


def _explain(details: ErrorDetails, path: KeyPath) -> tuple[str, str]:
    """What is wrong, and what would do where the first does not say it already."""
    context = details.get("ctx", {})
    if details["type"] == "extra_forbidden":
        return "there is no such setting", _suggest(path)
    if details["type"] == "value_error":
        return str(context["error"]), ""  # our own checks, written for people
    if details["type"] in {"missing", "union_tag_not_found"}:
        return "must be set", ""
    found = show_value(dotted_path(path), details["input"])
    if details["type"] == "union_tag_invalid":
        return f"must be one of {context['expected_tags']}, not {context['tag']!r}", ""
    if details["type"] == "string_pattern_mismatch":
        return f"must match {context['pattern']}, not {found}", ""
    message = re.sub(r"^\w+ should", "must", details["msg"])
    return f"{message[0].lower()}{message[1:]}, not {found}", ""


def _real_path(location: tuple[str | int, ...], values: Any) -> KeyPath:
    """Drop what pydantic puts into a location and no one wrote: the tag of the union's chosen member."""
    tags = set(_tags(location, values))
    return tuple(part for index, part in enumerate(location) if index not in tags)


def _tags(location: tuple[str | int, ...], values: Any) -> Iterator[int]:
    """The positions in a location at which the tag of a union stands: the value of the `kind` there."""
    tagged = False
    for index, part in enumerate(location):
        if not tagged and isinstance(values, dict) and part == values.get("kind"):
            tagged = True
            yield index
            continue
        tagged = False
        values = values[part] if _holds(values, part) else None


def _holds(values: Any, part: str | int) -> bool:
    if isinstance(values, list):
        return isinstance(part, int) and part < len(values)
    return isinstance(values, dict) and part in values


def _suggest(path: KeyPath) -> str:
    known = sorted(_fields_at(path[:-1]))
    near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"


def _fields_at(path: KeyPath) -> set[str]:
    """The names of the settings that may stand at a path; of all members where the schema has a union."""
    types: list[Any] = [Settings]
    for part in path:
        models = list(_models(types))
        if isinstance(part, str):
            types = [m.model_fields[part].annotation for m in models if part in m.model_fields]
    return {name for model in _models(types) for name in model.model_fields}


def _models(types: list[Any]) -> Iterator[type[BaseModel]]:
    for annotation in types:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        else:
            yield from _models([arg for arg in typing.get_args(annotation) if arg is not Ellipsis])
