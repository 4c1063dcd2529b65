"""Reports on one worker, and the sum of all."""

from __future__ import annotations

from datetime import timedelta

from nexus_auth.adapters.observability.counters import Counters
from nexus_auth.adapters.observability.monitor import Monitor
from nexus_auth.adapters.observability.shared_memory import SharedReports
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.health import Freshness
from tests.builders import NOW, a_certificate, a_hotkey, a_key, to_der
from tests.fakes import FakeClock
from tests.unit.adapters.observability.watched import a_state, grant


def a_monitor(
    *,
    shared_reports: SharedReports | None = None,
    worker: int = 0,
    freshness: Freshness = Freshness.FRESH,
    certificates: tuple[ClientCertificate, ...] = (),
) -> tuple[Monitor, Counters]:
    """A worker's monitor, and its counters."""
    clock = FakeClock()
    counters = Counters(clock=clock)
    monitor = Monitor(
        counters=counters,
        registry_health=lambda: a_state(freshness),
        remembered=lambda: certificates,
        clock=clock,
        shared_reports=shared_reports,
        worker=worker,
    )
    return monitor, counters


async def test_single_worker_needs_no_shared_memory() -> None:
    """Its own report is the whole overview."""
    monitor, counters = a_monitor()
    await monitor.start()
    grant(counters)
    assert monitor.overview().codes["granted"] == 1
    assert monitor.health().freshness is Freshness.FRESH
    await monitor.aclose()


async def test_worker_sees_what_others_published() -> None:
    """Counts add up, and the worst registry speaks for all."""
    shared_reports = SharedReports(2)
    first, _ = a_monitor(shared_reports=shared_reports)
    second, counters = a_monitor(
        shared_reports=shared_reports, worker=1, freshness=Freshness.EXPIRED
    )
    await first.start()
    await second.start()
    grant(counters, times=5)
    await second.aclose()
    assert first.overview().codes["granted"] == 5
    assert first.overview().workers == 2
    assert first.health().freshness is Freshness.EXPIRED
    await first.aclose()


async def test_replaced_worker_goes_on_where_its_predecessor_ended() -> None:
    """A counter that goes back would look like a restart of everything."""
    shared_reports = SharedReports(1)
    for expected in (2, 4, 6):
        monitor, counters = a_monitor(shared_reports=shared_reports)
        await monitor.start()
        grant(counters, times=2)
        await monitor.aclose()
        overview = monitor.overview()
        assert overview.codes["granted"] == expected
        assert overview.minutes[int(NOW.timestamp() // 60)] == (expected, 0)
        assert [each.times for each in overview.callers] == [expected]


async def test_worker_read_before_it_has_started_shows_what_its_predecessor_counted() -> None:
    """The admin listener may be scraped before the worker that replaces another is ready."""
    shared_reports = SharedReports(1)
    predecessor, counters = a_monitor(shared_reports=shared_reports)
    await predecessor.start()
    grant(counters, times=2)
    await predecessor.aclose()

    successor, counters = a_monitor(shared_reports=shared_reports)
    assert successor.overview().codes["granted"] == 2
    await successor.start()
    grant(counters)
    assert successor.overview().codes["granted"] == 3
    await successor.aclose()


def test_certificates_that_end_within_thirty_days_are_shown() -> None:
    """The soonest first; those that are valid for longer are left out."""

    def ending_in(days: int, name: str) -> ClientCertificate:
        built = a_certificate(
            hotkey=a_hotkey(name), key=a_key(name), not_after=NOW + timedelta(days=days)
        )
        return ClientCertificate.from_der(to_der(built))

    certificates = (ending_in(29, "bob"), ending_in(2, "alice"), ending_in(31, "carol"))
    monitor, _ = a_monitor(certificates=certificates)
    overview = monitor.overview()
    assert overview.remembered == 3
    ending = [each.hotkey for each in overview.certificates]
    assert ending == [a_hotkey("alice").address, a_hotkey("bob").address]
