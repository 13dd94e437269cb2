"""All engines that this gateway may ask, here and behind its peers, and which of them a request may go to."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from hashlib import blake2b

from citadel_llm.config import Model, Settings
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.gateway.routing.engine import Engine, seed_of
from citadel_llm.gateway.routing.metrics import RoutingMetrics
from citadel_llm.gateway.routing.names import Names
from citadel_llm.gateway.routing.peer_watch import PeerWatch, peer_address
from citadel_llm.gateway.routing.residence import ManagerLink, Residence
from citadel_llm.gateway.routing.retries import RetryBudget
from citadel_llm.gateway.routing.served import ServedModel
from citadel_llm.gateway.routing.watch import EngineWatch
from citadel_llm.gateway.routing.wire_format import PeerEngine, PeerState
from citadel_llm.gateway.wire.upstream import EngineClient, UnixAddress
from citadel_llm.store import KeyRecord

# How long the start waits for the first check of every engine; a hanging one must not hold up the others.
_FIRST_CHECK_SECONDS = 1.0
# A whole engine's work can be moved once.
_LEAST_BURST = 64


class EngineRegistry:
    """All engines of this gateway. Made inside a running event loop.

    Args:
        settings: The host's.
        metrics: Told which models are up; the routing's own are added to its registry.
        clock: Tells the time in seconds; the event loop's when absent.
        node: This node's name, which no other has; made from the host's when absent.

    Raises:
        OSError: The peers' key, or the certificates for one, cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: GatewayMetrics,
        *,
        clock: Callable[[], float] | None = None,
        node: str | None = None,
    ) -> None:
        self._gateway = settings.gateway
        self._metrics = metrics
        self._clock = clock or asyncio.get_running_loop().time
        self._node = node or node_name(settings)
        self._engines: list[Engine] = []
        self._watches: list[EngineWatch] = []
        self._peer_watches: list[PeerWatch] = []
        self._routing_metrics = RoutingMetrics(metrics.registry)
        admission = self._gateway.admission
        self._budget = RetryBudget(
            self._gateway.routing.retry_share, max(_LEAST_BURST, admission.running_per_engine), self._clock
        )
        self._wait_seconds = settings.residency.wait_seconds
        self._add_local(settings)
        self._add_remote()
        self._models = {
            name: self._served(name, settings.model(name))
            for name in dict.fromkeys(engine.model for engine in self._engines)
        }
        on_demand = {name: model for name, model in self._models.items() if model.residence is not None}
        self._link = ManagerLink(on_demand, settings.run_dir, self._resided) if on_demand else None
        for model in on_demand.values():
            self._resided(model)
        self._names = Names(self._models, self._gateway.aliases, self._gateway.fallbacks)
        self.route = self._names.route
        self.find = self._names.find
        self.may_retry = self._budget.may_retry
        self.note_request = self._budget.note_request
        self._routing_metrics.show(self.__iter__, lambda: self.models, self._budget)
        for model in self.models:
            self._show_state(model)
            metrics.in_flight.labels(model.name).set_function(partial(_outstanding, model))

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._engines)

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """The models, in the catalogue's order, then those that only peers serve."""
        return tuple(self._models.values())

    def visible_to(self, key: KeyRecord) -> list[ServedModel]:
        """The models that a key may ask for."""
        return [model for model in self._models.values() if key.may_use(model.name)]

    def aliases_visible_to(self, key: KeyRecord) -> dict[str, list[ServedModel]]:
        """The weighted aliases that a key may ask for, each with its models that the key may use."""
        visible = {
            alias.name: [
                self._models[each.model]
                for each in alias.models
                if each.model in self._models and key.may_use(each.model)
            ]
            for alias in self._gateway.aliases
        }
        return {name: models for name, models in visible.items() if models}

    def told_to_peers(self) -> PeerState:
        """What the gateways of other nodes are told."""
        here = (engine for engine in self._engines if not engine.remote)
        return PeerState(self._node, tuple(map(self._told, here)))

    def sweep(self, now: float) -> None:
        """Look after what is due by the time: stalls, sockets, deadlines, idle connections.

        Args:
            now: The clock's time. To be called every quarter of a second or so.
        """
        for watch in self._watches:
            watch.look_at_socket()
        for engine in self._engines:
            engine.sweep(now)
            engine.client.sweep(now)
        for model in self._models.values():
            model.sweep(now)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the engines while the context lasts, which begins when each was asked once or is late."""
        watches: list[EngineWatch | PeerWatch] = [*self._watches, *self._peer_watches]
        tasks = [asyncio.create_task(watch.run()) for watch in watches]
        if self._link is not None:
            tasks.append(asyncio.create_task(self._link.run()))
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_CHECK_SECONDS):
                    for watch in watches:
                        await watch.checked.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            clients = [engine.client for engine in self._engines]
            for client in (*clients, *(watch.client for watch in self._peer_watches)):
                await client.close()

    def _add_local(self, settings: Settings) -> None:
        options = self._gateway
        for each in settings.engines:
            client = EngineClient(
                each.model.name, UnixAddress(each.socket), connect_timeout=options.connect_timeout_seconds
            )
            engine = self._engine(each.id, each.model.name, client, remote=False)
            stall = options.routing.stall_seconds
            self._watches.append(EngineWatch(engine, each.socket, stall, self._clock))

    def _add_remote(self) -> None:
        options = self._gateway
        if not options.peers:
            return
        assert options.peer_key is not None  # noqa: S101 - the settings make sure
        key = options.peer_key.read()
        for peer in options.peers:
            address = peer_address(peer, key)
            engines = []
            for model in peer.models:
                client = EngineClient(model, address, connect_timeout=options.connect_timeout_seconds)
                engines.append(self._engine(f"{peer.name}/{model}", model, client, remote=True))
            client = EngineClient(peer.name, address, connect_timeout=options.connect_timeout_seconds)
            self._peer_watches.append(PeerWatch(peer, engines, client, self._learn))

    def _engine(self, engine_id: str, model: str, client: EngineClient, *, remote: bool) -> Engine:
        engine = Engine(
            engine_id,
            model,
            client,
            self._gateway.routing,
            capacity=self._gateway.admission.running_per_engine,
            # Behind a peer only until it tells its own name.
            seeds=[seed_of(engine_id if remote else f"{self._node}/{engine_id}")],
            clock=self._clock,
            remote=remote,
            on_change=self._changed,
        )
        self._engines.append(engine)
        return engine

    def _served(self, name: str, model: Model | None) -> ServedModel:
        return ServedModel(
            name,
            [engine for engine in self._engines if engine.model == name],
            routing=self._gateway.routing,
            admission=self._gateway.admission,
            clock=self._clock,
            metrics=self._routing_metrics.queue(name),
            task=model.task if model else "generate",
            max_model_len=model.max_model_len if model else None,
            aliases=model.aliases if model else (),
            residence=self._residence(model),
        )

    def _residence(self, model: Model | None) -> Residence | None:
        if model is None or not model.served or not model.on_demand:
            return None
        sleeps = model.plan is not None and model.plan.residency == "warm"
        return Residence(self._wait_seconds, self._clock, sleeps=sleeps)

    def _told(self, engine: Engine) -> PeerEngine:
        model = self._models[engine.model]
        return PeerEngine(
            id=engine.id,
            model=model.name,
            task=model.task,
            max_model_len=model.max_model_len,
            aliases=model.aliases,
            state="asleep" if model.asleep else engine.condition,
            outstanding=engine.outstanding,
            outstanding_tokens=engine.outstanding_tokens,
            load=engine.load,
        )

    def _learn(self, told: PeerEngine) -> None:
        """Take over what a peer says of a model that this node's catalogue does not have."""
        model = self._models[told.model]
        if not model.local.engines and model.take_over(told.task, told.max_model_len, told.aliases):
            for alias in told.aliases:
                self._names.add(alias, model)

    def _changed(self, engine: Engine) -> None:
        model = self._models.get(engine.model)
        if model is not None:
            self._show_state(model)
            model.pump()

    def _resided(self, model: ServedModel) -> None:
        """The manager has told something of a model, or can no longer be heard."""
        assert model.residence is not None  # noqa: S101 - of others nothing is told
        came = False
        for engine in model.engines:
            if not engine.remote:
                came |= model.residence.open and not engine.usable
                engine.hold(model.residence.held)
        if came:
            # Rather than at its next health check.
            for watch in self._watches:
                if watch.engine in model.engines:
                    watch.check_soon()
        self._show_state(model)
        model.pump()

    def _show_state(self, model: ServedModel) -> None:
        self._metrics.engine_up.labels(model.name).set(model.shown_state == "up")


def node_name(settings: Settings) -> str:
    """What names this node to all gateways alike: a checksum of the host's name and where its sockets are."""
    return blake2b(f"{socket.gethostname()}:{settings.run_dir}".encode(), digest_size=8).hexdigest()


def _outstanding(model: ServedModel) -> int:
    return sum(engine.outstanding for engine in model.engines)
