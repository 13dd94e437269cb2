"""The words that the arithmetic and the search share. All memory is in bytes."""

from dataclasses import dataclass
from typing import Literal, Protocol

GIB = 1024**3
MIB = 1024**2

TermName = Literal["weights", "KV cache", "activation", "CUDA graphs", "communication", "runtime"]


@dataclass(frozen=True)
class Term:
    """One part of what an engine needs on one device.

    Attributes:
        name: What it is. `runtime` is what a process holds outside PyTorch's allocator (CUDA's context, its
            libraries), or, on a CPU, the process itself.
        bytes: How much.
        source: Where the number comes from, for people.
    """

    name: TermName
    bytes: int
    source: str


@dataclass(frozen=True, order=True)
class Layout:
    """Over how many devices a model is laid: each layer split over some, the layers dealt out over others."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1

    @property
    def devices(self) -> int:
        """How many devices that takes."""
        return self.tensor_parallel * self.pipeline_parallel


@dataclass(frozen=True)
class Device:
    """What holds an engine: a GPU, or the host's own memory for the CPU build.

    Attributes:
        kind: Which of them.
        index: The GPU's number in the order of the PCI bus, as `nvidia-smi` counts; 0 for the host.
        name: As the driver names it, such as `NVIDIA GeForce RTX 5060 Ti`.
        memory: Its memory in bytes.
        compute_capability: Such as (12, 0); none for the host, or when it is not known.
    """

    kind: Literal["cuda", "cpu"]
    index: int
    name: str
    memory: int
    compute_capability: tuple[int, int] | None = None


class KvCost(Protocol):
    """What the KV cache costs on one device. It never falls when context or sequences grow."""

    def bytes_for(self, context: int, sequences: int = 1) -> int:
        """What so many sequences of so many tokens take, in whole blocks."""
        ...


@dataclass(frozen=True)
class RankNeed:
    """What one worker of an engine needs on its device.

    Attributes:
        fixed: All but the KV cache, when awake.
        asleep: What stays on the device while the model sleeps (vLLM's level 1).
        kv: The KV cache.
    """

    fixed: tuple[Term, ...]
    asleep: tuple[Term, ...]
    kv: KvCost

    @property
    def fixed_bytes(self) -> int:
        """The sum of the fixed terms."""
        return sum(term.bytes for term in self.fixed)

    @property
    def asleep_bytes(self) -> int:
        """The sum of what stays while it sleeps."""
        return sum(term.bytes for term in self.asleep)


class ModelMemory(Protocol):
    """A model's need of memory, ready to be asked for any layout and device."""

    @property
    def name(self) -> str:
        """The model's name in the catalogue."""
        ...

    @property
    def parameters(self) -> int:
        """How many parameters it has."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Its weights, all devices together, each stored once; also what it takes in host memory asleep."""
        ...

    @property
    def quantization(self) -> str:
        """How the weights are stored, such as bf16, fp8, awq, gptq."""
        ...

    @property
    def max_context(self) -> int:
        """The longest context that it was made for, in tokens."""
        ...

    def layouts(self, devices: int) -> tuple[Layout, ...]:
        """The layouts over exactly so many devices that its shape allows, in no order of preference."""
        ...

    def on(self, layout: Layout, device: Device) -> tuple[RankNeed, ...]:
        """What each worker needs; worker `p * tensor_parallel + t` holds stage p's part t."""
        ...


class PlacementError(Exception):
    """A model or a wish that cannot be planned with.

    Args:
        entry: What to change, such as `models[2].architecture.hidden_size` or a file's path.
        message: What is wrong with it, with the value.
        remedy: What would do.
    """

    def __init__(self, entry: str, message: str, remedy: str) -> None:
        super().__init__(f"{entry}: {message}; {remedy}")
        self.entry = entry
        self.message = message
        self.remedy = remedy
