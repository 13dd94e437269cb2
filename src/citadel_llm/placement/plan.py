"""The plan: where each model runs, with how much memory, and why. All memory is in bytes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from citadel_llm.config.residency import DeviceBudget, OnDemandBudget, OnDevice
from citadel_llm.config.schema import EnginePlan, ReplicaPlan
from citadel_llm.placement.devices import Machine
from citadel_llm.placement.terms import Device, Layout, Term

Residency = Literal["resident", "warm", "cold"]
_PLAN_FORMAT = 1


@dataclass(frozen=True)
class WorkerPlan:
    """One worker of an engine, on its device.

    Attributes:
        device: The device's index.
        fixed: What it needs awake, but the KV cache.
        asleep: What stays on the device while the model sleeps.
        kv_cache: Its KV cache.
    """

    device: int
    fixed: tuple[Term, ...]
    asleep: tuple[Term, ...]
    kv_cache: int

    @property
    def awake_bytes(self) -> int:
        """What it takes when awake."""
        return sum(term.bytes for term in self.fixed) + self.kv_cache

    @property
    def asleep_bytes(self) -> int:
        """What it holds asleep."""
        return sum(term.bytes for term in self.asleep)

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Each part by its term's name, the KV cache after the weights, without empty ones."""
        sizes: dict[str, int] = {"weights": 0, "KV cache": self.kv_cache}
        for term in self.fixed:
            sizes[term.name] = sizes.get(term.name, 0) + term.bytes
        return tuple((name, size) for name, size in sizes.items() if size)


@dataclass(frozen=True)
class ModelPlan:
    """One model's place; where it has several engines (replicas), that of one of them.

    Attributes:
        name: In the catalogue; of the second engine and those that follow `name.2` and so on.
        entry: How messages call it, such as `models[2]`.
        residency: Awake always, asleep in host memory, or started on demand.
        layout: Over how many devices, and how.
        workers: One for each device; worker `p * tensor_parallel + t` holds stage p's part t.
        context: Longest context in tokens (`max_model_len`).
        requests: How many requests of that length its KV cache holds at once.
        kv_cache: KV cache on each device.
        gpu_memory_utilization: Share of each GPU that must be free when it starts; none on the CPU build.
        parameters: How many it has.
        weight_bytes: Its weights, all devices together; what it takes in host memory asleep.
        quantization: How the weights are stored.
        why: The decision in plain sentences.
        warnings: What works, but not well.
        replica: Which of the model's engines it is, counted from 1.
    """

    name: str
    entry: str
    residency: Residency
    layout: Layout
    workers: tuple[WorkerPlan, ...]
    context: int
    requests: int
    kv_cache: int
    gpu_memory_utilization: float | None
    parameters: int
    weight_bytes: int
    quantization: str
    why: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    replica: int = 1

    @property
    def devices(self) -> tuple[int, ...]:
        """The indices of its devices, in the order of its workers."""
        return tuple(worker.device for worker in self.workers)

    def on(self, device: int) -> tuple[WorkerPlan, ...]:
        """Its workers on one device."""
        return tuple(worker for worker in self.workers if worker.device == device)


@dataclass(frozen=True)
class Unserved:
    """A model that gets no place, and why."""

    name: str
    entry: str
    reason: str


@dataclass(frozen=True)
class DeviceUse:
    """What one device holds, and what is left of it.

    Attributes:
        device: The device.
        usable: What all engines together may take of it.
        resident: What the residents take.
        asleep: What sleeping models hold.
        on_demand: What the largest model takes on top when it is awake.
        free: What is left of the usable part then.
    """

    device: Device
    usable: int
    resident: int
    asleep: int
    on_demand: int

    @property
    def free(self) -> int:
        """What is left of the usable part when the largest model on demand is awake."""
        return self.usable - self.resident - self.asleep - self.on_demand


