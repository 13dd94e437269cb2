"""What a deployment takes from the placement: a plan for each model, kept while nothing asks for another.

An engine's measurements would make each next plan a little different from the last, and every difference
restarts engines. So a deployed plan is kept until what it was made from changes, or a new one is asked for.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError

from citadel_llm.config import EnginePlan, Settings
from citadel_llm.config.residency import OnDemandBudget
from citadel_llm.placement.calibration import Measurement, calibrate
from citadel_llm.placement.devices import Machine
from citadel_llm.placement.plan import Plan
from citadel_llm.placement.planner import make_plan
from citadel_llm.placement.terms import PlacementError
from citadel_llm.placement.wishes import Answers, wishes_of

# What of a model changes nothing in its place.
_ASIDE: dict[str, Any] = {
    "plan": True,
    "aliases": True,
    "engine": {"start_timeout", "drain_timeout", "stall_timeout"},
}

# To be raised when a plan that an older release made may be wrong, and is not to be kept.
_ARITHMETIC = 2


class PlacementFaultsError(Exception):
    """The catalogue cannot be planned with.

    Args:
        faults: Everything that is wrong with it.
    """

    def __init__(self, faults: list[PlacementError]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


@dataclass(frozen=True)
class Deployed:
    """What stands on a host.

    Attributes:
        made_from: Checksum of what its plan was made from; empty when there is none.
        plans: The plans by their models' names.
        on_demand: The memory in which models on demand take turns.
    """

    made_from: str
    plans: Mapping[str, EnginePlan]
    on_demand: OnDemandBudget = field(default_factory=OnDemandBudget)

    @classmethod
    def read(cls, text: str) -> "Deployed":
        """Read the file of the catalogue, `services/models.yml`; one that cannot be read holds no plan."""
        try:
            tree = yaml.safe_load(text) or {}
            placed = {entry["name"]: entry["plan"] for entry in tree["models"] if entry.get("plan")}
            plans = {name: EnginePlan.model_validate(plan) for name, plan in placed.items()}
            placement = tree["placement"]
            on_demand = OnDemandBudget.model_validate(placement.get("on_demand", {}))
            return cls(str(placement["made_from"]), plans, on_demand)
        except (yaml.YAMLError, ValidationError, KeyError, TypeError, AttributeError):
            return cls("", {})


@dataclass(frozen=True)
class Deployment:
    """What is to stand on a host.

    Attributes:
        made_from: Checksum of what the plans were made from.
        plans: The plans by their models' names.
        on_demand: The memory in which models on demand take turns.
        fresh: The plan that was made for it; none when the deployed one is kept.
    """

    made_from: str
    plans: Mapping[str, EnginePlan]
    on_demand: OnDemandBudget
    fresh: Plan | None


def deploy(
    settings: Settings,
    machine: Machine,
    answers: Answers,
    measured: list[Measurement],
    deployed: Deployed,
    *,
    vllm: str | None = None,
    replan: bool = False,
) -> Deployment:
    """Decide what is to stand on a host: what stands there already, or a new plan.

    Args:
        settings: The host's settings.
        machine: The host.
        answers: What is known of its models' files.
        measured: What its engines have measured.
        deployed: What stands there.
        vllm: The version that will run; measurements of another do not count.
        replan: Whether to plan anew in any case.

    Raises:
        PlacementFaultsError: A model cannot be planned with.
        PlacementRefusedError: The models do not fit.
    """
    wishes, faults = wishes_of(settings, answers)
    if faults:
        raise PlacementFaultsError(faults)
    made_from = checksum(settings, machine)
    served = {model.name for model in settings.served_models}
    if not replan and made_from == deployed.made_from and served == set(deployed.plans):
        return Deployment(made_from, deployed.plans, deployed.on_demand, None)
    build = settings.engine.build
    plan = make_plan(settings.placement, build, machine, calibrate(wishes, measured, build, vllm))
    return Deployment(made_from, plan.engine_plans(), plan.on_demand(), plan)


def checksum(settings: Settings, machine: Machine) -> str:
    """A short name for what a plan is made from: the wishes, the shares, the machine and the arithmetic."""
    parts = {
        "arithmetic": _ARITHMETIC,
        "build": settings.engine.build,
        "shares": [settings.placement.gpu_memory_share, settings.placement.host_memory_share],
        "models": [model.model_dump(mode="json", exclude=_ASIDE) for model in settings.models],
        "devices": [asdict(device) for device in machine.devices],
        "links": [asdict(link) for link in machine.links],
        "host_memory": machine.host_memory,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
