"""Engines without a process, a clock that only tests move, and keys."""

import random
from datetime import UTC, datetime
from typing import Any, cast

from prometheus_client import CollectorRegistry

from citadel_llm.config.gateway import Admission, Routing
from citadel_llm.gateway.routing.engine import Engine, seed_of
from citadel_llm.gateway.routing.metrics import QueueMetrics, RoutingMetrics
from citadel_llm.gateway.routing.served import ServedModel
from citadel_llm.store import KeyRecord

MODEL = "chat-model"


class Clock:
    """Simulated time, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def dice(seed: int) -> random.Random:
    """Random numbers, the same in each run."""
    return random.Random(seed)  # noqa: S311 - no secret


def make_engine(clock: Clock, name: str = MODEL, *, capacity: int = 256, **routing: Any) -> Engine:
    engine = Engine(
        name,
        MODEL,
        cast("Any", None),
        Routing(**routing),
        capacity=capacity,
        seeds=[seed_of(f"node/{name}")],
        clock=clock,
    )
    # Without a line in the log, of which hypothesis would make thousands.
    engine.state = "up"
    return engine


def make_engines(clock: Clock, count: int, **options: Any) -> list[Engine]:
    return [make_engine(clock, f"{MODEL}.{number}", **options) for number in range(1, count + 1)]


def queue_metrics() -> tuple[CollectorRegistry, QueueMetrics]:
    registry = CollectorRegistry()
    return registry, RoutingMetrics(registry).queue(MODEL)


def make_model(clock: Clock, engines: list[Engine], *, name: str = MODEL, **admission: Any) -> ServedModel:
    return ServedModel(
        name,
        engines,
        routing=Routing(),
        admission=Admission(**admission),
        clock=clock,
        metrics=queue_metrics()[1],
    )


def make_key(**fields: Any) -> KeyRecord:
    base: dict[str, Any] = {
        "id": "k1",
        "name": "tests",
        "owner": "",
        "prefix": "ck-",
        "hash": "",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return KeyRecord(**{**base, **fields})
