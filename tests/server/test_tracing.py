"""Spans of generation requests, as a collector receives them."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from motet.core.errors import ConfigError
from motet.server import tracing
from tests.server.conftest import StartServer
from tests.server.fake_engine import FAIL_TOKEN, QUEUE_S
from tests.server.running_server import BASE

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Collector:
    """An OTLP collector on this machine.

    Attributes:
        is_held: while it is set, requests are not answered.
    """

    url: str
    services: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    is_held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {item.key: item.value.string_value for item in each.resource.attributes}
            self.services.append(names["service.name"])
            self.spans += [span for scope in each.scope_spans for span in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if found.is_held.is_set():
                found.released.wait(30)
            found.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    found.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


def attributes(span: Span) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [plain(each) for each in value.array_value.values]
        return getattr(value, kind)

    return {item.key: plain(item.value) for item in span.attributes}


def test_a_request_becomes_a_span_below_its_callers(
    start_server: StartServer, adapters_dir: Any, collector: Collector
) -> None:
    with start_server(adapter_dir=adapters_dir, otlp_endpoint=collector.url) as server:
        body = {"model": f"{BASE}:red", "prompt": "abcd", "max_tokens": 5, "n": 2, "stream": True}
        headers = {"traceparent": PARENT, "x-request-id": "mine"}
        server.post("/v1/completions", body, headers=headers)
    (span,) = collector.spans  # the rest is sent at the end
    assert collector.services == ["motet"]
    assert span.name == "text_completion red"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.trace_id.hex() == PARENT.split("-")[1]
    assert span.parent_span_id.hex() == PARENT.split("-")[2]
    assert span.end_time_unix_nano > span.start_time_unix_nano
    found = attributes(span)
    assert found.pop("gen_ai.response.time_to_first_chunk") > 0
    assert found == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "motet",
        "gen_ai.request.model": "red",
        "gen_ai.response.model": "red",
        "gen_ai.usage.input_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": found["gen_ai.usage.cache_read.input_tokens"],
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.response.finish_reasons": ["length", "length"],
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/completions",
        "motet.request_id": "mine",
        "motet.queue_time": QUEUE_S,
    }


def test_a_response_is_a_chat(start_server: StartServer, collector: Collector) -> None:
    with start_server(otlp_endpoint=collector.url) as server:
        body = {"model": BASE, "input": "abcd", "max_output_tokens": 5, "stream": True}
        server.post("/v1/responses", body)
    (span,) = collector.spans
    assert span.name == f"chat {BASE}"
    assert attributes(span)["gen_ai.usage.output_tokens"] == 5
    assert attributes(span)["url.path"] == "/v1/responses"


def test_failures_are_marked_and_other_routes_have_no_span(
    start_server: StartServer, collector: Collector
) -> None:
    with start_server(otlp_endpoint=collector.url) as server:
        server.get("/v1/models")
        server.complete(model="green")
        server.complete([FAIL_TOKEN, 50], stream=True)
        messages = [{"role": "user", "content": "a"}]
        body = {"model": BASE, "messages": messages, "max_tokens": 2}
        server.post("/v1/chat/completions", body, headers={"traceparent": "nonsense"})
    missing, failed, chat = collector.spans
    assert missing.name == "text_completion"
    assert attributes(missing)["error.type"] == "model_not_found"
    assert missing.status.code == 0  # the client's fault
    assert attributes(failed)["error.type"] == "internal_error"
    assert failed.status.code == 2
    assert chat.name == f"chat {BASE}"
    assert chat.parent_span_id == b""


def test_a_collector_that_does_not_answer_holds_nobody_up(
    start_server: StartServer, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_EXPORT_TIMEOUT_S", 0.5)
    collector.is_held.set()
    with start_server(otlp_endpoint=collector.url) as server:
        for _ in range(600):  # more than a batch
            assert server.complete(max_tokens=1).status_code == 200
    assert collector.spans == []


def test_without_it_nothing_is_imported_and_with_it_what_is_missing_is_named() -> None:
    program = (
        "import sys, motet.server.run\n"
        "parts = ('opentelemetry.sdk', 'opentelemetry.exporter')  # FastAPI imports the API\n"
        "assert not any(name.startswith(parts) for name in sys.modules)\n"
        "sys.modules['opentelemetry.exporter.otlp.proto.http.trace_exporter'] = None\n"
        "motet.server.run.OtlpTracer.to_endpoint('http://localhost:4318')\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "motet[otel]" in run.stderr
    assert "ConfigError" in run.stderr


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("https://collector/", "https://collector/v1/traces"),
        ("http://collector:4318/otlp/v1/traces", "http://collector:4318/otlp/v1/traces"),
    ],
)
def test_an_endpoint_is_a_base_or_a_whole_url(endpoint: str, url: str) -> None:
    assert tracing.traces_url(endpoint) == url


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://localhost", "http://", "x"])
def test_anything_else_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="should be a URL"):
        tracing.traces_url(endpoint)
