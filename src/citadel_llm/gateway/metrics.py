"""The gateway's own metrics, in a registry that belongs to the app; docs/api.md lists them.

Labels are bounded: a model is one of the catalogue or empty, a route one of the API's or `unmatched`. What
clients send never becomes a label.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from citadel_llm import __version__
from citadel_llm.gateway.call import Call

_FIRST_BYTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_DURATION_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

_UNMATCHED = "unmatched"


class GatewayMetrics:
    """All metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.build = Info("citadel_gateway_build", "The gateway that runs.", registry=registry)
        self.build.info({"version": __version__})
        self.requests = Counter(
            "citadel_gateway_requests",
            "Requests answered; status 499 is a client that hung up first.",
            ["model", "route", "status"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "citadel_gateway_requests_in_flight",
            "Requests that engines are working on for the gateway.",
            ["model"],
            registry=registry,
        )
        self.first_byte = Histogram(
            "citadel_gateway_first_byte_seconds",
            "From the request's arrival to the first byte of the answer's body.",
            ["model", "route"],
            buckets=_FIRST_BYTE_BUCKETS,
            registry=registry,
        )
        self.duration = Histogram(
            "citadel_gateway_request_duration_seconds",
            "From the request's arrival to the end of the answer.",
            ["model", "route"],
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.upstream_errors = Counter(
            "citadel_gateway_upstream_errors",
            "Requests that failed because of an engine, by the error's code.",
            ["model", "code"],
            registry=registry,
        )
        self.engine_up = Gauge(
            "citadel_gateway_engine_up",
            "Whether the model's engine answers its health check (1) or not (0).",
            ["model"],
            registry=registry,
        )
        self.engine_scrape_errors = Counter(
            "citadel_gateway_engine_scrape_errors",
            "Engine metrics that are missing from an answer of /metrics.",
            ["model"],
            registry=registry,
        )
        self.keys_known = Gauge(
            "citadel_gateway_keys_known", "API keys that are accepted now.", registry=registry
        )
        self.keys_read = Gauge(
            "citadel_gateway_keys_read_timestamp_seconds",
            "When the keys were last read from the database, in Unix time; 0 before the first time.",
            registry=registry,
        )
        self.key_read_errors = Counter(
            "citadel_gateway_key_read_errors", "Readings of the keys that failed.", registry=registry
        )

    def collect(self) -> list[Metric]:
        """What /metrics shows, without the creation time of each sample, which nobody reads."""
        families = list(self.registry.collect())
        for family in families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        return families

    def count(self, call: Call, *, status: int, first_byte: float | None, duration: float) -> None:
        """Count a request that has ended; times in seconds, `first_byte` None when there was none."""
        route = call.route or _UNMATCHED
        self.requests.labels(call.model, route, str(status)).inc()
        self.duration.labels(call.model, route).observe(duration)
        if first_byte is not None:
            self.first_byte.labels(call.model, route).observe(first_byte)
