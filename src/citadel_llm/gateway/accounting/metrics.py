"""What the accounting says of itself; docs/accounting.md lists it."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class AccountingMetrics:
    """The accounting's metrics.

    Args:
        registry: Where they are shown.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        records = Counter(
            "citadel_gateway_usage_records",
            "Requests whose use stands in the database, by whether their tokens are estimated.",
            ["estimated"],
            registry=registry,
        )
        self.counted = records.labels("false")
        self.estimated = records.labels("true")
        self.lost = Counter(
            "citadel_gateway_usage_lost",
            "Requests whose use could not be noted: no room on disk, nor in the memory set aside for it.",
            registry=registry,
        )
        self.damaged = Counter(
            "citadel_gateway_usage_damaged",
            "Places in the spool that could not be read.",
            registry=registry,
        )
        self.held = Gauge(
            "citadel_gateway_usage_held_bytes",
            "Records that wait in memory, because the spool has no room for them.",
            registry=registry,
        )
        self.spool = Gauge(
            "citadel_gateway_usage_spool_bytes",
            "What the spool takes on disk, the room set aside for the next records among it.",
            registry=registry,
        )
        self.undelivered = Gauge(
            "citadel_gateway_usage_undelivered_bytes",
            "Records of this process in the spool that the database does not have yet.",
            registry=registry,
        )
        self.errors = Counter(
            "citadel_gateway_usage_delivery_errors",
            "Times that records could not be brought to the database; they are kept, and it is tried again.",
            registry=registry,
        )
        self.delivered = Gauge(
            "citadel_gateway_usage_delivered_timestamp_seconds",
            "When the database last had all that the spool held, in Unix time; 0 before the first time.",
            registry=registry,
        )
