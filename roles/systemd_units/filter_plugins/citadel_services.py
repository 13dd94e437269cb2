"""Shape the site's variables into Citadel's services: what differs between them, and what restarts each."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Seconds beyond a service's own limits, in which it says what went wrong before systemd ends it.
START_MARGIN = 60
STOP_MARGIN = 30

# The limits of a service whose settings say none (BaseService), in seconds.
START_TIMEOUT = 90
DRAIN_TIMEOUT = 60

DIGITS = 16


def revision(identity: object) -> str:
    """A short name for all that a service runs with: it changes when, and only when, any of it does."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def services(
    found: Iterable[Mapping[str, Any]],
    *,
    release: str,
    templates: Mapping[str, str],
    start_timeouts: Mapping[str, float],
    engine: str,
    manifests: Iterable[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Describe each service that the settings ask for; those that hand over stand last.

    Args:
        found: What `citadel config validate --json` says of each.
        release: The application's release.
        templates: The units' texts by their names.
        start_timeouts: Seconds that services give themselves to become ready, where no setting says them, by
            what their units' names begin with.
        engine: What the engines' environment is made from.
        manifests: What M(ansible.builtin.stat) says of the manifest of each model's weights.

    Returns:
        Of each its unit's `name`, its `revision`, whether it is `on_demand` (it runs only when somebody
        starts it) and `hands_over` (a reload replaces its process by one with all that is new), and
        `settings` for the section [Service] of its drop-in.
    """
    weights = {each["__systemd_units_model"]: each["stat"].get("checksum") for each in manifests}
    described = []
    for each in found:
        template = re.sub(r"@.+\.service$", "@.service", each["unit"])
        kind = re.split(r"[@.]", template)[0]
        start = each.get("start_timeout", start_timeouts.get(kind, START_TIMEOUT))
        settings = {
            "TimeoutStartSec": int(start) + START_MARGIN,
            "TimeoutStopSec": int(each.get("drain_timeout", DRAIN_TIMEOUT)) + STOP_MARGIN,
        }
        identity = [release, each["revision"], templates[template], settings]
        if each["model"] is not None:
            identity += [engine, weights.get(each["model"])]
        described.append(
            {
                "name": each["unit"],
                "revision": revision(identity),
                "settings": settings,
                "on_demand": each["on_demand"],
                "hands_over": kind == "citadel-gateway",
            }
        )
    return sorted(described, key=lambda one: one["hands_over"])


def drop_ins(services: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Write what is particular to each service as a drop-in; the key is its path below systemd's folder."""
    return {f"{each['name']}.d/citadel.conf": drop_in(each) for each in services}


def drop_in(described: Mapping[str, Any]) -> str:
    """Write one drop-in; the process carries the revision in its environment, where it can be compared."""
    settings = dict(described["settings"])
    head = ["# Rendered by Ansible: change the inventory."]
    if described["on_demand"]:
        # The manager starts it as often as it is wanted, and decides whether one that failed is tried again.
        head += ["[Unit]", "StartLimitIntervalSec=0"]
        settings["Restart"] = "no"
    head.append("[Service]")
    lines = [f"{key}={value}" for key, value in settings.items()]
    return "\n".join([*head, f"Environment=CITADEL_REVISION={described['revision']}", *lines, ""])


def rights(services: Iterable[Mapping[str, Any]], operator: str) -> list[dict[str, Any]]:
    """Say which account may do what with which unit; nobody else but root may do anything.

    Args:
        services: As C(citadel_services) describes them.
        operator: The operator's account; empty when it has no rights.
    """
    described = list(services)
    names = [each["name"] for each in described]
    engines = [name for name in names if name.startswith("citadel-engine@")]
    gateways = [name for name in names if re.match(r"citadel-gateway[@.]", name)]
    on_demand = [each["name"] for each in described if each["on_demand"]]
    found = [
        ("citadel-manager", ["start", "stop", "restart"], on_demand),
        ("citadel-health", ["restart"], [*gateways, *engines]),
        ("citadel-health", ["stop"], engines),
    ]
    if operator:
        verbs = ["start", "stop", "restart", "reload", "reset-failed"]
        found.insert(0, (operator, verbs, ["citadel.target", *names]))
    return [{"account": account, "verbs": verbs, "units": sorted(units)} for account, verbs, units in found]


class FilterModule:
    """The filters, by the names under which templates know them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters."""
        return {
            "citadel_services": services,
            "citadel_drop_ins": drop_ins,
            "citadel_rights": rights,
        }
