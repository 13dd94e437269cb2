"""Traces: a collector that is a real HTTP server gets the spans, and the engine the trace to go on with."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .fake_engine import cut
from .gateway_site import CHAT, wait_until

ASK = {"model": CHAT, "messages": [{"role": "user", "content": "marked-said"}]}
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP endpoint, and the spans that came to it."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                raise AssertionError("not asked for")
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_request_is_a_span_of_the_clients_trace(make_site: Any, collector: tuple[str, list[Any]]) -> None:
    endpoint, spans = collector
    site = make_site(tracing={"endpoint": endpoint})
    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    site.http.post("/v1/chat/completions", json=ASK, headers={**site.auth, "traceparent": parent})

    async def die(request: Any, _body: bytes) -> Any:
        cut(request)
        raise ConnectionResetError

    site.chat.answer = die
    site.http.post("/v1/chat/completions", json=ASK, headers=site.auth)
    site.run(flush(site))
    wait_until(lambda: len(spans) == 2)
    answered, failed = spans
    values = {each.key: each.value for each in answered.attributes}
    assert answered.trace_id.hex() == TRACE
    assert answered.parent_span_id.hex() == "b7ad6b7169203331"
    assert values["gen_ai.usage.output_tokens"].int_value == 3
    assert values["gen_ai.request.model"].string_value == CHAT
    assert failed.status.code == 2
    assert "marked-said" not in str(spans)
    assert site.key not in str(spans)
    told = site.chat.seen[0].headers["traceparent"]
    assert told == f"00-{TRACE}-{answered.span_id.hex()}-01", "the engine's spans go below the gateway's"


async def flush(site: Any) -> None:
    tracer = site.server.lifespan.state["traffic"].tracer
    tracer._provider.force_flush(5000)
