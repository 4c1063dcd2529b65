"""One span a decision, sent to an OpenTelemetry collector in the background."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import nexus_auth
from nexus_auth.adapters.headers.names import TRACE_PARENT_HEADER, field_name
from nexus_auth.adapters.observability.facts import RequestView
from nexus_auth.domain.decision import Decision, Denied
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Link, Tracer, TraceState
    from opentelemetry.util.types import Attributes

    from nexus_auth.domain.ports import Headers

SPAN_NAME: Final = "nexus_auth.decision"
CLOSING_SECONDS: Final = 3.0
"""How long the last spans may take to be sent; well below what draining may take."""

_PARENT_FIELD: Final = field_name(TRACE_PARENT_HEADER)
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class DecisionTraces:
    """A `DecisionObserver` that makes a span of each decision.

    The span's parent is the proxy's, where the proxy sends `traceparent`. That header proves
    nothing and decides nothing, since a client may have written it: it only says where the span
    belongs. Which spans are kept is decided as for a trace that begins here, at random.

    Spans wait in a bounded queue for a thread that sends them; a collector that is slow or away
    costs spans, never decisions. OpenTelemetry's own variables say where spans go, which are kept,
    and how long the queue is (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, ...).
    """

    def __init__(
        self,
        *,
        build_exporter: Callable[[], SpanExporter] = OTLPSpanExporter,
        view: RequestView = RequestView(),  # noqa: B008 - immutable
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Opens nothing yet, so that processes may still be forked.

        What `build_exporter` builds sends the spans, and is closed with this object. The `view`
        says what they have of requests.
        """
        self._build_exporter = build_exporter
        self._view = view
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
        self._provider.sampler = _OwnSampler(self._provider.sampler)
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
        facts = self._view.facts(decision, method, target, headers)
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


class _OwnSampler(Sampler):
    """Asks the configured sampler without the parent, and with a trace id that we made.

    A client may have chosen both: the parent's flag, and an id below or above any ratio.
    """

    def __init__(self, configured: Sampler) -> None:
        self._configured = configured
        self._ids = RandomIdGenerator()

    def should_sample(  # noqa: PLR0917 - OpenTelemetry's own signature
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """See `Sampler`."""
        del parent_context, trace_id, trace_state
        own_id = self._ids.generate_trace_id()
        return self._configured.should_sample(Context(), own_id, name, kind, attributes, links)

    def get_description(self) -> str:
        """See `Sampler`."""
        return f"Own({self._configured.get_description()})"


def _parent(headers: Headers) -> Context:
    """The proxy's span; an empty context where none is named, or the name is not valid."""
    given = next((value for name, value in headers if name.lower() == _PARENT_FIELD), b"")
    # `tracestate` stays out: it has no use here, and a client can fill it.
    return _PROPAGATOR.extract({TRACE_PARENT_HEADER: given.decode("latin-1")})
