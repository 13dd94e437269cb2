"""Which of several engines gets a request: rendezvous hashing with bounded load, else two random choices.

Rendezvous hashing (Thaler and Ravishankar, 1998): each engine scores the request's affinity, and the highest
score wins. When an engine goes, only what it had moves; when it comes back, only that comes back.

Bounded load (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", 2018): an engine
whose load is more than `load_factor` times the mean gets nothing by affinity. What it would have had goes to
the less loaded of two others (Mitzenmacher, "The power of two choices", 2001).
"""

import random
from collections.abc import Callable, Collection, Sequence
from zlib import crc32

from citadel_llm.gateway.routing.engine import PRIME, Engine

Uniform = Callable[[], float]

SLACK = 2048
"""Load in tokens up to which an engine is as good as idle: until then affinity costs nobody anything."""


def key_of(affinity: bytes) -> int:
    """An affinity as a number below `PRIME`.

    By a CRC, which is quicker than a secure hash: who makes two affinities collide only makes his own
    requests meet in one engine.
    """
    return crc32(affinity) % PRIME


def choose(  # noqa: PLR0917 - called for each request, and by position it is quicker
    engines: Sequence[Engine],
    affinity: bytes,
    tried: Collection[Engine],
    now: float,
    load_factor: float,
    uniform: Uniform = random.random,
) -> Engine | None:
    """The engine that a request goes to; None when there is none.

    Never one that is down, stalled or was tried. One that is ejected, or late with its health check, only
    when no other is left. One that is full only for a request that was tried elsewhere before: it would fail
    otherwise, and the retry budget bounds how many there are.

    Args:
        engines: All engines of the model.
        affinity: What belongs together; empty: nothing.
        tried: Those that failed this request already.
        now: The clock's time.
        load_factor: `gateway.routing.load_factor`.
        uniform: Gives random numbers from 0 to below 1.
    """
    if len(engines) == 1 and not tried:
        # What is so for most models, and is then the same.
        only = engines[0]
        if only.ready_at <= now and only.outstanding < only.limit:
            return only
    ready = [
        engine
        for engine in engines
        if engine.ready_at <= now and engine.outstanding < engine.limit and engine not in tried
    ]
    if not ready:
        ready = _last_resort(engines, tried, now)
    if len(ready) < 2:  # noqa: PLR2004 - nothing to choose from
        return ready[0] if ready else None
    if not affinity:
        return _of_two(ready, uniform)
    key = key_of(affinity)
    load = weight = 0
    highest = -1
    best = ready[0]
    for engine in ready:
        load += engine.load
        weight += engine.weight
        for factor, offset in engine.seeds:
            score = (key * factor + offset) % PRIME
            if score > highest:
                highest, best = score, engine
    bound = load_factor * load / weight + SLACK
    if best.load <= bound * best.weight:
        return best
    # The least loaded is never above the mean, so there is at least one.
    return _of_two([engine for engine in ready if engine.load <= bound * engine.weight], uniform)


def _last_resort(engines: Sequence[Engine], tried: Collection[Engine], now: float) -> list[Engine]:
    """Whom to ask when nobody is ready and has room."""
    usable = [engine for engine in engines if engine.usable and engine not in tried]
    ready = [engine for engine in usable if engine.ready_at <= now]
    if ready:
        return ready if tried else []
    return [engine for engine in usable if tried or engine.outstanding < engine.limit]


def _of_two(engines: Sequence[Engine], uniform: Uniform) -> Engine:
    """The less loaded of two that are drawn."""
    count = len(engines)
    if count == 1:
        return engines[0]
    first = int(uniform() * count)
    second = int(uniform() * (count - 1))
    if second >= first:
        second += 1
    one, other = engines[first], engines[second]
    return one if one.load * other.weight <= other.load * one.weight else other
