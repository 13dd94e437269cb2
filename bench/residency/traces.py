"""Requests as they come to shared models: in bursts, and most of them for few models.

The shape is that of BurstGPT (Wang et al., "BurstGPT: A Real-World Workload Dataset to Optimize LLM Serving
Systems", KDD 2025), whose conversations come with Gamma-distributed gaps of a shape well below 1. How the
models share the requests is Zipf's law; how long an answer takes is log-normal. Everything is drawn from a
seed: the same seed, the same trace.
"""

import random
from collections.abc import Sequence

from bench.residency.simulation import Arrival

# A gap's shape: 1 would be Poisson's; the smaller, the burstier.
_SHAPE = 0.25
_LONGEST_ANSWER_SECONDS = 120.0


def trace(
    models: Sequence[str], requests_per_second: float, seconds: float, answer_seconds: float, seed: int
) -> list[Arrival]:
    """The requests of some time, in no order.

    Args:
        models: Their names, the most wanted first: the second is wanted half as often, the third a third.
        requests_per_second: For all models together.
        seconds: How long it lasts.
        answer_seconds: How long an answer takes on average.
        seed: Of the random numbers.
    """
    draw = random.Random(seed)  # noqa: S311 - no secret
    weights = [1 / place for place in range(1, len(models) + 1)]
    # The mean of a log-normal distribution whose logarithm has mean 0 and deviation 1.
    scale = answer_seconds / 2.718281828**0.5
    arrivals = []
    for model, weight in zip(models, weights, strict=True):
        rate = requests_per_second * weight / sum(weights)
        at = draw.random() / rate
        while at < seconds:
            answer = min(_LONGEST_ANSWER_SECONDS, draw.lognormvariate(0, 1) * scale)
            arrivals.append(Arrival(at, model, answer))
            at += draw.gammavariate(_SHAPE, 1 / (rate * _SHAPE))
    return arrivals
