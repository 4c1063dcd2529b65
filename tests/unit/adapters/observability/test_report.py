"""Reports and their sum."""

from __future__ import annotations

import dataclasses

import pytest

from nexus_auth.adapters.observability.counters import STATUSES, Counters
from nexus_auth.adapters.observability.report import (
    CALLERS_KEPT,
    DECISION_BOUNDS,
    DENIALS_KEPT,
    MINUTES_KEPT,
    REQUEST_BOUNDS,
    SILENT_SECONDS,
    CertificateSeen,
    Histogram,
    Overview,
    Report,
)
from nexus_auth.adapters.observability.shared_memory import SLOT_BYTES
from nexus_auth.domain.health import Freshness, RegistryHealth
from nexus_auth.domain.reasons import DenialReason
from tests.builders import NOW, a_hotkey
from tests.fakes import FakeClock
from tests.unit.adapters.observability.watched import BLOCK, a_state, deny, grant

CERTIFICATE = CertificateSeen(
    hotkey=a_hotkey().address, fingerprint="ab" * 32, not_after=NOW.timestamp() + 60
)


BOUNDS = (1.0, 2.0, 4.0)


def a_report(*, state: RegistryHealth | None = None) -> Report:
    """A worker that granted two visits and denied one."""
    counters = Counters(clock=FakeClock())
    grant(counters, times=2)
    deny(counters)
    counters.count_fetch("none")
    counters.count_malformed()
    counters.count_pylon_request(200, 0.1)
    counters.count_chain_request(None, 0.1)
    counters.tick()
    return counters.report(registry=state or a_state(), remembered=1, certificates=(CERTIFICATE,))


@pytest.mark.parametrize(
    "state", [a_state(), a_state(age=None, error="nobody answered"), a_state(block=BLOCK)]
)
def test_report_survives_the_way_to_another_process(state: RegistryHealth) -> None:
    """Nothing is lost or changed."""
    report = a_report(state=state)
    assert Report.from_bytes(report.to_bytes()) == report


def test_workers_add_up() -> None:
    """Counts are summed; a caller of two workers is one caller."""
    overview = Overview.of(a_report(), [a_report()])
    assert overview.workers == 2
    assert overview.codes["granted"] == 4
    assert overview.seconds["granted"].observations == 4
    assert overview.fetches == {"none": 2}
    assert overview.malformed == 2
    assert overview.pylon["200"].observations == 2
    assert overview.chain["none"].observations == 2
    assert overview.minutes[int(NOW.timestamp() // 60)] == (4, 2)
    assert len(overview.minutes) == MINUTES_KEPT
    assert overview.remembered == 2
    assert len(overview.denials) == 2
    assert [(each.hotkey, each.times) for each in overview.callers] == [(a_hotkey().address, 4)]
    assert overview.certificates == (CERTIFICATE,)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Freshness.FRESH, Freshness.FRESH),
        (Freshness.STALE, Freshness.STALE),
        (Freshness.STARTING, Freshness.STARTING),
        (Freshness.EXPIRED, Freshness.EXPIRED),
    ],
)
def test_worst_worker_speaks_for_all(other: Freshness, expected: Freshness) -> None:
    """A caller may come to any of them."""
    overview = Overview.of(a_report(), [a_report(state=a_state(other))])
    assert overview.registry.freshness is expected


def test_silent_worker_counts_only_what_it_had_counted() -> None:
    """It is dead or being replaced; counters must not go back meanwhile."""
    silent = dataclasses.replace(
        a_report(state=a_state(Freshness.EXPIRED)), at=NOW.timestamp() - SILENT_SECONDS
    )
    overview = Overview.of(a_report(), [silent])
    assert overview.workers == 1
    assert overview.codes["granted"] == 4
    assert overview.remembered == 1
    assert overview.registry.freshness is Freshness.FRESH


def test_largest_report_fits_into_its_slot() -> None:
    """The bounds of all that is in it are far below the size of a slot."""
    clock = FakeClock()
    counters = Counters(clock=clock)
    for number in range(CALLERS_KEPT):
        grant(counters, f"caller {number}")
    for _ in range(DENIALS_KEPT):
        deny(
            counters,
            DenialReason.MALFORMED_CERTIFICATE,
            uri=b"\x00" * 500,
            method=b"\x00" * 50,
            detail="x" * 500,
        )
    for _ in range(MINUTES_KEPT):
        grant(counters)
        clock.advance(minutes=1)
        counters.tick()
    for status in STATUSES:
        for count in (counters.count_pylon_request, counters.count_chain_request):
            count(int(status) if status.isdigit() else None, 1.0)
    report = counters.report(
        registry=a_state(error="x" * 1000, block=BLOCK),
        remembered=4096,
        certificates=(CERTIFICATE,) * 100,
    )
    assert len(report.to_bytes()) < SLOT_BYTES / 2


def a_histogram(*seconds: float) -> Histogram:
    """A histogram that saw these."""
    histogram = Histogram.empty(BOUNDS)
    for each in seconds:
        histogram.add(each)
    return histogram


def test_upper_bounds_are_included() -> None:
    """As in Prometheus: `le` is "less than or equal"."""
    histogram = a_histogram(0.5, 1.0, 1.1, 4.0, 4.1)
    assert histogram.counts == [2, 1, 1, 1]
    assert histogram.total == pytest.approx(10.7)
    assert histogram.observations == 5


@pytest.mark.parametrize(
    ("seconds", "share", "expected"),
    [((), 0.5, None), ((0.5, 1.5, 3.0), 0.5, 2.0), ((0.5, 9.0), 0.99, 4.0), ((0.5,), 0.99, 1.0)],
)
def test_quantile_is_an_upper_estimate(
    seconds: tuple[float, ...], share: float, expected: float | None
) -> None:
    """It names a bound, never something between two of them."""
    assert a_histogram(*seconds).quantile(share) == expected


def test_histograms_add_up() -> None:
    """Two workers' histograms are as good as one that saw everything."""
    histogram = a_histogram(0.5, 9.0)
    histogram.absorb(a_histogram(3.0))
    assert histogram == a_histogram(0.5, 9.0, 3.0)


@pytest.mark.parametrize("bounds", [DECISION_BOUNDS, REQUEST_BOUNDS])
def test_bounds_grow(bounds: tuple[float, ...]) -> None:
    """Prometheus refuses others."""
    assert list(bounds) == sorted(set(bounds))
