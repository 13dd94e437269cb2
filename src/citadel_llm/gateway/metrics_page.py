"""/metrics: the gateway's own metrics and those of every engine, on one page.

The engines listen on unix sockets, which Prometheus cannot reach; the gateway fetches their metrics when it
is asked for its own and gives each sample the label `engine` with the model's name. vLLM has a label of that
name already (the index of the engine core); it becomes `exported_engine`, as Prometheus itself would do it.

Where the gateway has several workers, the one that is asked fetches the others' metrics and gives each sample
the label `worker`: a sum could not tell a worker that began anew at zero from a counter that was reset.
"""

import asyncio
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from citadel_llm.gateway.errors import EngineError, NotAllowedError
from citadel_llm.gateway.routing import Engine
from citadel_llm.gateway.state import State, state_of

_log = structlog.get_logger("citadel.gateway.metrics")

WORKER_UP = "citadel_gateway_worker_up"
"""The metric that the page adds where there are several workers."""

# Below Prometheus' own limit of 10 s: one hanging engine must not cost the whole page.
_TIMEOUT = 4.0
_OK = 200

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

router = APIRouter(tags=["Health"])


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """The gateway's metrics, and each engine's with the label `engine`; only for the allowed addresses.

    Where there are several workers, each one's have the label `worker`.
    """
    state = state_of(request.scope)
    allowed = state["settings"].gateway.metrics_allow
    if not _is_allowed(request.client.host if request.client else "", allowed):
        raise NotAllowedError("This address may not read the metrics (gateway.metrics_allow).")
    # Those behind a peer are on that peer's own page.
    engines = [engine for engine in state["engines"] if engine.state != "down" and not engine.remote]
    workers = asyncio.create_task(state["workers"].pages())
    pages = await asyncio.gather(*(_fetch(engine, state) for engine in engines))
    # Parsing takes tens of milliseconds a page, too long to keep streams waiting.
    text = await asyncio.to_thread(_render, state, list(zip(engines, pages, strict=True)), await workers)
    return PlainTextResponse(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _is_allowed(host: str, networks: Iterable[Network]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # An IPv4 client of a socket that listens on both comes as ::ffff:192.0.2.1.
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks)


async def _fetch(engine: Engine, state: State) -> str:
    """The engine's page; empty when it does not come, which only that engine's part suffers from."""
    try:
        status, body = await engine.client.get("/metrics", within=_TIMEOUT)
    except EngineError as error:
        return _missing(engine, state, type(error).__name__)
    return body.decode("utf-8", "replace") if status == _OK else _missing(engine, state, f"HTTP {status}")


def _missing(engine: Engine, state: State, reason: str) -> str:
    state["metrics"].engine_scrape_errors.labels(engine.model).inc()
    _log.warning("an engine's metrics are missing", engine=engine.id, reason=reason)
    return ""


def _render(state: State, pages: Sequence[tuple[Engine, str]], others: Mapping[int, str | None]) -> bytes:
    families: list[Metric] = []
    for engine, page in pages:
        try:
            families += _labelled("engine", engine.id, page)
        except ValueError as error:
            _missing(engine, state, f"not in Prometheus' format: {type(error).__name__}")
    own = _of_workers(state, others) if others else state["metrics"].collect()
    return generate_latest(_Families([*own, *families]))


def _of_workers(state: State, others: Mapping[int, str | None]) -> list[Metric]:
    """The metrics of this worker and the others, and which of them answered."""
    up = GaugeMetricFamily(
        WORKER_UP, "Whether the worker told its metrics (1) or not (0).", labels=["worker"]
    )
    families: list[Metric] = [up]
    pages = {state["workers"].number: state["metrics"].page().decode(), **others}
    for number, page in sorted(pages.items()):
        if page is None:
            _log.warning("a worker's metrics are missing", worker=number)
        else:
            families += _labelled("worker", str(number), page)
        up.add_metric([str(number)], page is not None)
    return families


def _labelled(label: str, name: str, page: str) -> list[Metric]:
    """The metric families of a page, with a name as a label; one of its own that is called so gives way."""

    def with_name(labels: dict[str, str]) -> dict[str, str]:
        moved = {f"exported_{known}" if known == label else known: value for known, value in labels.items()}
        return {**moved, label: name}

    families = list(text_string_to_metric_families(page))
    for family in families:
        family.samples = [sample._replace(labels=with_name(sample.labels)) for sample in family.samples]
    return families


class _Families(Collector):
    """Metric families from several sources, each name once: its help and type may stand only once."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families: dict[str, Metric] = {}
        for family in families:
            known = self._families.setdefault(family.name, family)
            # Samples of another type under the same name would make the page unreadable.
            if known is not family and known.type == family.type:
                known.samples.extend(family.samples)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families.values())
