"""Shape the site's variables into Citadel's services: what differs between them, and what restarts each."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Seconds beyond a service's own limits, in which it says what went wrong before systemd ends it.
START_MARGIN = 60
STOP_MARGIN = 30

# The schema's defaults (EngineOptions), in seconds.
START_TIMEOUT = 900
DRAIN_TIMEOUT = 60

DIGITS = 16


def revision(identity: object) -> str:
    """A short name for all that a service runs with: it changes when, and only when, any of it does."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def service(
    name: str,
    identity: object,
    start_timeout: float,
    drain_timeout: float,
    *,
    on_demand: bool = False,
    hands_over: bool = False,
) -> dict[str, Any]:
    """Describe a service.

    Args:
        name: The unit's name.
        identity: Whatever makes a restart necessary when it changes.
        start_timeout: Seconds that the service gives itself to become ready.
        drain_timeout: Seconds that it gives requests in flight when it stops.
        on_demand: Whether it is to run only when somebody starts it.
        hands_over: Whether a reload replaces its process by one with all that is new.

    Returns:
        `name`, `revision`, `on_demand`, `hands_over`, and `settings` for the section [Service] of its
        drop-in.
    """
    settings = {
        "TimeoutStartSec": int(start_timeout) + START_MARGIN,
        "TimeoutStopSec": int(drain_timeout) + STOP_MARGIN,
    }
    return {
        "name": name,
        "revision": revision([identity, settings]),
        "settings": settings,
        "on_demand": on_demand,
        "hands_over": hands_over,
    }


def gateway_services(
    units: Iterable[str], identity: object, start_timeout: float, drain_timeout: float
) -> list[dict[str, Any]]:
    """Describe each worker of the gateway, by its unit; all of them run with the same."""
    return [service(name, identity, start_timeout, drain_timeout, hands_over=True) for name in units]


def engine_services(models: Iterable[Mapping[str, Any]], identity: object) -> list[dict[str, Any]]:
    """Describe each engine of each model that vLLM serves; `identity` is what they all share.

    Args:
        models: The catalogue, each entry with its plan.
        identity: What a change of restarts them all.
    """
    services = []
    for model in models:
        if model.get("runtime", "vllm") != "vllm":
            continue
        options = model.get("engine") or {}
        for number, name in enumerate(engine_names(model), 1):
            services.append(
                service(
                    f"citadel-engine@{name}.service",
                    [identity, _of_replica(model, number)],
                    options.get("start_timeout", START_TIMEOUT),
                    options.get("drain_timeout", DRAIN_TIMEOUT),
                    on_demand=(model.get("plan") or {}).get("residency", "resident") != "resident",
                )
            )
    return services


def engine_names(model: Mapping[str, Any]) -> list[str]:
    """Name a model's engines as `Model.engine_ids` does: its name, then `name.2` and so on."""
    name, replicas = model["name"], int((model.get("engine") or {}).get("replicas", 1))
    return [name, *(f"{name}.{number}" for number in range(2, replicas + 1))]


def _of_replica(model: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What of a model one of its engines runs with: not how many others there are, nor where."""
    options = {key: value for key, value in (model.get("engine") or {}).items() if key != "replicas"}
    plan = dict(model.get("plan") or {})
    replicas = plan.pop("replicas", None) or []
    if number > 1 and len(replicas) >= number - 1:
        plan |= replicas[number - 2]
    return {**model, "engine": options, "plan": plan}


def drop_ins(services: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Write what is particular to each service as a drop-in; the key is its path below systemd's folder."""
    return {f"{each['name']}.d/citadel.conf": drop_in(each) for each in services}


def drop_in(described: Mapping[str, Any]) -> str:
    """Write one drop-in; the process carries the revision in its environment, where it can be compared."""
    lines = [f"{key}={value}" for key, value in described["settings"].items()]
    head = ["# Rendered by Ansible: change the inventory.", "[Service]"]
    return "\n".join([*head, f"Environment=CITADEL_REVISION={described['revision']}", *lines, ""])


class FilterModule:
    """The filters, by the names under which templates know them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters."""
        return {
            "citadel_gateway_services": gateway_services,
            "citadel_engine_services": engine_services,
            "citadel_drop_ins": drop_ins,
        }
