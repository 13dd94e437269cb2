"""Name the engines of the catalogue's models, and the units of the gateway's workers."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def engine_names(models: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what the engines of the models are called, as `Model.engine_ids` has it.

    Args:
        models: The catalogue; `engine.replicas` says how many engines a model has.

    Returns:
        Each model's name, followed by `name.2` and so on where it has several.
    """
    names = []
    for model in models:
        replicas = int((model.get("engine") or {}).get("replicas", 1))
        names += [model["name"], *(f"{model['name']}.{number}" for number in range(2, replicas + 1))]
    return names


def gateway_units(workers: int) -> list[str]:
    """Return the units of so many workers of a gateway, as `services_of` has them."""
    further = (f"citadel-gateway@{number}.service" for number in range(2, workers + 1))
    return ["citadel-gateway.service", *further]


class FilterModule:
    """The filters, by the names under which templates know them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters."""
        return {"citadel_engine_names": engine_names, "citadel_gateway_units": gateway_units}
