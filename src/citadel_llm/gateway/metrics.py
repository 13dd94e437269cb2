"""The gateway's own metrics, in a registry that belongs to the app; docs/api.md lists them.

Labels are bounded: a model is one of the catalogue or empty, a route one of the API's or `unmatched`. What
clients send never becomes a label.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, Metric, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from citadel_llm import __version__
from citadel_llm.gateway.tallies import Tallies


class GatewayMetrics(Collector):
    """All metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.build = Info("citadel_gateway_build", "The gateway that runs.", registry=registry)
        self.build.info({"version": __version__})
        self.tallies = Tallies(registry)
        self.in_flight = Gauge(
            "citadel_gateway_requests_in_flight",
            "Requests that engines are working on for the gateway.",
            ["model"],
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

    def page(self) -> bytes:
        """Them as text, in Prometheus' format."""
        return generate_latest(self)