@dataclass(frozen=True)
class Plan:
    """Where every model runs on a machine.

    Attributes:
        machine: What it was made for.
        build: The engine's build.
        gpu_memory_share: Share of each GPU's memory that the engines may take.
        host_memory_share: Share of the host's memory for sleeping models, or all engines of the CPU build.
        models: Those that are served, in the catalogue's order.
        unserved: Those that no engine of this release serves.
        complete: Whether every arrangement that could matter was looked at; else the search was cut short.
        nodes: How many steps the search took: one is one device tried for one worker.
    """

    machine: Machine
    build: Literal["cuda", "cpu"]
    gpu_memory_share: float
    host_memory_share: float
    models: tuple[ModelPlan, ...]
    unserved: tuple[Unserved, ...]
    complete: bool
    nodes: int

    def model(self, name: str) -> ModelPlan | None:
        """The model of that name, when it is served."""
        return next((model for model in self.models if model.name == name), None)

    def usable(self, device: Device) -> int:
        """What all engines together may take of a device."""
        share = self.host_memory_share if device.kind == "cpu" else self.gpu_memory_share
        return math.floor(device.memory * share)

    @property
    def host_budget(self) -> int:
        """What sleeping models may take of the host's memory together."""
        return math.floor(self.machine.host_memory * self.host_memory_share)

    @property
    def host_asleep(self) -> int:
        """What the sleeping models' weights take of it."""
        return sum(model.weight_bytes for model in self.models if model.residency == "warm")

    def uses(self) -> tuple[DeviceUse, ...]:
        """What each device holds, in the machine's order."""
        return tuple(self._use(device) for device in self.machine.devices)

    def engine_plans(self) -> dict[str, EnginePlan]:
        """What each served model's engines are to be started with, by the model's name."""
        plans: dict[str, EnginePlan] = {}
        name = ""
        for model in self.models:
            where = self._where(model)
            if model.replica == 1:
                name = model.name
                turns = {} if model.residency == "resident" else self._held(model)
                plans[name] = EnginePlan(
                    residency=model.residency, max_model_len=model.context, **where, **turns
                )
            else:
                replicas = (*plans[name].replicas, ReplicaPlan(**where))
                plans[name] = plans[name].model_copy(update={"replicas": replicas})
        return plans

    def _where(self, model: ModelPlan) -> dict[str, Any]:
        return {
            "gpus": () if self.build == "cpu" else model.devices,
            "tensor_parallel_size": model.layout.tensor_parallel,
            "pipeline_parallel_size": model.layout.pipeline_parallel,
            "kv_cache_bytes": model.kv_cache,
            "gpu_memory_utilization": model.gpu_memory_utilization,
        }

    def on_demand(self) -> OnDemandBudget:
        """The memory in which the models that are not always awake take turns; empty where all are."""
        turns = [model for model in self.models if model.residency != "resident"]
        used = {device for model in turns for device in model.devices}
        budgets = [
            DeviceBudget(device=use.device.index, bytes=use.usable - use.resident)
            for use in self.uses()
            if use.device.index in used
        ]
        return OnDemandBudget(devices=tuple(budgets), host_bytes=self.host_budget if turns else 0)

    def _held(self, model: ModelPlan) -> dict[str, Any]:
        """What a model on demand holds of each device and, asleep, of the host."""
        sleeps = model.residency == "warm"
        memory = [
            OnDevice(
                device=device,
                awake_bytes=sum(worker.awake_bytes for worker in model.on(device)),
                asleep_bytes=sum(worker.asleep_bytes for worker in model.on(device)) if sleeps else 0,
            )
            for device in sorted(set(model.devices))
        ]
        return {"memory": tuple(memory), "asleep_host_bytes": model.weight_bytes if sleeps else None}

    def as_json(self) -> dict[str, Any]:
        """The plan for programs; docs/placement.md says what each key means."""
        return {
            "format": _PLAN_FORMAT,
            "fits": True,
            "build": self.build,
            "complete": self.complete,
            "search_nodes": self.nodes,
            "gpu_memory_share": self.gpu_memory_share,
            "host_memory_share": self.host_memory_share,
            "machine": _machine_json(self.machine),
            "devices": [_use_json(use) for use in self.uses()],
            "host": {
                "memory_bytes": self.machine.host_memory,
                "usable_bytes": self.host_budget,
                "asleep_bytes": self.host_asleep,
            },
            "models": [_model_json(model, self.build) for model in self.models],
            "not_served": [
                {"name": each.name, "entry": each.entry, "reason": each.reason} for each in self.unserved
            ],
        }

    def _use(self, device: Device) -> DeviceUse:
        resident = asleep = 0
        others = [0]
        for model in self.models:
            for worker in model.on(device.index):
                if model.residency == "resident":
                    resident += worker.awake_bytes
                elif model.residency == "warm":
                    asleep += worker.asleep_bytes
                    others.append(worker.awake_bytes - worker.asleep_bytes)
                else:
                    others.append(worker.awake_bytes)
        return DeviceUse(device, self.usable(device), resident, asleep, max(others))


def _machine_json(machine: Machine) -> dict[str, Any]:
    links = [
        {"gpus": list(link.gpus), "kind": link.kind, "label": link.label, "peer_to_peer": link.peer_to_peer}
        for link in machine.links
    ]
    return {"origin": machine.origin, "links": links}


def _use_json(use: DeviceUse) -> Mapping[str, Any]:
    capability = use.device.compute_capability
    return {
        "index": use.device.index,
        "kind": use.device.kind,
        "name": use.device.name,
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "memory_bytes": use.device.memory,
        "usable_bytes": use.usable,
        "resident_bytes": use.resident,
        "asleep_bytes": use.asleep,
        "on_demand_bytes": use.on_demand,
        "free_bytes": use.free,
    }


def _model_json(model: ModelPlan, build: str) -> Mapping[str, Any]:
    return {
        "name": model.name,
        "entry": model.entry,
        "residency": model.residency,
        "gpus": [] if build == "cpu" else list(model.devices),
        "tensor_parallel_size": model.layout.tensor_parallel,
        "pipeline_parallel_size": model.layout.pipeline_parallel,
        "max_model_len": model.context,
        "requests_at_once": model.requests,
        "kv_cache_bytes": model.kv_cache,
        "gpu_memory_utilization": model.gpu_memory_utilization,
        "parameters": model.parameters,
        "weight_bytes": model.weight_bytes,
        "quantization": model.quantization,
        "workers": [
            {
                "device": worker.device,
                "awake_bytes": worker.awake_bytes,
                "asleep_bytes": worker.asleep_bytes,
                "terms": [
                    *(
                        {"name": term.name, "bytes": term.bytes, "source": term.source}
                        for term in worker.fixed
                    ),
                    {"name": "KV cache", "bytes": worker.kv_cache, "source": "the plan"},
                ],
            }
            for worker in model.workers
        ],
        "why": list(model.why),
        "warnings": list(model.warnings),
    }
