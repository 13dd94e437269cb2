"""One request for a model, from its head to the end of its answer.

A state machine that is driven by calls from both connections, the client's and the engine's: on the hot path
there is neither a task nor an await. In order: key, body, limits, model, the model's queue, an engine, the
engine's answer. A request's answer begins with the engine's first byte. Until then a failure is tried
elsewhere, or becomes an HTTP error of its own; after it, an event in the stream, or an answer that stays
unfinished.
"""

from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from citadel_llm.gateway.accounting import Begun
from citadel_llm.gateway.answer import Answer
from citadel_llm.gateway.arrival import Arrival
from citadel_llm.gateway.body import Fields, read_fields, read_form_fields
from citadel_llm.gateway.engine_request import AFFINITY, PRIORITIES, PRIORITY, EngineRequest
from citadel_llm.gateway.errors import (
    CLIENT_GONE_STATUS,
    BodyTooLargeError,
    EngineError,
    EngineFailedError,
    EngineTimeoutError,
    GatewayError,
    ModelUnsuitedError,
    StoppingError,
    engine_error_body,
    shape_of,
)
from citadel_llm.gateway.outcome import note
from citadel_llm.gateway.paths import InferencePath
from citadel_llm.gateway.routing import Engine, ServedModel, Ticket
from citadel_llm.gateway.traffic import Traffic
from citadel_llm.gateway.wire.heads import CRLF, Header
from citadel_llm.gateway.wire.upstream import Connection

if TYPE_CHECKING:
    import asyncio

    from opentelemetry.trace import Span

    from citadel_llm.gateway.limits import Grant
    from citadel_llm.gateway.wire.server import GatewayProtocol
    from citadel_llm.store import KeyRecord

_ERRORS_FROM = 400
# No answer to any question here; passed on, it would need a head of its own kind.
_WITHOUT_BODY = (204, 304)
_SERVER_ERRORS_FROM = 500
_TOO_MANY = 429
# An engine's own error that is longer than this is not read to its end.
_ERROR_LIMIT = 1 << 16


