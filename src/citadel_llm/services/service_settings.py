"""Which settings each service runs with: what a change of concerns it, and no other service.

Asked by the deployment, which restarts a service when what it reads has changed (`revision`), and by
`citadel config diff`. A service that is not named here is taken to read everything.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from citadel_llm.config import Settings
from citadel_llm.config.layers import KeyPath
from citadel_llm.config.schema import ReplicaPlan
from citadel_llm.services.running import service_of
from citadel_llm.services.service_manager import services_of

Tree = Mapping[str, Any]
Values = dict[KeyPath, Any]

_DIGITS = 16

# Of a model, what only planning reads; what comes of it stands in its plan.
_PLANNING = {"architecture", "weight_bytes", "residency"}
_PLANNING_OPTIONS = {"min_model_len", "concurrent_requests", "replicas"}
_NOT_THE_ENGINES = {"replicas", "memory", "asleep_host_bytes"}
# Of a model, what the gateway reads.
_ROUTED = {"name", "aliases", "task", "runtime", "residency"}
_ROUTED_PARTS = {"engine": {"max_model_len", "replicas"}, "plan": {"residency", "max_model_len"}}
# Of a model, what the manager reads.
_MOVED = {"name", "task", "runtime", "engine", "plan"}
_SHARED_BY_ENGINES = {"engine", "features", "logging", "models_root", "run_dir"}
_OF_FLAGS = {"owner", "expires", "purpose"}
_NOT_THE_GATEWAYS = {"environment", "root", "models_root", "engine", "placement", "health"}


def leaves_of(tree: Tree) -> Iterator[tuple[KeyPath, KeyPath, Any]]:
    """Every value that holds no others; an empty mapping or list is one.

    Yields:
        Its path in which what has a name stands by that (`("models", "phi", "task")`), its path in the tree
        (`("models", 0, "task")`), and itself.
    """
    return _leaves(tree, (), ())


def values_read(service: str, tree: Tree) -> Values:
    """The values that a service runs with, by their paths with names.

    Args:
        service: What it calls itself: `gateway`, `gateway.2`, `engine@phi`, `health`, …
        tree: The host's settings, as JSON.
    """
    reads = _reads(service, [model["name"] for model in tree["models"]])
    return {path: value for path, _, value in leaves_of(tree) if reads(path)}


def revision(service: str, settings: Settings) -> str:
    """A short name for the values that a service runs with: it changes when one of them does."""
    values = values_read(service, settings.model_dump(mode="json"))
    text = json.dumps(sorted((str(path), value) for path, value in values.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def described(settings: Settings) -> list[dict[str, Any]]:
    """The services that the settings ask for, as the deployment wants to know them.

    Returns:
        Of each its `name`, `unit` and `revision`, whether it is `on_demand`, the `model` that an engine
        serves, and `start_timeout` and `drain_timeout` in seconds where its settings say them.
    """
    engines = {engine.unit: engine.model for engine in settings.engines}
    services = []
    for each in services_of(settings):
        model, limits = engines.get(each.unit), {}
        if model:
            limits = {
                "start_timeout": model.engine.start_timeout,
                "drain_timeout": model.engine.drain_timeout,
            }
        elif each.unit.startswith("citadel-gateway"):
            limits = {"drain_timeout": settings.gateway.drain_timeout_seconds}
        services.append(
            {
                "name": each.name,
                "unit": each.unit,
                "revision": revision(service_of(each.unit), settings),
                "on_demand": each.on_demand,
                "model": model.name if model else None,
                **limits,
            }
        )
    return services


def _leaves(value: object, named: KeyPath, path: KeyPath) -> Iterator[tuple[KeyPath, KeyPath, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*named, key), (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*named, item.get("name", index)), (*path, index))
    else:
        yield named, path, value


def _reads(service: str, models: Sequence[str]) -> Callable[[KeyPath], bool]:
    """Whether a service reads what stands at a path."""
    kind, _, instance = service.partition("@")
    reads: Callable[[KeyPath], bool] = lambda _: True  # noqa: E731
    if kind.partition(".")[0] == "gateway":
        reads = _gateway_reads
    elif kind == "manager":
        reads = _manager_reads
    elif kind == "engine":
        model, _, number = instance.rpartition(".")
        further = instance not in models and number.isdigit()
        reads = (
            partial(_engine_reads, model, int(number) - 2)
            if further
            else partial(_engine_reads, instance, None)
        )
    # Of a flag, whether it is on; who answers for it, and until when, is for people.
    return lambda path: reads(path) and not (path[0] == "features" and path[-1] in _OF_FLAGS)


def _gateway_reads(path: KeyPath) -> bool:
    match path:
        case ("models", _, part, *rest):
            return part in _ROUTED or (bool(rest) and rest[0] in _ROUTED_PARTS.get(str(part), ()))
    return path[0] not in _NOT_THE_GATEWAYS


def _manager_reads(path: KeyPath) -> bool:
    match path:
        case ("models", _, part, *_):
            return part in _MOVED
        case ("placement", part, *_):
            return part == "on_demand"
    return path[0] in {"features", "logging", "residency", "run_dir"}


def _engine_reads(model: str, replica: int | None, path: KeyPath) -> bool:
    """Whether an engine reads it: of the model's first one (no replica), or of a further one."""
    match path:
        case ("gateway", *rest):
            return rest == ["tracing", "endpoint"]
        case ("models", name, *rest):
            return name == model and _of_model(replica, rest)
    return path[0] in _SHARED_BY_ENGINES


def _of_model(replica: int | None, path: Sequence[str | int]) -> bool:
    match path:
        case ("plan", "replicas", int(index), *_):
            return index == replica
        case ("plan", part, *_):
            # What a further engine has of its own is not what the first one has.
            theirs = replica is not None and part in ReplicaPlan.model_fields
            return part not in _NOT_THE_ENGINES and not theirs
        case ("engine", part, *_):
            return part not in _PLANNING_OPTIONS
    return path[0] not in _PLANNING
