"""One span a decision, sent to an OpenTelemetry collector in the background."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import nexus_auth
from nexus_auth.adapters.headers.names import TRACE_PARENT_HEADER, field_name
from nexus_auth.adapters.observability.facts import client_request, decision_facts
from nexus_auth.domain.decision import Decision, Denied
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

    from nexus_auth.domain.ports import Headers

SPAN_NAME: Final = "nexus_auth.decision"
CLOSING_SECONDS: Final = 3.0
"""How long the last spans may take to be sent; well below what draining may take."""

_PARENT_FIELD: Final = field_name(TRACE_PARENT_HEADER)
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class DecisionTraces:
    """A `DecisionObserver` that makes a span of each decision.

    The span's parent is the proxy's, where the proxy sends `traceparent`. That header proves
    nothing and decides nothing: it only says where the span belongs.

    Spans wait in a bounded queue for a thread that sends them; a collector that is slow or away
    costs spans, never decisions. OpenTelemetry's own variables say where spans go, which are kept,
    and how long the queue is (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, ...).
    """

    def __init__(
        self,
        *,
        build_exporter: Callable[[], SpanExporter] = OTLPSpanExporter,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Opens nothing yet, so that processes may still be forked.

        What `build_exporter` builds sends the spans, and is closed with this object.
        """
        self._build_exporter = build_exporter
        self._wall_ns = wall_ns
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None

    async def start(self) -> None:
        """Begins to make spans, and to send them in a thread."""
        ours = Resource({"service.name": "nexus-auth", "service.version": nexus_auth.__version__})
        self._provider = TracerProvider(
            # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over these.
            resource=ours.merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._build_exporter()))
        self._tracer = self._provider.get_tracer("nexus_auth", nexus_auth.__version__)

    async def aclose(self) -> None:
        """Sends what waits, for `CLOSING_SECONDS` at most, and makes no more spans."""
        provider, self._provider, self._tracer = self._provider, None, None
        if provider is None:
            return
        loop, is_closed = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            provider.shutdown()
            if not loop.is_closed():
                loop.call_soon_threadsafe(is_closed.set)

        # A daemon: a collector that does not answer must not keep the process from ending.
        threading.Thread(target=close, name="traces-closing", daemon=True).start()
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await is_closed.wait()
        except TimeoutError:
            pass  # the spans are lost; the decisions were taken

    def decided(
        self, decision: Decision, *, seconds: float, method: bytes, target: bytes, headers: Headers
    ) -> None:
        """See `DecisionObserver`. The span has the fields of the log line, by the same names."""
        if self._tracer is None:
            return
        ended = self._wall_ns()
        facts = decision_facts(decision) | client_request(method, target, headers)
        span = self._tracer.start_span(
            SPAN_NAME,
            context=_parent(headers),
            kind=SpanKind.SERVER,
            attributes={
                f"nexus_auth.{name}": each for name, each in facts.items() if each is not None
            },
            start_time=ended - round(seconds * 1e9),
        )
        if isinstance(decision, Denied) and decision.reason is DenialReason.REGISTRY_UNAVAILABLE:
            # The only denial that is a fault of the service, or of what it depends on.
            span.set_status(StatusCode.ERROR)
        span.end(end_time=ended)


def _parent(headers: Headers) -> Context:
    """The proxy's span; an empty context where none is named, or the name is not valid."""
    given = next((value for name, value in headers if name.lower() == _PARENT_FIELD), b"")
    # `tracestate` stays out: it has no use here, and a client can fill it.
    return _PROPAGATOR.extract({TRACE_PARENT_HEADER: given.decode("latin-1")})
