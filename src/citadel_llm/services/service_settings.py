"""Which settings each service runs with: what a change of concerns it, and no other service.

Asked by the deployment, which restarts a service when what it reads has changed (`revision`), and by
`citadel config diff`. A service that is not named here is taken to read everything.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from citadel_llm.config import Settings
from citadel_llm.config.layers import KeyPath
from citadel_llm.config.schema import ReplicaPlan
from citadel_llm.services.running import service_of
from citadel_llm.services.service_manager import services_of

Values = dict[KeyPath, Any]

_DIGITS = 16

# Of a model, what only planning reads; what comes of it stands in its plan.
_PLANNING = {"architecture", "weight_bytes", "residency"}
_PLANNING_OPTIONS = {"min_model_len", "concurrent_requests", "replicas"}
_NOT_THE_ENGINES = {"replicas", "memory", "asleep_host_bytes"}
# Of a model, what the gateway reads.
_ROUTED = {"name", "aliases", "task", "runtime", "residency"}
_ROUTED_PARTS = {"engine": {"max_model_len", "replicas"}, "plan": {"residency", "max_model_len"}}
_NOT_THE_GATEWAYS = {"environment", "root", "models_root", "engine", "placement", "health"}


def values_of(settings: Settings) -> Values:
    """Every single value by its path; what has a name stands by that: `("models", "phi", "task")`."""
    return dict(_leaves(settings.model_dump(mode="json"), ()))


def values_read(service: str, settings: Settings) -> Values:
    """The values that a service runs with.

    Args:
        service: What it calls itself: `gateway`, `gateway.2`, `engine@phi`, `health`, …
        settings: The host's settings.
    """
    kind, _, instance = service.partition("@")
    reads: Callable[[KeyPath], bool] = _reads_all
    if kind.partition(".")[0] == "gateway":
        reads = _gateway_reads
    elif kind == "engine":
        reads = _engine_reads(settings, instance)
    return {path: value for path, value in values_of(settings).items() if reads(path)}


def revision(service: str, settings: Settings) -> str:
    """A short name for the values that a service runs with: it changes when one of them does."""
    text = json.dumps(sorted((str(path), value) for path, value in values_read(service, settings).items()))
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


def _leaves(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    """Every value that holds no others; an empty mapping or list is one."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, item.get("name", index)))
    else:
        yield path, value


def _reads_all(path: KeyPath) -> bool:
    return not _is_about_a_flag(path)


def _is_about_a_flag(path: KeyPath) -> bool:
    """Whether it is said of a feature flag, beside whether it is on."""
    return path[0] == "features" and path[-1] in {"owner", "expires", "purpose"}


def _gateway_reads(path: KeyPath) -> bool:
    match path:
        case ("models", _, part, *rest):
            return part in _ROUTED or (bool(rest) and rest[0] in _ROUTED_PARTS.get(str(part), ()))
        case (first, *_):
            return first not in _NOT_THE_GATEWAYS and not _is_about_a_flag(path)
    return True


def _engine_reads(settings: Settings, engine_id: str) -> Callable[[KeyPath], bool]:
    engine = next((each for each in settings.engines if each.id == engine_id), None)
    replicas = engine.number - 2 if engine and engine.number > 1 else None
    own = engine.model.name if engine else ""

    def reads(path: KeyPath) -> bool:
        match path:
            case ("gateway", *rest):
                return rest == ["tracing", "endpoint"]
            case ("models", name, *rest):
                return name == own and _model_reads(rest)
            case (first, *_):
                shared = first in {"engine", "features", "logging", "models_root", "run_dir"}
                return shared and not _is_about_a_flag(path)
        return True

    def _model_reads(path: list[str | int]) -> bool:
        match path:
            case ["plan", "replicas", int(index), *_]:
                return index == replicas
            case ["plan", part, *_]:
                # What a further engine has of its own is not what the first one has.
                theirs = replicas is not None and part in ReplicaPlan.model_fields
                return part not in _NOT_THE_ENGINES and not theirs
            case ["engine", part, *_]:
                return part not in _PLANNING_OPTIONS
            case [part, *_]:
                return part not in _PLANNING
        return True

    return reads
