"""The limits' metrics; docs/limits.md lists them. No label names a key."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from citadel_llm.gateway.limits.windows import KINDS


class LimitMetrics:
    """Metrics of the limits.

    Args:
        registry: Where they are shown.
        shared: Whether several gateways count together: the store's metrics exist only then.
    """

    def __init__(self, registry: CollectorRegistry, *, shared: bool) -> None:
        refusals = Counter(
            "citadel_gateway_limit_refusals",
            "Requests refused because of a limit of their key.",
            ["limit"],
            registry=registry,
        )
        self.refusals = {kind: refusals.labels(kind.name) for kind in KINDS}
        self.keys = Gauge(
            "citadel_gateway_limit_keys", "Keys whose use is kept in memory.", registry=registry
        )
        where = registry if shared else None
        self.store_up = Gauge(
            "citadel_gateway_limit_store_up",
            "Whether the gateways count together (1) or this one limits by itself (0).",
            registry=where,
        )
        self.gateways = Gauge(
            "citadel_gateway_limit_gateways", "Gateways that count together, as last seen.", registry=where
        )
        self.exchanges = Counter(
            "citadel_gateway_limit_store_exchanges", "Exchanges with the limits' store.", registry=where
        )
