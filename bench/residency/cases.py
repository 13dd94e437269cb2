"""The two hosts of the simulation, each with its models and an hour of requests."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.residency.simulation import Arrival
from bench.residency.traces import trace
from citadel_llm.residency.holding import Costs, Demand, Footprint, Holding

GIB = 1 << 30
# From so many GiB on a model is laid over two GPUs; what a model holds beside its weights; who can sleep.
_LARGE_GIB, _BESIDE, _SLEEPERS = 40, 1.3, 0.6
_HOUR = 3600.0


@dataclass(frozen=True)
class Host:
    """What is simulated.

    Attributes:
        devices: Bytes of each GPU for models on demand.
        host_bytes: Bytes of the host's memory for sleepers.
        models: All cold.
        arrivals: What is asked for.
    """

    devices: dict[int, int]
    host_bytes: int
    models: list[Holding]
    arrivals: list[Arrival] = field(repr=False)


def three_models(seed: int) -> Host:
    """Three models that start in 40 seconds and cannot sleep; room for two; a request every five seconds."""
    names = ["a", "b", "c"]
    models = [Holding(name, Footprint({0: 10 * GIB}), Costs(40, 40), Demand(300)) for name in names]
    return Host({0: 24 * GIB}, 0, models, trace(names, 0.2, _HOUR, 6, seed))


def fifty_models(seed: int) -> Host:
    """Fifty models of 8 to 70 GiB on eight GPUs of 80 GB, most of which can sleep; two requests a second."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    names = [f"model-{number}" for number in range(50)]
    models = []
    for name in names:
        gib = draw.choice((8, 16, 16, 30, 40, 70))
        gpus = draw.sample(range(8), 2) if gib >= _LARGE_GIB else [draw.randrange(8)]
        awake = {gpu: int(gib / len(gpus) * _BESIDE * GIB) for gpu in gpus}
        asleep = dict.fromkeys(gpus, GIB) if draw.random() < _SLEEPERS else {}
        footprint = Footprint(awake, asleep, gib * GIB if asleep else None)
        models.append(Holding(name, footprint, Costs(20 + gib, 1 + gib / 20), Demand(300)))
    return Host(dict.fromkeys(range(8), 75 * GIB), 512 * GIB, models, trace(names, 2, _HOUR, 6, seed))


CASES: dict[str, tuple[str, Callable[[int], Host]]] = {
    "three": ("3 models, room for 2", three_models),
    "fifty": ("50 models, 8 GPUs", fifty_models),
}