class Exchange(Arrival):
    """One request and its answer.

    Attributes:
        fields: What was read of its body.
        grant: What its limits gave it.
        model: The model's real name; empty until it is known.
        engine_id: The engine that was asked last.
        attempts: How many were.
        queue_seconds: How long it waited for its turn.
        entry: The number of its record, once an engine was asked.
        span: Its span, if it is traced.
        error: The code of what went wrong.
        heard: When its engine last sent something, by the monotonic clock.
        answer: What its client gets.
    """

    # As in Arrival: what each begins as.
    fields: Fields | None = None
    grant: "Grant | None" = None
    model = ""
    engine_id = ""
    attempts = 0
    queue_seconds = 0.0
    entry: int | None = None
    span: "Span | None" = None
    error = ""
    _content_type = b""
    _models: Sequence[ServedModel] = ()
    _ticket: Ticket | None = None
    _queued_at = 0.0
    _affinity = b""
    _engine: Engine | None = None
    _connecting: "asyncio.Task[None] | None" = None
    _connection: Connection | None = None
    _fresh = False
    _refused: tuple[int, list[Header], bytearray] | None = None
    _last_failure: EngineError | None = None

    def __init__(
        self,
        traffic: Traffic,
        client: "GatewayProtocol",
        path: InferencePath,
        headers: list[Header],
        *,
        keep_alive: bool,
        chunked: bool,
    ) -> None:
        super().__init__(traffic, client, path, headers, keep_alive=keep_alive, chunked=chunked)
        self._tried: list[Engine] = []
        self.heard = self.began
        self.answer = Answer(self)

    def start(self) -> None:
        """Begin: it is this request's turn on its connection, and its head is complete."""
        self.traffic.exchanges.add(self)
        super().start()

    def _admit(self) -> None:
        """With key and body complete: limits, model, queue."""
        key, traffic = self.key, self.traffic
        assert key is not None  # noqa: S101 - what both callers make sure of
        body = self._take_body()
        if self.path.body == "json":
            fields = read_fields(body, traffic.settings.routing.prefix_bytes)
        else:
            self._content_type = self.headers.get(b"content-type", b"")
            fields = read_form_fields(body, self._content_type)
        self.fields = fields
        by_peer = key.scope == "peer"
        self._affinity = self._group(key, fields)
        models = traffic.engines.route(fields.model, key, self._affinity, local_only=by_peer)
        self.model = models[0].name
        if models[0].task not in self.path.tasks:
            message = f"The model '{self.model}' does not {self.path.does}; this path wants one that does."
            raise ModelUnsuitedError(message, param="model")
        self._models = [model for model in models if model.task in self.path.tasks]
        if not by_peer:
            self.grant = traffic.limiter.admit(key, fields.prompt_estimate)
        traffic.engines.note_request()
        self._dispatch()

    def _group(self, key: "KeyRecord", fields: Fields) -> bytes:
        """What binds this request to an engine: one client's sessions say nothing about another's."""
        if key.scope == "peer":
            # The gateway that the client asked has worked it out already.
            return self.headers.get(AFFINITY, b"") or fields.prompt
        session = self.headers.get(self.traffic.session_header) or fields.group
        if session:
            return key.id.encode() + b"\0" + session
        return fields.prompt

    # An engine for it.

    def _dispatch(self) -> None:
        """Give the request to an engine, or let it wait for one, or refuse it."""
        for model in self._models:
            if not self._tried and model.queue.must_wait():
                self._queued_at = monotonic()
                priority = self._priority()
                on_turn = partial(self._on_turn, model)
                self._ticket = model.queue.enter(priority, on_turn, self._on_refused)
                return
            engine = model.choose(self._affinity, self._tried)
            if engine is not None:
                self._give_to(engine)
                return
        raise self._last_failure or self._models[0].refusal()

    def _priority(self) -> str:
        """Whose turn comes first: the key's class, or that of the key behind a peer's."""
        assert self.key is not None  # noqa: S101 - nobody else gets here
        if self.key.scope == "peer":
            said = self.headers.get(PRIORITY, b"").decode("latin-1")
            return said if said in PRIORITIES else "normal"
        return self.key.priority

    def _on_turn(self, model: ServedModel) -> None:
        """The model's queue has come to this request."""
        self._leave_queue()

        def take() -> None:
            # Its turn comes too when the last engine has gone: then one of those that stand in may answer.
            for each in self._models[self._models.index(model) :]:
                engine = each.choose(self._affinity, self._tried)
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
            self.entry = self.traffic.ledger.begin(
                Begun(
                    id=self.number,
                    began=self.began_unix,
                    key_id=key.id,
                    team=key.team,
                    model=engine.model,
                    route=self.path.path,
                    engine=engine.id,
                    prompt_estimate=fields.prompt_estimate,
                )
            )
            tracer = self.traffic.tracer
            if tracer is not None:
                self.span, self.headers[b"traceparent"] = tracer.begin(
                    self.path.path, self.headers, self.began_unix
                )
        self.heard = monotonic()
        self._connecting = engine.client.connect(self)

    def on_connected(self, connection: Connection) -> None:
        """From the engine's client: send the request."""
        self._connecting = None
        self._connection = connection
        if self.client.write_paused:
            connection.pause()
        self._guarded(self._send)

    def _send(self) -> None:
        engine, key, fields, connection = self._engine, self.key, self.fields, self._connection
        assert engine is not None and key is not None  # noqa: S101, PT018 - a connection was asked for it
        assert fields is not None and connection is not None  # noqa: S101, PT018 - as above
        request = EngineRequest(self.path, self.headers, self._content_type, self._take_body(), fields)
        connection.ask(self, *request.parts(engine, key, self.request_id, self._affinity))

    # The engine's answer.

    def on_head(self, status: int, headers: list[Header]) -> None:
        """From the engine: the head of its answer."""
        self.heard = monotonic()
        if status >= _ERRORS_FROM or status in _WITHOUT_BODY:
            self._refused = (status, headers, bytearray())
            return
        fields, key = self.fields, self.key
        strip = (
            fields is not None
            and fields.stream
            and not fields.wants_usage
            and self.path.asks_for_usage
            and not (key is not None and key.scope == "peer")
        )
        self.answer.on_head(status, headers, strip_usage=strip)

    def on_data(self, data: bytes) -> None:
        """From the engine: some of its answer's body."""
        self.heard = now = monotonic()
        if self._refused is not None:
            if len(self._refused[2]) < _ERROR_LIMIT:
                self._refused[2].extend(data)
            return
        engine = self._engine
        if engine is not None:
            engine.last_progress = now
        self.answer.on_data(data, now)
        if self._body_bytes and self.answer.begun:
            # It cannot be asked for again elsewhere.
            self._free_body()

    def on_end(self) -> None:
        """From the engine: its answer is complete."""
        self._connection = None
        if self._refused is not None:
            self._guarded(self._pass_error_on)
            return
        if self._engine is not None:
            self._engine.succeeded()
        self.answer.on_end()
        self._finish(self.answer.status)

    def on_failed(self, error: EngineError, *, reused: bool) -> None:
        """From the engine's connection: there will be no more."""
        self._connecting = self._connection = None
        if self.response_complete or self._engine is None:
            return
        if reused and not self.answer.begun and not self._fresh:
            # The connection was kept, and had been closed at the other end: that says nothing of the engine.
            self._fresh = True
            self._connecting = self._engine.client.connect(self, fresh=True)
            return
        self._fail(error)

    def _may_try_again(self) -> bool:
        """Whether one more engine may be asked; what may be, is counted."""
        traffic = self.traffic
        return self.attempts < traffic.settings.routing.attempts and traffic.engines.may_retry()

    def _fail(self, error: EngineError, *, moved: bool = False) -> None:
        """The engine failed this request: try elsewhere if the answer has not begun, else tell the client.

        Args:
            error: How.
            moved: That it may be tried elsewhere has been settled already.
        """
        engine, fields = self._engine, self.fields
        assert engine is not None and fields is not None  # noqa: S101, PT018 - it was given the request
        self.error = str(shape_of(error).code)
        self.traffic.metrics.upstream_errors.labels(engine.model, self.error).inc()
        engine.failed(error)
        if self.answer.begun:
            self.answer.break_off(error)
            self._finish(self.answer.status)
            return
        self._drop_connection()
        self._release_engine()
        self._refused = None
        self._tried.append(engine)
        self._last_failure = error
        if moved or (not isinstance(error, EngineTimeoutError) and self._may_try_again()):
            self.error = ""
            self._guarded(self._dispatch)
        else:
            self.refuse(error)

    def _pass_error_on(self) -> None:
        """An engine's own error, if it is one that an SDK understands; else one of ours that says as much."""
        engine, refused = self._engine, self._refused
        assert engine is not None and refused is not None  # noqa: S101, PT018 - the reason to be here
        status, headers, body = refused
        shown = engine_error_body(status, bytes(body), self.path.dialect, self.request_id)
        if status >= _SERVER_ERRORS_FROM or status == _TOO_MANY:
            failed = EngineFailedError(f"The engine of the model '{self.model}' failed; try again.")
            if shown is None or self._others():
                self._fail(failed)
                return
            engine.failed(failed)
        else:
            engine.succeeded()
        if shown is None:
            message = f"The model '{self.model}' cannot be asked this (its engine says HTTP {status})."
            raise ModelUnsuitedError(message)
        self.error = "engine_error"
        self.answer.pass_error(status, headers, shown)
        self._finish(status)

    # The end.

    def refuse(self, error: GatewayError) -> None:
        """Answer with an error, the answer not having begun."""
        if self.response_complete:
            return
        shape = shape_of(error)
        self.error = str(shape.code or shape.type)
        whole = self._body_complete
        if not whole and (isinstance(error, BodyTooLargeError) or self.client.has_much_to_come(self)):
            self.keep_alive = False
        self.answer.refuse(error)
        self._finish(shape.status)

    def client_gone(self) -> None:
        """From the client's connection: it hung up."""
        if self.response_complete:
            return
        self.error = "client_gone"
        self.response_complete = True
        if self._ticket is not None:
            self._ticket.leave()
            self._leave_queue()
        self._drop_connection()
        self._finish(CLIENT_GONE_STATUS, tell=False)

    def stop(self) -> None:
        """The gateway ends, and the time for finishing answers is over."""
        if self.response_complete:
            return
        stopping = StoppingError()
        self.error = str(shape_of(stopping).code)
        if self._ticket is not None:
            self._ticket.leave()
            self._leave_queue()
        self._drop_connection()
        self.keep_alive = False
        if self.answer.begun:
            self.answer.break_off(stopping)
            self._finish(self.answer.status)
        else:
            self.refuse(stopping)

    def sweep(self, now: float) -> None:
        """Watch over the engine's silence."""
        engine = self._engine
        if engine is None or self.client.write_paused:
            return
        if now - self.heard > self.traffic.settings.upstream_timeout_seconds:
            self._drop_connection()
            message = f"The engine of the model '{self.model}' sent nothing for too long; it was given up."
            self._fail(EngineTimeoutError(message))
        elif engine.hangs and not self.answer.begun and self._others() and self._may_try_again():
            self._drop_connection()
            error = EngineFailedError(f"The engine of the model '{self.model}' hangs; try again.")
            self._fail(error, moved=True)

    def _others(self) -> bool:
        """Whether another engine could answer."""
        tried = [*self._tried, self._engine] if self._engine is not None else self._tried
        return any(model.choose(self._affinity, tried) is not None for model in self._models)

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

    def _finish(self, status: int, *, tell: bool = True) -> None:
        """Settle and note everything, once; the connection goes on to its next request."""
        self.response_complete = True
        self.traffic.exchanges.discard(self)
        self._drop_connection()
        self._release_engine()
        note(self, status, monotonic())
        self._free_body()
        if tell:
            self.client.on_exchange_complete(self)

    def extra_headers(self) -> bytes:
        """Header lines that every answer to this request has."""
        lines = b"x-request-id: " + self.request_id.encode() + CRLF
        if self.grant is not None:
            lines += self.grant.headers
        origin = self.headers.get(b"origin")
        if origin is not None:
            lines += self.traffic.cors.lines(origin)
        return lines
