"""Spans of the running service, as a collector gets them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.builders import a_hotkey
from tests.integration.pylon.running import running_pylon
from tests.integration.real import free_port
from tests.integration.service.running import a_header, register, running_service


class _Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _CollectorHandler)
        self.received: list[tuple[str, bytes]] = []

    def spans(self) -> list[dict[str, str]]:
        """The attributes of every span."""
        return [
            {each.key: each.value.string_value for each in span.attributes}
            for path, body in self.received
            if path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _CollectorHandler(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        # The exporter compresses only where that is configured.
        self.server.received.append((self.path, self.rfile.read(length)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
        pass


@contextmanager
def collecting() -> Iterator[_Collector]:
    """Runs a collector until the block ends."""
    with _Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def test_every_decision_reaches_the_collector_before_the_end(tmp_path: Path) -> None:
    """A grant, the same remembered, and a denial."""
    with collecting() as collector, running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(
            tmp_path,
            pylon.url,
            NEXUS_AUTH_TRACES="otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.server_port}",
        ) as service:
            certificate = a_header("alice")
            assert [service.ask(certificate).status for _ in range(2)] == [200, 200]
            assert service.ask(None).status == 403
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait() == 0
        spans = collector.spans()
    assert [span["nexus_auth.code"] for span in spans] == ["granted", "granted", "no-certificate"]
    assert spans[1]["nexus_auth.hotkey"] == a_hotkey("alice").address


def test_collector_that_is_away_changes_nothing(tmp_path: Path) -> None:
    """Decisions are taken, and the service ends in good order."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(
            tmp_path,
            pylon.url,
            NEXUS_AUTH_TRACES="otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        ) as service:
            assert service.ask(a_header("alice")).status == 200
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait() == 0
