"""Plan where each model of the catalogue runs on a host, before anything on it is changed.

All arithmetic is the application's (`citadel_llm.placement`); this hands it what was read from the host.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

if TYPE_CHECKING:
    from citadel_llm.config import EnginePlan, Settings
    from citadel_llm.placement.devices import Machine

_MEMORY_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)
_KIB_IN_GIB = 1024**2
_LOCKED = re.compile(r"^vllm(?:-cpu)?==([\w.]+)", re.MULTILINE)


def host_report(meminfo: str, gpus: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was read from the host in the shape of the hardware report, which the planner reads."""
    found = _MEMORY_TOTAL.search(meminfo)
    memory = round(int(found[1]) / _KIB_IN_GIB, 1) if found else None
    return {
        "facts": {
            "memory_gib": memory,
            "gpus": gpus.get("gpus", []),
            "gpu_links": gpus.get("links", []),
        }
    }


def locked_vllm(source: Path, build: str) -> str | None:
    """Return the version of vLLM that the engine's lock names."""
    lock = source.parent / "requirements" / f"engine-{build}.txt"
    found = _LOCKED.search(lock.read_text(encoding="utf-8"))
    return found[1] if found else None


def without_gpus(gpus: Mapping[str, Any]) -> str:
    """Say why nothing can be planned on a host without GPUs."""
    return (
        f"citadel_engine_build is cuda, and the host has no GPU to plan with: {gpus.get('reason', '')}. "
        f"{gpus.get('remedy') or 'Install the driver'}; or name the GPUs that it will have in "
        "hardware_profile.gpus (count, name, memory_gib); or set citadel_engine_build to cpu. "
        "Nothing was changed."
    )


def planned(models: list[Any], plans: Mapping[str, "EnginePlan"]) -> list[dict[str, Any]]:
    """Return the catalogue with each model's plan in its entry."""
    return [
        {**model, "plan": _dumped(plans[model["name"]])} if model["name"] in plans else model
        for model in models
    ]


def _dumped(plan: "EnginePlan") -> dict[str, Any]:
    # Not with an empty list for nearly every model: what did not change shall look as it did.
    empty = {name for name in ("replicas", "memory") if not getattr(plan, name)}
    if plan.asleep_host_bytes is None:
        empty.add("asleep_host_bytes")
    return plan.model_dump(mode="json", exclude=empty)


def short_table(settings: "Settings", plans: Mapping[str, "EnginePlan"]) -> list[str]:
    """Return the plans as aligned lines."""
    rows = [("MODEL", "RESIDENCY", "GPUS", "LAYOUT", "CONTEXT", "KV CACHE")]
    for model in settings.models:
        plan = plans.get(model.name)
        if plan is None:
            rows.append((model.name, f"not served: no engine for {model.runtime}", "", "", "", ""))
            continue
        for number, engine in enumerate(model.engine_ids, 1):
            here = plan.of_replica(number)
            layout = f"tp{here.tensor_parallel_size} pp{here.pipeline_parallel_size}"
            gpus = ",".join(map(str, here.gpus)) or "cpu"
            cache = f"{here.kv_cache_bytes / 1024**3:.2f} GiB"
            rows.append((engine, here.residency, gpus, layout, f"{here.max_model_len}", cache))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(cells).rstrip() for cells in aligned]


class ActionModule(ActionBase):
    """Runs on the controller, on what other tasks have read from the host."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the catalogue with its plans, or fail with all that stands against it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        source = Path(arguments["source"])
        if str(source) not in sys.path:
            sys.path.insert(0, str(source))
        try:
            import citadel_llm.placement.deployment as placement  # noqa: PLC0415 - found by the line above
            from citadel_llm.config.inventory import (  # noqa: PLC0415
                VARIABLES,
                plain,
                said_of_variables,
                settings_of,
            )
        except ImportError as error:
            raise AnsibleActionFail(
                f"{error}: run ansible-playbook from an environment with requirements.txt installed"
            ) from error
        from citadel_llm.config import Layers, validate  # noqa: PLC0415
        from citadel_llm.placement.calibration import Measurement  # noqa: PLC0415
        from citadel_llm.placement.terms import PlacementError  # noqa: PLC0415
        from citadel_llm.placement.text import plan_text  # noqa: PLC0415
        from citadel_llm.placement.wishes import of_the_hub  # noqa: PLC0415

        known = task_vars or {}
        variables = {name: self._templar.template(known[name]) for name in VARIABLES.values()}
        profile = plain(self._templar.template(known.get("hardware_profile") or {}))
        settings = validate(Layers(values=settings_of(variables)))
        measured = [Measurement.parse(str(text)) for text in arguments["measured"]]
        try:
            machine = self._machine(settings, profile)
            deployment = placement.deploy(
                settings,
                machine,
                {**json.loads(arguments["files"] or "{}"), **of_the_hub(plain(arguments["hub"]))},
                [each for each in measured if each is not None],
                placement.Deployed.read(str(arguments["deployed"])),
                vllm=locked_vllm(source, settings.engine.build),
                replan=bool(arguments.get("replan")),
            )
        except placement.PlacementFaultsError as error:
            # Ansible would append the cause's text, in other words, to what is said here.
            faults = [said_of_variables(str(fault)) for fault in error.faults]
            raise AnsibleActionFail(_listed(faults)) from None
        except PlacementError as error:
            raise AnsibleActionFail(f"{said_of_variables(str(error))}\nNothing was changed.") from None
        if deployment.fresh is None:
            table = ["The deployed plan is kept:", *short_table(settings, deployment.plans)]
        else:
            table = said_of_variables(plan_text(deployment.fresh)).splitlines()
        result |= {
            "changed": False,
            "models": planned(plain(variables["citadel_models"]), deployment.plans),
            "made_from": deployment.made_from,
            "on_demand": deployment.on_demand.model_dump(mode="json"),
            "kept": deployment.fresh is None,
            "table": table,
        }
        return result

    def _machine(self, settings: "Settings", profile: Mapping[str, Any]) -> "Machine":
        """Return what the host has; where it has no GPUs yet, what its profile says that it will have."""
        from citadel_llm.placement.devices import machine_of_profile, machine_of_report  # noqa: PLC0415

        gpus, build = self._task.args["gpus"], settings.engine.build
        report = host_report(str(self._task.args["meminfo"]), gpus)
        if build == "cpu" or gpus.get("gpus") or not settings.served_models:
            return machine_of_report(report, build)
        if not (profile.get("gpus") or {}).get("count"):
            raise AnsibleActionFail(without_gpus(gpus))
        return machine_of_profile({"memory_gib": report["facts"]["memory_gib"], **profile}, build)


def _listed(faults: list[str]) -> str:
    lines = [f"- {fault}" for fault in faults]
    return "\n".join([f"{len(lines)} of the models cannot be planned with. Nothing was changed.", *lines])
