"""What engines took when they really ran: kept on their host, and used by the next plan."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from citadel_llm.config import Model
from citadel_llm.placement.numbers import Numbers
from citadel_llm.placement.options import Wish
from citadel_llm.placement.terms import Device, Layout, ModelMemory, RankNeed, Term, TermName

FORMAT = 1


@dataclass(frozen=True)
class Measurement:
    """What one start of an engine showed. Memory is in bytes, of the worker that took the most.

    Attributes:
        model: The model's name.
        variant: What else its memory depends on; see `variant_of`.
        device: What it ran on, as the driver names it, or `cpu`.
        tensor_parallel_size: Into how many devices each layer was split.
        pipeline_parallel_size: Over how many devices the layers were laid out.
        vllm: The version of vLLM.
        weights: What its weights took; none when its log did not say.
        cuda_graphs: What CUDA graphs took; none without them.
        kv_cache: Its KV cache.
        kv_cache_tokens: How many tokens that holds; none when its log did not say.
        total: All that its processes held on the device; on the CPU build, of the host's memory.
    """

    model: str
    variant: str
    device: str
    tensor_parallel_size: int
    pipeline_parallel_size: int
    vllm: str
    weights: int | None = None
    cuda_graphs: int | None = None
    kv_cache: int | None = None
    kv_cache_tokens: int | None = None
    total: int | None = None

    @property
    def layout(self) -> Layout:
        """How it was laid out."""
        return Layout(self.tensor_parallel_size, self.pipeline_parallel_size)

    def fits(self, layout: Layout, device: Device) -> bool:
        """Whether it was made with this layout on such a device."""
        return self.layout == layout and self.device == ("cpu" if device.kind == "cpu" else device.name)

    def dump(self) -> str:
        """Write it down, with the format's number."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def parse(cls, text: str) -> "Measurement | None":
        """Read what `dump` wrote; none when it is something else: the next start measures again."""
        try:
            tree = json.loads(text)
            if tree.pop("format") != FORMAT or set(tree) != {field.name for field in fields(cls)}:
                return None
            return cls(**tree)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def variant_of(model: Model) -> str:
    """What of a catalogue's entry changes the memory that its engine takes, as one line of JSON."""
    engine = model.engine
    parts: dict[str, Any] = {
        "source": model.source.model_dump(mode="json"),
        "dtype": engine.dtype,
        "quantization": engine.quantization,
        "kv_cache_dtype": engine.kv_cache_dtype,
        "enforce_eager": engine.enforce_eager,
        "extra_args": list(engine.extra_args),
    }
    return json.dumps(parts, sort_keys=True)


@dataclass(frozen=True)
class Calibrated:
    """A model's need of memory, with what was measured in place of what was estimated.

    Attributes:
        estimate: The estimate.
        measured: What was measured, for layouts and devices that it knows.
    """

    estimate: ModelMemory
    measured: tuple[Measurement, ...]

    @property
    def name(self) -> str:
        """The model's name in the catalogue."""
        return self.estimate.name

    @property
    def parameters(self) -> int:
        """How many parameters it has."""
        return self.estimate.parameters

    @property
    def weight_bytes(self) -> int:
        """Its weights, all devices together."""
        return self.estimate.weight_bytes

    @property
    def quantization(self) -> str:
        """How the weights are stored."""
        return self.estimate.quantization

    @property
    def max_context(self) -> int:
        """The longest context that it was made for, in tokens."""
        return self.estimate.max_context

    def layouts(self, devices: int) -> tuple[Layout, ...]:
        """The layouts over exactly so many devices that its shape allows."""
        return self.estimate.layouts(devices)

    def on(self, layout: Layout, device: Device) -> tuple[RankNeed, ...]:
        """What each worker needs: measured where this layout ran on such a device."""
        needs = self.estimate.on(layout, device)
        found = next((each for each in self.measured if each.fits(layout, device)), None)
        return needs if found is None else tuple(_calibrate(need, found) for need in needs)


def calibrate(
    wishes: Iterable[Wish],
    measured: Iterable[Measurement],
    build: Literal["cuda", "cpu"],
    vllm: str | None = None,
) -> list[Wish]:
    """The wishes with what was measured for them, also where a refusal tries them otherwise.

    Args:
        wishes: The models.
        measured: What the host's engines have measured.
        build: The engine's build.
        vllm: The version that will run; measurements of another do not count. Any, when absent.
    """
    known = [each for each in measured if vllm in (None, each.vllm)]

    def calibrated(wish: Wish) -> Wish:
        def remake(model: Model, numbers: Numbers) -> ModelMemory:
            return _with(wish.remade(model, numbers, build), model, known)

        if wish.memory is None:
            return wish
        return replace(wish, memory=_with(wish.memory, wish.model, known), remake=remake)

    return [calibrated(wish) for wish in wishes]


def measurements_of(model: Model, known: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Those of one model as its entry describes it."""
    variant = variant_of(model)
    return tuple(each for each in known if (each.model, each.variant) == (model.name, variant))


def _with(estimate: ModelMemory, model: Model, known: Iterable[Measurement]) -> ModelMemory:
    mine = measurements_of(model, known)
    return Calibrated(estimate, mine) if mine else estimate


def _calibrate(need: RankNeed, measured: Measurement) -> RankNeed:
    source = f"measured on this host with vLLM {measured.vllm}"
    found: dict[TermName, int | None] = {"weights": measured.weights, "CUDA graphs": measured.cuda_graphs}
    fixed = []
    for term in need.fixed:
        size = found.get(term.name)
        fixed.append(term if size is None else Term(term.name, size, source))
    if measured.total is not None and measured.kv_cache is not None:
        fixed = _filled_up(fixed, measured.total - measured.kv_cache, source)
    return replace(need, fixed=tuple(fixed))


def _filled_up(fixed: list[Term], total: int, source: str) -> list[Term]:
    """The terms with `runtime` raised to what was measured in all.

    It is never lowered: what an engine held when it had just started is not the most that it will ever hold.
    """
    rest = total - sum(term.bytes for term in fixed if term.name != "runtime")
    return [
        Term("runtime", rest, source) if term.name == "runtime" and rest > term.bytes else term
        for term in fixed
    ]
