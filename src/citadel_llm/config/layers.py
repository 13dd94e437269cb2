"""Read the layers and merge them, remembering for each value where it came from.

pydantic-settings merges YAML files too, but forgets which file a value came from; an operator who is told
that a value is wrong needs the file and the line.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from citadel_llm.config.errors import ConfigError, Problem

DEFAULT_DIRECTORY = Path("/opt/citadel/config")
DIRECTORY_VARIABLE = "CITADEL_CONFIG"
VARIABLE_PREFIX = "CITADEL__"

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """Where a value was set: a file and its line, or an environment variable (line 0)."""

    name: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


@dataclass
class Layers:
    """The merged tree, and the origin of each of its values by key path."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> Origin | None:
        """The origin of the value at `path`, or of the nearest value around it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return self.origins[path[:end]]
        return None

    def merge(self, other: "Layers") -> None:
        """Lay another layer over this one: mappings merge key by key, anything else is replaced whole."""
        self._merge(self.values, other.values, (), other)

    def _merge(self, mine: dict[str, Any], theirs: dict[str, Any], path: KeyPath, other: "Layers") -> None:
        for key, value in theirs.items():
            here = (*path, key)
            if isinstance(value, dict) and isinstance(mine.get(key), dict):
                self._merge(mine[key], value, here, other)
                continue
            mine[key] = value
            stale = [known for known in self.origins if known[: len(here)] == here]
            for known in stale:
                del self.origins[known]
            fresh = {known: o for known, o in other.origins.items() if known[: len(here)] == here}
            self.origins.update(fresh)


def read_layers(directory: Path | None = None, environ: Mapping[str, str] | None = None) -> Layers:
    """Read and merge all layers.

    Args:
        directory: The configuration folder; `$CITADEL_CONFIG` or /opt/citadel/config when absent.
        environ: The environment; the process's own when absent.

    Raises:
        ConfigError: The folder is missing, or a file is not readable, not YAML, or not a mapping.
    """
    environ = os.environ if environ is None else environ
    directory = directory or Path(environ.get(DIRECTORY_VARIABLE) or DEFAULT_DIRECTORY)
    if not directory.is_dir():
        remedy = f"name the folder with --directory or the variable {DIRECTORY_VARIABLE}"
        raise ConfigError([Problem(str(directory), "", "there is no such configuration folder", remedy)])
    overrides = _read_environment(environ)
    layers = Layers()
    for path in _files(directory / "global"):
        layers.merge(read_file(path))
    environment = overrides.values.get("environment", layers.values.get("environment"))
    if isinstance(environment, str):
        layers.merge(_read_environment_layer(directory / "environments", environment, layers))
    for name in ("services", "features"):
        for path in _files(directory / name):
            layers.merge(read_file(path))
    layers.merge(overrides)
    return layers


def read_file(path: Path) -> Layers:
    """Read one YAML file as a layer. An empty file is an empty layer."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read ({error})")]) from error
    layer = Layers()
    try:
        root = loader.get_single_node()
        if root is None:
            return layer
        values = _Walk(loader, path, layer).value(root, ())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(
            [Problem(str(Origin(str(path), line)), "", f"is not YAML: {error.problem}")]
        ) from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise ConfigError([Problem(str(path), "", "must hold a mapping of settings (key: value)")])
    layer.values = values
    return layer


class _Walk:
    """Turn YAML nodes into values, noting the line of each; refuse a key written twice."""

    def __init__(self, loader: yaml.SafeLoader, path: Path, layer: Layers) -> None:
        self.loader, self.file, self.layer = loader, path, layer

    def value(self, node: yaml.Node, path: KeyPath) -> object:
        if path:
            self.layer.origins[path] = self._origin(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        self.loader.flatten_mapping(node)
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = str(self.loader.construct_object(key_node))
            if key in values:
                where, dotted = str(self._origin(key_node)), dotted_path((*path, key))
                raise ConfigError([Problem(where, dotted, "is set twice in this file", "keep one")])
            values[key] = self.value(value_node, (*path, key))
            # The key's line, not the value's: a nested value begins on the line below its key.
            self.layer.origins[(*path, key)] = self._origin(key_node)
        return values

    def _origin(self, node: yaml.Node) -> Origin:
        return Origin(str(self.file), node.start_mark.line + 1)


def path_of_variable(name: str) -> tuple[str, ...]:
    """The path of the setting that an environment variable sets."""
    return tuple(part.lower() for part in name.removeprefix(VARIABLE_PREFIX).split("__"))


def dotted_path(path: KeyPath) -> str:
    """`("models", 0, "name")` as people write it: `models[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _files(directory: Path) -> list[Path]:
    return sorted([*directory.glob("*.yml"), *directory.glob("*.yaml")])


def _read_environment_layer(directory: Path, environment: str, layers: Layers) -> Layers:
    """The file of the chosen environment. A folder with files for others only is a mistake."""
    known = {path.stem: path for path in _files(directory)}
    if environment in known:
        return read_file(known[environment])
    if known:
        where = str(layers.origin(("environment",)) or "")
        message = f"{environment!r} has no file in {directory}"
        raise ConfigError([Problem(where, "environment", message, f"there are: {', '.join(known)}")])
    return Layers()


def _read_environment(environ: Mapping[str, str]) -> Layers:
    """`CITADEL__GATEWAY__PORT=9000` as the layer `{gateway: {port: "9000"}}`.

    A value that begins with `[` or `{` is read as YAML, so lists can be given; `null` is nothing.
    """
    layer = Layers()
    for name in sorted(environ):
        if not name.startswith(VARIABLE_PREFIX):
            continue
        path = path_of_variable(name)
        one = Layers(origins={path: Origin(name)})
        tree = one.values
        for part in path[:-1]:
            tree = tree.setdefault(part, {})
        tree[path[-1]] = _read_variable(name, environ[name])
        layer.merge(one)
    return layer


def _read_variable(name: str, text: str) -> object:
    if text == "null":
        return None
    if not text.startswith(("[", "{")):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError([Problem(name, "", "begins like a list or a mapping, but is not YAML")]) from error
