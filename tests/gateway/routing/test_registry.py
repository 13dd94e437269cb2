"""The registry with real HTTP behind it: engines on unix sockets, and the gateway of another node."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from citadel_llm.config import Settings
from citadel_llm.gateway.errors import EngineDownError, ModelNotFoundError
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.gateway.routing import EngineRegistry
from citadel_llm.gateway.routing.watch import EngineWatch
from citadel_llm.gateway.routing.wire_format import PeerEngine, PeerState

from ..fake_engine import FakeEngine
from .parts import MODEL, Clock, make_key

PEER_KEY = "ck-peer"


def make_settings(folder: Path, *, replicas: int = 1, **gateway: Any) -> Settings:
    (folder / "engines").mkdir(exist_ok=True)
    (folder / "peer.key").write_text(PEER_KEY + "\n")
    source = {"kind": "folder", "path": "/srv/weights"}
    model = {"name": MODEL, "source": source, "aliases": ["gpt"], "engine": {"replicas": replicas}}
    base = {"environment": "development", "run_dir": folder, "engine": {"build": "cpu"}, "models": [model]}
    return Settings.model_validate({**base, "gateway": gateway})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a process outside makes it true
            await asyncio.sleep(0.01)


@pytest.fixture
async def engines(tmp_path: Path) -> AsyncIterator[list[FakeEngine]]:
    settings = make_settings(tmp_path, replicas=2)
    fakes = [FakeEngine(MODEL, each.socket) for each in settings.engines]
    for fake in fakes:
        await fake.start()
    yield fakes
    for fake in fakes:
        await fake.stop()


async def test_replicas_are_found_well_and_one_that_goes_is_out_at_once(
    tmp_path: Path, engines: list[FakeEngine]
) -> None:
    registry = EngineRegistry(make_settings(tmp_path, replicas=2), GatewayMetrics())
    async with registry.running():
        # Known before the first request may come.
        first, second = registry
        assert [(each.id, each.condition) for each in registry] == [(MODEL, "up"), (f"{MODEL}.2", "up")]
        [model] = registry.route("gpt", make_key())
        # Its supervisor removes the socket before it has the engine stop: no connection needs to fail.
        second_socket = engines[1].socket
        away = second_socket.rename(f"{second_socket}.away")
        registry.sweep(0)
        assert (second.state, second.usable) == ("down", False)
        assert all(model.choose(b"%d" % number, ()) is first for number in range(50))
        away.rename(second_socket)
        engines[0].health = 503
        await until(lambda: (first.state, second.condition) == ("down", "up"))
        assert first.reason == "its health check says 503"
        assert model.state == "up"


async def test_its_own_counters_show_progress_where_answers_show_none(
    tmp_path: Path, engines: list[FakeEngine]
) -> None:
    clock = Clock()
    registry = EngineRegistry(make_settings(tmp_path, replicas=2), GatewayMetrics(), clock=clock)
    engine = next(iter(registry))
    watch = EngineWatch(engine, engines[0].socket, 30, clock)
    async with registry.running():
        engine.began(10)
        began = clock()
        for number in range(3):
            # A long answer that is no stream: nothing comes, but vLLM counts its tokens.
            engines[0].metrics = engines[0].metrics.replace(f"{1234 + number}.0", f"{1234 + number + 1}.0")
            clock.now += 10
            await watch.check()
            registry.sweep(clock())
        assert engine.last_progress == clock() > began
        clock.now += 31
        await watch.check()
        registry.sweep(clock())
        assert engine.condition == "stalled"


class PeerGateway:
    """The gateway of another node, as far as a registry sees it."""

    def __init__(self) -> None:
        self.state = PeerState("node-2", ())
        self.status = 200
        self.keys: list[str] = []
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/internal/engines", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        yield
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers["authorization"])
        return web.Response(status=self.status, body=msgspec.json.encode(self.state))


def told(engine_id: str, **fields: Any) -> PeerEngine:
    base: dict[str, Any] = {
        "model": MODEL,
        "task": "generate",
        "max_model_len": 4096,
        "aliases": (),
        "state": "up",
        "outstanding": 0,
        "outstanding_tokens": 0,
        "load": 0,
    }
    return PeerEngine(id=engine_id, **{**base, **fields})


async def test_a_peers_engines_come_go_and_return_with_their_gateway(tmp_path: Path) -> None:
    peer = PeerGateway()
    rerank = told("rerank", model="rerank", task="score", aliases=("ranker",), max_model_len=512)
    peer.state = PeerState("node-2", (told(MODEL), told(f"{MODEL}.2", outstanding=3, load=900), rerank))
    async with peer.running():
        url = f"http://127.0.0.1:{peer.port}"
        settings = make_settings(
            tmp_path,
            peers=[{"name": "node-2", "url": url, "models": [MODEL, "rerank"]}],
            peer_key={"file": str(tmp_path / "peer.key")},
        )
        registry = EngineRegistry(settings, GatewayMetrics(), node="node-1")
        [watch] = registry._peer_watches
        async with registry.running():
            here, there, ranking = registry
            assert [each.id for each in registry] == [MODEL, f"node-2/{MODEL}", "node-2/rerank"]
            assert (here.condition, there.condition, ranking.condition) == ("down", "up", "up")
            assert (there.weight, there.load, there.limit) == (2, 900, 509)
            assert peer.keys[0] == f"Bearer {PEER_KEY}"

            [model] = registry.route(MODEL, make_key())
            assert model.choose(b"", ()) is there
            # What a peer sent stays here, or two nodes would send it to and fro.
            [local] = registry.route(MODEL, make_key(scope="peer"), local_only=True)
            assert local.choose(b"", ()) is None
            with pytest.raises(ModelNotFoundError):
                registry.route("rerank", make_key(scope="peer"), local_only=True)
            assert [each.id for each in registry.told_to_peers().engines] == [MODEL]
            [scorer] = registry.route("ranker", make_key())
            assert (scorer.name, scorer.task, scorer.max_model_len) == ("rerank", "score", 512)

            peer.state = PeerState("node-2", (told(MODEL, state="down"), rerank))
            await watch.check()
            assert (there.state, ranking.state) == ("down", "up")
            peer.status = 403
            await watch.check()
            assert (ranking.state, ranking.reason) == ("down", "its gateway answers with 403")
            peer.status = 200
            await watch.check()
            assert ranking.state == "up"
            ranking.failed(EngineDownError("x"))
            assert (there.state, ranking.state) == ("down", "down")


async def test_two_gateways_choose_the_same_engine_for_a_session(tmp_path: Path) -> None:
    registries = []
    for node, other in (("node-1", "node-2"), ("node-2", "node-1")):
        settings = make_settings(
            tmp_path,
            peers=[{"name": other, "url": "http://127.0.0.1:9", "models": [MODEL]}],
            peer_key={"file": str(tmp_path / "peer.key")},
        )
        registries.append(EngineRegistry(settings, GatewayMetrics(), node=node))
    for engine in [engine for registry in registries for engine in registry]:
        engine.set_state("up")
    for one, two in (registries, reversed(registries)):
        one._peer_watches[0]._take(two.told_to_peers())
    first, second = (
        [registry.find(MODEL).choose(b"%d" % n, ()) for n in range(60)] for registry in registries
    )
    mine = [engine is not None and engine.remote for engine in first]
    assert mine == [engine is not None and not engine.remote for engine in second]
    assert any(mine)
    assert not all(mine)


async def test_every_metric_of_the_routing_is_there_with_bounded_labels_and_in_the_docs(
    tmp_path: Path,
) -> None:
    metrics = GatewayMetrics()
    known = {family.name for family in metrics.registry.collect()}
    registry = EngineRegistry(make_settings(tmp_path, replicas=2), metrics)
    first, second = registry
    first.set_state("up")
    second.set_state("up")
    second.eject()
    first.began(70)
    registry.may_retry()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"citadel_gateway_{name}", labels)

    names = {"model": MODEL, "engine": MODEL}
    assert value("engine_requests", **names) == 1
    assert value("engine_tokens", **names) == 70
    assert value("engine_state", **names, state="up") == 1
    second_names = {**names, "engine": f"{MODEL}.2"}
    assert value("engine_state", **second_names, state="ejected") == 1
    assert value("engine_state", **second_names, state="up") == 0
    assert value("ejections_total", **second_names) == 1
    assert value("retries_total", outcome="sent") == 1
    assert value("requests_in_flight", model=MODEL) == 1
    assert value("engine_up", model=MODEL) == 1
    page = Path(__file__).parents[3] / "docs" / "routing.md"
    added = {family.name for family in metrics.registry.collect()} - known
    assert len(added) == 10
    missing = {name for name in added if name not in page.read_text()}
    assert not missing
