"""The routing's metrics; docs/routing.md lists them. Models and engines are those of the configuration.

What can be read off the engines is read when somebody asks for the metrics: it costs no request anything.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from citadel_llm.residency.messages import STATES

if TYPE_CHECKING:
    from citadel_llm.gateway.routing.engine import Engine
    from citadel_llm.gateway.routing.retries import RetryBudget
    from citadel_llm.gateway.routing.served import ServedModel

_WAIT_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_CONDITIONS = ("up", "unknown", "down", "ejected", "suspect", "stalled", "asleep")


class QueueMetrics:
    """The metrics of one model's queue."""

    def __init__(self, wait: Histogram, refusals: Counter, model: str) -> None:
        self._wait = wait.labels(model)
        self._refusals = {reason: refusals.labels(model, reason) for reason in ("full", "deadline")}

    def waited(self, seconds: float) -> None:
        """A request has had its turn."""
        self._wait.observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused: `full` or `deadline`."""
        self._refusals[reason].inc()


class RoutingMetrics(Collector):
    """All metrics of engines, queues and retries.

    Args:
        registry: Where they are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._wait = Histogram(
            "citadel_gateway_queue_wait_seconds",
            "How long requests waited that had to wait for their turn.",
            ["model"],
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._refusals = Counter(
            "citadel_gateway_queue_refusals",
            "Requests refused by the queue: it was full, or their deadline had come.",
            ["model", "reason"],
            registry=registry,
        )
        self._engines: Callable[[], Iterable[Engine]] = tuple
        self._models: Callable[[], Iterable[ServedModel]] = tuple
        self._retries: RetryBudget | None = None
        registry.register(self)

    def queue(self, model: str) -> QueueMetrics:
        """The metrics of a model's queue."""
        return QueueMetrics(self._wait, self._refusals, model)

    def show(
        self,
        engines: Callable[[], Iterable["Engine"]],
        models: Callable[[], Iterable["ServedModel"]],
        retries: "RetryBudget",
    ) -> None:
        """Show these from now on."""
        self._engines, self._models, self._retries = engines, models, retries

    def collect(self) -> Iterator[Metric]:
        """Read everything off."""
        yield from self._of_engines()
        length = GaugeMetricFamily(
            "citadel_gateway_queue_requests", "Requests that wait for their turn.", labels=["model"]
        )
        for model in self._models():
            length.add_metric([model.name], model.waiting)
        yield length
        yield from self._on_demand()
        retries = CounterMetricFamily(
            "citadel_gateway_retries",
            "Requests that failed before their answer began: sent again, or refused by the retry budget.",
            labels=["outcome"],
        )
        if self._retries is not None:
            retries.add_metric(["sent"], self._retries.allowed)
            retries.add_metric(["refused"], self._retries.refused)
        yield retries

    def _on_demand(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "citadel_gateway_model_state",
            "1 for the state that the manager says the model on demand is in.",
            labels=["model", "state"],
        )
        loads = CounterMetricFamily(
            "citadel_gateway_model_loads", "Times that the model on demand was brought up.", labels=["model"]
        )
        for model in self._models():
            if model.residence is not None:
                for each in STATES:
                    state.add_metric([model.name, each], model.residence.state == each)
                loads.add_metric([model.name], model.residence.loads)
        yield from (state, loads)

    def _of_engines(self) -> Iterator[Metric]:
        names = ["model", "engine"]
        state = GaugeMetricFamily(
            "citadel_gateway_engine_state", "1 for the state that the engine is in.", labels=[*names, "state"]
        )
        requests = GaugeMetricFamily(
            "citadel_gateway_engine_requests",
            "Requests of this gateway that the engine has in hand.",
            labels=names,
        )
        tokens = GaugeMetricFamily(
            "citadel_gateway_engine_tokens",
            "Prompt tokens of the requests that the engine has in hand, as estimated.",
            labels=names,
        )
        ejections = CounterMetricFamily(
            "citadel_gateway_ejections",
            "Times that the engine was taken out because requests failed or made no progress.",
            labels=names,
        )
        for engine in self._engines():
            labels = [engine.model, engine.id]
            for condition in _CONDITIONS:
                state.add_metric([*labels, condition], engine.condition == condition)
            requests.add_metric(labels, engine.outstanding)
            tokens.add_metric(labels, engine.outstanding_tokens)
            ejections.add_metric(labels, engine.ejections)
        yield from (state, requests, tokens, ejections)
