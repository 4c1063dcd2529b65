"""Reports and their sum."""

from __future__ import annotations

import dataclasses

import pytest

from nexus_auth.adapters.observability.counters import STATUSES, Counters
from nexus_auth.adapters.observability.report import (
    CALLERS_KEPT,
    DENIALS_KEPT,
    MINUTES_KEPT,
    SILENT_SECONDS,
    CertificateSeen,
    Overview,
    Report,
)
from nexus_auth.adapters.observability.shared_memory import SLOT_BYTES
from nexus_auth.domain.health import Freshness, RegistryHealth
from nexus_auth.domain.reasons import DenialReason
from tests.builders import NOW, a_hotkey
from tests.fakes import FakeClock
from tests.unit.adapters.observability.watched import a_state, deny, grant

CERTIFICATE = CertificateSeen(
    hotkey=a_hotkey().address, fingerprint="ab" * 32, not_after=NOW.timestamp() + 60
)


def a_report(worker: int = 0, *, state: RegistryHealth | None = None) -> Report:
    """A worker that granted two visits and denied one."""
    counters = Counters(clock=FakeClock())
    grant(counters, times=2)
    deny(counters)
    counters.count_fetch("none")
    counters.count_pylon_request(200, 0.1)
    counters.tick()
    return counters.report(
        worker=worker, registry=state or a_state(), remembered=1, certificates=(CERTIFICATE,)
    )


@pytest.mark.parametrize("state", [a_state(), a_state(age=None, error="nobody answered")])
def test_report_survives_the_way_to_another_process(state: RegistryHealth) -> None:
    """Nothing is lost or changed."""
    report = a_report(state=state)
    assert Report.from_bytes(report.to_bytes()) == report


def test_workers_add_up() -> None:
    """Counts are summed; a caller of two workers is one caller."""
    overview = Overview.of(a_report(0), [a_report(1)])
    assert overview.workers == 2
    assert overview.codes["granted"] == 4
    assert overview.seconds["granted"].observations == 4
    assert overview.fetches == {"none": 2}
    assert overview.pylon["200"].observations == 2
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
    overview = Overview.of(a_report(0), [a_report(1, state=a_state(other))])
    assert overview.registry.freshness is expected


def test_silent_worker_counts_only_what_it_had_counted() -> None:
    """It is dead or being replaced; counters must not go back meanwhile."""
    silent = dataclasses.replace(
        a_report(1, state=a_state(Freshness.EXPIRED)), at=NOW.timestamp() - SILENT_SECONDS
    )
    overview = Overview.of(a_report(0), [silent])
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
        counters.count_pylon_request(int(status) if status.isdigit() else None, 1.0)
    report = counters.report(
        worker=63,
        registry=a_state(error="x" * 1000),
        remembered=4096,
        certificates=(CERTIFICATE,) * 100,
    )
    assert len(report.to_bytes()) < SLOT_BYTES / 2
