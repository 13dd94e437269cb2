"""OpenTelemetry traces, where `gateway.tracing.endpoint` says so: a span for each request that an engine got.

The span continues the client's trace (W3C's `traceparent`), and the engine continues the span: vLLM, which is
started with the same endpoint, makes its own spans below it. Attributes are those of the semantic conventions
for generative AI and HTTP, as far as they have names; never a text, never a key.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from citadel_llm import __version__
from citadel_llm.config.gateway import Tracing

if TYPE_CHECKING:
    from citadel_llm.gateway.exchange import Exchange

_NANOSECONDS = 1_000_000_000
_SERVER_ERRORS_FROM = 500
# What the exporter may wait for at the end; spans that cannot be sent by then are lost.
_FLUSH_MILLISECONDS = 2000

_propagator = TraceContextTextMapPropagator()


class Tracer:
    """Makes spans and sends them, in a thread of its own; those that cannot be sent are dropped.

    Args:
        settings: Where to, and how many.
    """

    def __init__(self, settings: Tracing) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "citadel-gateway", "service.version": __version__}),
            sampler=ParentBasedTraceIdRatio(settings.share),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.endpoint)))
        self._tracer = self._provider.get_tracer("citadel.gateway", __version__)

    def begin(self, name: str, headers: Mapping[bytes, bytes], began: float) -> tuple[Span, bytes]:
        """Begin the span of a request.

        Args:
            name: The path that was asked for.
            headers: The client's, names in lower case.
            began: When it arrived, in Unix seconds.

        Returns:
            The span, and the `traceparent` for the engine.
        """
        carrier = {
            key: headers[key.encode()].decode("latin-1")
            for key in ("traceparent", "tracestate")
            if key.encode() in headers
        }
        span = self._tracer.start_span(
            f"POST {name}",
            context=_propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=int(began * _NANOSECONDS),
        )
        context = span.get_span_context()
        flags = int(context.trace_flags)
        return span, f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}".encode()

    def end(self, span: Span, done: "Exchange", status: int, tokens_in: int, tokens_out: int) -> None:
        """End it with what came of the request."""
        if span.is_recording():
            span.set_attributes(
                {
                    "http.request.method": "POST",
                    "http.route": done.path.path,
                    "http.response.status_code": status,
                    "gen_ai.request.model": done.model,
                    "gen_ai.usage.input_tokens": tokens_in,
                    "gen_ai.usage.output_tokens": tokens_out,
                    "citadel.request_id": done.request_id,
                    "citadel.engine": done.engine_id,
                    "citadel.attempts": done.attempts,
                    "citadel.queue_seconds": done.queue_seconds,
                }
            )
            if done.error:
                span.set_attribute("error.type", done.error)
            if status >= _SERVER_ERRORS_FROM:
                span.set_status(Status(StatusCode.ERROR))
        span.end()

    def close(self) -> None:
        """Send what is left, if that can be done soon."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()
