"""One request for a model, from its head to the end of its answer.

A state machine that is driven by calls from both connections, the client's and the engine's: on the hot path
there is neither a task nor an await. In order: key, body, limits, model, the model's queue, an engine, the
engine's answer. A request's answer begins with the engine's first byte. Until then a failure is tried
elsewhere, or becomes an HTTP error of its own; after it, an event in the stream, or an answer that stays
unfinished.
"""

from time import monotonic
from typing import TYPE_CHECKING

from citadel_llm.gateway.answer import Answer
from citadel_llm.gateway.dispatch import Dispatch
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
from citadel_llm.gateway.traffic import Traffic
from citadel_llm.gateway.wire.heads import AnswerHead, RequestHead

if TYPE_CHECKING:
    from citadel_llm.gateway.wire.server import GatewayProtocol

_ERRORS_FROM = 400
# No answer to any question here; passed on, it would need a head of its own kind.
_WITHOUT_BODY = (204, 304)
_SERVER_ERRORS_FROM = 500
_TOO_MANY = 429
# An engine's own error that is longer than this is not read to its end.
_ERROR_LIMIT = 1 << 16


class Exchange(Dispatch):
    """One request and its answer.

    It comes in by `Arrival`, is given to an engine by `Dispatch`, and here it is answered.

    Attributes:
        error: The code of what went wrong.
        answer: What its client gets.
    """

    __slots__ = ("_refused", "answer", "error")

    def __init__(self, traffic: Traffic, client: "GatewayProtocol", head: RequestHead) -> None:
        super().__init__(traffic, client, head)
        self.answer = Answer(client.transport)
        self.error = ""
        self._refused: tuple[AnswerHead, bytearray] | None = None

    def start(self) -> None:
        """Begin: it is this request's turn on its connection, and its head is complete."""
        self.traffic.exchanges.add(self)
        super().start()

    # The engine's answer.

    def on_head(self, head: AnswerHead) -> None:
        """From the engine: the head of its answer."""
        self.heard = monotonic()
        # A stream that was opened while it waited cannot become something else.
        closed = self.answer.opened and not head.events
        if head.status >= _ERRORS_FROM or head.status in _WITHOUT_BODY or closed:
            self._refused = head, bytearray()
            return
        fields, key = self.fields, self.key
        strip = (
            fields is not None
            and fields.stream
            and not fields.wants_usage
            and self.path.asks_for_usage
            and not (key is not None and key.scope == "peer")
        )
        self.answer.on_head(self, head, strip_usage=strip)

    def on_data(self, data: bytes) -> None:
        """From the engine: some of its answer's body."""
        self.heard = now = monotonic()
        if self._refused is not None:
            if len(self._refused[1]) < _ERROR_LIMIT:
                self._refused[1].extend(data)
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
        self._finish(self.answer.status, monotonic())

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        """From the engine: all of its answer at once."""
        engine = self._engine
        if engine is None or head.events or self.answer.opened:
            self.on_head(head)
            self.on_data(body)
            self.on_end()
            return
        self._connection = None
        engine.last_progress = now = monotonic()
        engine.succeeded()
        self.answer.on_whole(self, head, body, now)
        self._finish(head.status, now)

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
            self.answer.break_off(self, error)
            self._finish(self.answer.status, monotonic())
            return
        self._drop_connection()
        self._release_engine()
        self._refused = None
        self._tried = (*self._tried, engine)
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
        head, body = refused
        status = head.status
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
        self.answer.pass_error(self, head, shown)
        self._finish(head.status, monotonic())

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
        self.answer.refuse(self, error)
        self._finish(shape.status, monotonic())

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
        self._finish(CLIENT_GONE_STATUS, monotonic(), tell=False)

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
            self.answer.break_off(self, stopping)
            self._finish(self.answer.status, monotonic())
        else:
            self.refuse(stopping)

    def sweep(self, now: float) -> None:
        """Watch over the engine's silence, and let who waits for a stream know that it is not forgotten."""
        engine = self._engine
        if engine is None and self._ticket is not None:
            self._comfort(now)
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

    def _comfort(self, now: float) -> None:
        """Comment while the model is brought up: until then too few seconds have passed to be noticed."""
        if self.fields is None or not self.fields.stream or not self._waits_for_model():
            return
        if now - self._commented_at >= self.traffic.comment_seconds:
            self._commented_at = now
            self.answer.comment(self, b"the model is being loaded")

    def _finish(self, status: int, now: float, *, tell: bool = True) -> None:
        """Settle and note everything, once; the connection goes on to its next request."""
        self.response_complete = True
        self.traffic.exchanges.discard(self)
        if self._connection is not None or self._connecting is not None:
            self._drop_connection()
        self._release_engine()
        note(self, status, now)
        self._free_body()
        if tell:
            self.client.on_exchange_complete(self, now)

    def own_lines(self) -> bytes:
        """The header lines that every answer to this request has, beside those of what it answers."""
        client, origin = self.client, self.head.origin
        if client.draining:
            self.keep_alive = False
        lines = b"x-request-id: %b\r\n%b%b" % (
            self.request_id.encode(),
            b"" if self.grant is None else self.grant.header_lines(),
            client.common_headers(),
        )
        if origin is not None:
            lines += self.traffic.cors.lines(origin)
        return lines if self.keep_alive else lines + b"connection: close\r\n"
