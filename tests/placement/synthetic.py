"""Needs of memory written down, as input for the planner: what real models need, others test."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from citadel_llm.config.schema import Model, Placement
from citadel_llm.placement.devices import Link, Machine
from citadel_llm.placement.options import Wish
from citadel_llm.placement.plan import Plan
from citadel_llm.placement.planner import make_plan
from citadel_llm.placement.terms import GIB, Device, KvCost, Layout, RankNeed, Term

SHARE = Placement()


@dataclass(frozen=True)
class PerToken:
    """So many bytes a token, in blocks of sixteen."""

    token: int

    def bytes_for(self, context: int, sequences: int = 1) -> int:
        return -(-context // 16) * 16 * self.token * sequences


@dataclass(frozen=True)
class Need:
    """A model of so many bytes of weights, dealt out evenly, with the same overhead on each device."""

    name: str
    weight_bytes: int
    overhead: int = GIB
    rest: int = GIB // 2
    token: int = 1 << 17
    max_context: int = 32768
    quantization: str = "bf16"
    parameters: int = 1
    possible: Mapping[int, tuple[tuple[int, int], ...]] | None = None

    def layouts(self, devices: int) -> tuple[Layout, ...]:
        if self.possible is not None:
            return tuple(Layout(*each) for each in self.possible.get(devices, ()))
        whole = [each for each in range(1, devices + 1) if devices % each == 0]
        return tuple(Layout(tensor, devices // tensor) for tensor in whole)

    def on(self, layout: Layout, device: Device) -> tuple[RankNeed, ...]:
        share = -(-self.weight_bytes // layout.devices)
        fixed = (Term("weights", share, "test"), Term("activation", self.overhead, "test"))
        kv: KvCost = PerToken(-(-self.token // layout.devices))
        return (RankNeed(fixed, (Term("runtime", self.rest, "test"),), kv),) * layout.devices


def wish(name: str, gib: float, at: int = 0, engine: dict[str, Any] | None = None, **more: Any) -> Wish:
    """A model of so many GiB; what is no need goes into its entry in the catalogue."""
    needs = {key: more.pop(key) for key in tuple(more) if key in Need.__dataclass_fields__}
    source = {"kind": "folder", "path": f"/m/{name}"}
    model = Model.model_validate({"name": name, "source": source, "engine": engine or {}, **more})
    return Wish(model, Need(name, int(gib * GIB), **needs), f"models[{at}]")


def wishes(*pairs: tuple[str, float] | tuple[str, float, dict[str, Any]]) -> list[Wish]:
    """Several, each with its place in the catalogue."""
    return [wish(each[0], each[1], at, **(each[2] if len(each) > 2 else {})) for at, each in enumerate(pairs)]


def gpus(*sizes: float, links: tuple[Link, ...] = (), host: float = 256) -> Machine:
    """GPUs of so many GiB."""
    devices = tuple(
        Device("cuda", at, f"G{size:g}", int(size * GIB), (12, 0)) for at, size in enumerate(sizes)
    )
    return Machine(devices, links, int(host * GIB), "a test")


def plan(machine: Machine, *pairs: Any) -> Plan:
    return make_plan(SHARE, "cuda", machine, wishes(*pairs))
