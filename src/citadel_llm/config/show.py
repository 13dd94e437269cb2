"""Write settings for people: one a line, with where it was set."""

from collections.abc import Iterator

from citadel_llm.config.errors import show_value
from citadel_llm.config.layers import KeyPath, Layers, dotted_path
from citadel_llm.config.schema import Settings


def lines(settings: Settings, layers: Layers) -> list[str]:
    """`gateway.port = 8000  # /opt/citadel/config/services/gateway.yml:3`, a line for each setting."""
    written = []
    for path, value in _leaves(settings.model_dump(mode="json"), ()):
        key = dotted_path(path)
        written.append(f"{key} = {show_value(key, value)}  # {layers.origins.get(path) or 'default'}")
    return written


def _leaves(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    """Every value that holds no others; an empty mapping or list is one."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value
