"""Decisions as spans."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from nexus_auth.adapters.observability import traces as traces_module
from nexus_auth.adapters.observability.traces import SPAN_NAME, DecisionTraces
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.reasons import DenialReason
from tests.builders import NOW, a_hotkey

ALICE = Granted(hotkey=a_hotkey("alice"), fingerprint="aa", expires_at=NOW)
DENIED = Denied(reason=DenialReason.EXPIRED, detail="its validity is over")
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ENDED_NS = 1_700_000_000_000_000_000


async def spans_of(decision: Granted | Denied, **request: Any) -> Sequence[ReadableSpan]:
    """What the collector gets of one decision on an ordinary request."""
    exporter = InMemorySpanExporter()
    traces = DecisionTraces(build_exporter=lambda: exporter, wall_ns=lambda: ENDED_NS)
    await traces.start()
    known: dict[str, Any] = {"method": b"GET", "target": b"/auth", "headers": (), **request}
    traces.decided(decision, seconds=0.002, **known)
    await traces.aclose()
    return exporter.get_finished_spans()


async def test_grant_is_one_span_with_the_fields_of_its_log_line() -> None:
    """Who, what for, and how long; everything is sent before the end."""
    (span,) = await spans_of(ALICE, headers=[(b"X-Request-ID", b"7f3a")])
    assert span.name == SPAN_NAME
    assert dict(span.attributes or {}) == {
        "nexus_auth.outcome": "granted",
        "nexus_auth.code": "granted",
        "nexus_auth.hotkey": a_hotkey("alice").address,
        "nexus_auth.certificate": "aa",
        "nexus_auth.request_id": "7f3a",
        "nexus_auth.method": "GET",
        "nexus_auth.uri": "/auth",
        "nexus_auth.vouched": False,
    }
    assert (span.start_time, span.end_time) == (ENDED_NS - 2_000_000, ENDED_NS)
    assert span.parent is None
    assert span.resource.attributes["service.name"] == "nexus-auth"


async def test_denial_says_why_and_is_no_error() -> None:
    """A denial is ordinary work, and no reason for an alarm."""
    (span,) = await spans_of(DENIED)
    assert span.attributes is not None
    assert span.attributes["nexus_auth.code"] == "expired"
    assert span.attributes["nexus_auth.detail"] == "its validity is over"
    assert "nexus_auth.hotkey" not in span.attributes
    assert span.status.status_code is StatusCode.UNSET


async def test_decision_that_could_not_be_taken_is_an_error() -> None:
    """The registry did not answer."""
    unavailable = Denied(reason=DenialReason.REGISTRY_UNAVAILABLE, detail="no answer")
    (span,) = await spans_of(unavailable)
    assert span.status.status_code is StatusCode.ERROR


async def test_span_belongs_to_the_proxys_trace() -> None:
    """W3C Trace Context, in any case of the header's name."""
    (span,) = await spans_of(ALICE, headers=[(b"TraceParent", f"00-{TRACE}-{PARENT}-01".encode())])
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT


@pytest.mark.parametrize(
    ("sampler", "share", "is_kept"),
    [
        (None, None, True),
        ("always_on", None, True),
        ("always_off", None, False),
        ("parentbased_always_off", None, False),
        ("traceidratio", "0", False),
        ("traceidratio", "1", True),
        ("parentbased_traceidratio", "0", False),
        ("parentbased_traceidratio", "1", True),
    ],
)
@pytest.mark.parametrize("flags", ["00", "01"])
async def test_client_does_not_decide_which_spans_are_kept(
    monkeypatch: pytest.MonkeyPatch,
    sampler: str | None,
    share: str | None,
    flags: str,
    *,
    is_kept: bool,
) -> None:
    """Neither by the parent's flag nor by the trace id; the span is in the trace all the same."""
    if sampler is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    if share is not None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", share)
    spans = await spans_of(
        ALICE, headers=[(b"traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode())]
    )
    assert [f"{span.context.trace_id:032x}" for span in spans if span.context] == [TRACE] * is_kept


async def test_lowest_and_highest_trace_id_are_sampled_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ratio compares the trace id, which a client can choose; ours is at random."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    for trace in ("0" * 31 + "1", "f" * 32):
        exporter = InMemorySpanExporter()
        traces = DecisionTraces(build_exporter=lambda exporter=exporter: exporter)  # type: ignore[misc]
        await traces.start()
        headers = [(b"traceparent", f"00-{trace}-{PARENT}-01".encode())]
        for _ in range(400):
            traces.decided(ALICE, seconds=0.0, method=b"GET", target=b"/", headers=headers)
        await traces.aclose()
        # 400 throws of a coin: 100 or fewer, or 300 or more, come once in 10^23 times.
        assert 100 < len(exporter.get_finished_spans()) < 300


@pytest.mark.parametrize("value", [b"", b"\xff\x00", b"00-0-0-01", b"x" * 5000])
async def test_nonsense_for_a_parent_is_ignored(value: bytes) -> None:
    """The header decides nothing."""
    (span,) = await spans_of(ALICE, headers=[(b"traceparent", value)])
    assert span.parent is None


async def test_operators_name_of_the_service_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME, as everywhere."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "auth-eu")
    (span,) = await spans_of(ALICE)
    assert span.resource.attributes["service.name"] == "auth-eu"


async def test_nothing_is_made_before_the_start_and_after_the_end() -> None:
    """Neither is an error: decisions may still be taken."""
    exporter = InMemorySpanExporter()
    traces = DecisionTraces(build_exporter=lambda: exporter)
    traces.decided(ALICE, seconds=0.0, method=b"GET", target=b"/", headers=())
    await traces.aclose()
    await traces.start()
    await traces.aclose()
    traces.decided(ALICE, seconds=0.0, method=b"GET", target=b"/", headers=())
    assert exporter.get_finished_spans() == ()


class _SilentCollector(InMemorySpanExporter):
    """Takes a batch and does not come back until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.let_go.wait(10)
        return super().export(spans)


async def test_collector_that_does_not_answer_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither decisions nor the end of the service."""
    monkeypatch.setattr(traces_module, "CLOSING_SECONDS", 0.1)
    collector = _SilentCollector()
    traces = DecisionTraces(build_exporter=lambda: collector)
    await traces.start()
    started = time.monotonic()
    for _ in range(1000):
        traces.decided(ALICE, seconds=0.0, method=b"GET", target=b"/", headers=())
    await traces.aclose()
    assert time.monotonic() - started < 20
    collector.let_go.set()
    await asyncio.sleep(0.05)
