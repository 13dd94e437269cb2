"""The half of an exchange that faces the engines: what its request may ask for, and who gets it.

In order: limits, model, the model's queue, an engine, a connection to it. None of them is waited for on the
hot path: each calls the next, and those that take time call back.
"""

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from citadel_llm.gateway.accounting import Begun
from citadel_llm.gateway.arrival import Arrival
from citadel_llm.gateway.body import Fields, read_fields, read_form_fields
from citadel_llm.gateway.engine_request import AFFINITY, PRIORITIES, PRIORITY, parts_of
from citadel_llm.gateway.errors import EngineError, GatewayError, ModelUnsuitedError
from citadel_llm.gateway.routing import Engine, ServedModel, Ticket
from citadel_llm.gateway.traffic import Traffic
from citadel_llm.gateway.wire.heads import RequestHead, to_engine
from citadel_llm.gateway.wire.upstream import Asker, Connection

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from opentelemetry.trace import Span

    from citadel_llm.gateway.limits import Grant
    from citadel_llm.gateway.tracing import Tracer
    from citadel_llm.gateway.wire.server import GatewayProtocol
    from citadel_llm.store import KeyRecord


class Dispatch(Arrival, Asker):
    """A request on its way to an engine; see `exchange.Exchange`.

    Attributes:
        fields: What was read of its body.
        grant: What its limits gave it.
        model: The model's real name; empty until it is known.
        engine_id: The engine that was asked last.
        attempts: How many were.
        queue_seconds: How long it waited for its turn.
        entry: The number of its record, once an engine was asked.
        span: Its span, if it is traced.
        content_type: The client's, of a form; empty for JSON, whatever the client calls it (`curl -d` says it
            is a form).
        affinity: What it belongs to: binds it to an engine.
        traced: Header lines for the engine in place of the head's own, with the span; None: not traced.
        heard: When its engine last sent something, by the monotonic clock.
    """

    __slots__ = (
        "_commented_at",
        "_connecting",
        "_connection",
        "_engine",
        "_fresh",
        "_last_failure",
        "_models",
        "_queued_at",
        "_ticket",
        "_tried",
        "affinity",
        "attempts",
        "content_type",
        "engine_id",
        "entry",
        "fields",
        "grant",
        "heard",
        "model",
        "queue_seconds",
        "span",
        "traced",
    )

    def __init__(self, traffic: Traffic, client: "GatewayProtocol", head: RequestHead) -> None:
        super().__init__(traffic, client, head)
        self.fields: Fields | None = None
        self.grant: Grant | None = None
        self.model = ""
        self.engine_id = ""
        self.attempts = 0
        self.queue_seconds = 0.0
        self.entry: int | None = None
        self.span: Span | None = None
        self.content_type = b""
        self.affinity = b""
        self.traced: bytes | None = None
        self.heard = 0.0
        self._models: Sequence[ServedModel] = ()
        self._ticket: Ticket | None = None
        self._queued_at = 0.0
        self._commented_at = 0.0
        self._engine: Engine | None = None
        self._tried: tuple[Engine, ...] = ()
        self._connecting: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._fresh = False
        self._last_failure: EngineError | None = None

    def _admit(self) -> None:
        """With key and body complete: limits, model, queue."""
        key, traffic = self.key, self.traffic
        assert key is not None  # noqa: S101 - what both callers make sure of
        body = self.take_body()
        if self.path.body == "json":
            fields = read_fields(body, traffic.settings.routing.prefix_bytes)
        else:
            self.content_type = self.head.headers.get(b"content-type", b"")
            fields = read_form_fields(body, self.content_type)
        self.fields = fields
        by_peer = key.scope == "peer"
        self.affinity = self._group(key, fields)
        models = traffic.engines.route(fields.model, key, self.affinity, local_only=by_peer)
        self.model = models[0].name
        if models[0].task not in self.path.tasks:
            message = f"The model '{self.model}' does not {self.path.does}; this path wants one that does."
            raise ModelUnsuitedError(message, param="model")
        if len(models) > 1:
            models = [model for model in models if model.task in self.path.tasks]
        self._models = models
        residence = models[0].residence
        if residence is not None:
            residence.asked += 1
        if not by_peer:
            self.grant = traffic.limiter.admit(key, fields.prompt_estimate)
        traffic.engines.note_request()
        self._dispatch()

    def _group(self, key: "KeyRecord", fields: Fields) -> bytes:
        """What binds this request to an engine: one client's sessions say nothing about another's."""
        if key.scope == "peer":
            # The gateway that the client asked has worked it out already.
            return self.head.headers.get(AFFINITY, b"") or fields.prompt
        session = self.head.headers.get(self.traffic.session_header) or fields.group
        if session:
            return key.id.encode() + b"\0" + session
        return fields.prompt

    # An engine for it.

    def _dispatch(self) -> None:
        """Give the request to an engine, or let it wait for one, or refuse it."""
        for model in self._models:
            queue = model.queue
            if self._tried or not queue.waiting:
                engine = model.choose(self.affinity, self._tried)
                if engine is not None:
                    self._give_to(engine)
                    return
            comes = model.residence is not None
            if comes and model.takes_too_long(monotonic()):
                continue
            if (comes or not self._tried) and queue.must_wait():
                # An engine on demand that has just gone comes again.
                self._tried = ()
                self._queued_at = self._commented_at = monotonic()
                on_turn = partial(self._on_turn, model)
                self._ticket = queue.enter(self._priority(), on_turn, self._on_refused)
                return
        raise self._last_failure or self._models[0].refusal()

    def _priority(self) -> str:
        """Whose turn comes first: the key's class, or that of the key behind a peer's."""
        assert self.key is not None  # noqa: S101 - nobody else gets here
        if self.key.scope == "peer":
            said = self.head.headers.get(PRIORITY, b"").decode("latin-1")
            return said if said in PRIORITIES else "normal"
        return self.key.priority

    def _waits_for_model(self) -> bool:
        """Whether it waits for a model to be brought up, and not only for its turn."""
        return any(model.asleep for model in self._models)

    def _on_turn(self, model: ServedModel) -> None:
        """The model's queue has come to this request."""
        self._leave_queue()

        def take() -> None:
            # Its turn comes too when the last engine has gone: then one of those that stand in may answer.
            for each in self._models[self._models.index(model) :]:
                engine = each.choose(self.affinity, self._tried)
                if engine is not None:
                    self._give_to(engine)
                    return
            raise model.refusal()

        self._guarded(take)

    def _on_refused(self, error: GatewayError) -> None:
        """It waited for too long, or in vain."""
        self._leave_queue()
        self.refuse(error)

    def _leave_queue(self) -> None:
        if self._ticket is not None:
            self._ticket = None
            self.queue_seconds = monotonic() - self._queued_at

    def _give_to(self, engine: Engine) -> None:
        key, fields = self.key, self.fields
        assert key is not None and fields is not None  # noqa: S101, PT018 - no engine is looked for before
        self._engine, self.engine_id, self.model = engine, engine.id, engine.model
        self.attempts += 1
        self._fresh = False
        engine.began(fields.prompt_estimate)
        if self.entry is None and key.scope != "peer":
            # By place, not by name: this runs for every request.
            begun = Begun(
                self.number,
                self.began_unix,
                key.id,
                key.team,
                engine.model,
                self.path.path,
                engine.id,
                fields.prompt_estimate,
            )
            self.entry = self.traffic.ledger.begin(begun)
            if self.traffic.tracer is not None:
                self._trace(self.traffic.tracer)
        self.heard = monotonic()
        self._connecting = engine.client.connect(self)

    def _trace(self, tracer: "Tracer") -> None:
        """Begin a span; the engine's own is to be a part of it."""
        headers = dict(self.head.headers)
        self.span, headers[b"traceparent"] = tracer.begin(self.path.path, headers, self.began_unix)
        self.traced = to_engine(headers)

    def on_connected(self, connection: Connection) -> None:
        """From the engine's client: send the request."""
        self._connecting = None
        self._connection = connection
        if self.client.write_paused:
            connection.pause()
        self._guarded(self._send)

    def _send(self) -> None:
        engine, connection = self._engine, self._connection
        assert engine is not None and connection is not None  # noqa: S101, PT018 - it was asked for one
        connection.ask(self, *parts_of(self, engine))

    # While it has one.

    def _others(self) -> bool:
        """Whether another engine could answer."""
        tried = (*self._tried, self._engine) if self._engine is not None else self._tried
        return any(model.choose(self.affinity, tried) is not None for model in self._models)

    def _may_try_again(self) -> bool:
        """Whether one more engine may be asked; what may be, is counted."""
        traffic = self.traffic
        return self.attempts < traffic.settings.routing.attempts and traffic.engines.may_retry()

    def pause(self) -> None:
        """The client reads slowly: read no more from the engine."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """The client has caught up."""
        # While it had not, the engine could not be heard.
        self.heard = monotonic()
        if self._connection is not None:
            self._connection.resume()

    def _drop_connection(self) -> None:
        if self._connecting is not None:
            # It would call back in the midst of another engine's answer.
            self._connecting.cancel()
            self._connecting = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()

    def _release_engine(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None and self.fields is not None:
            engine.ended(self.fields.prompt_estimate)
