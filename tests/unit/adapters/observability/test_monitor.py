"""One worker's eye on itself, and on the others."""

from __future__ import annotations

from datetime import timedelta

from nexus_auth.adapters.observability.board import Board
from nexus_auth.adapters.observability.monitor import Monitor
from nexus_auth.adapters.observability.tally import Tally
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.health import Freshness
from tests.builders import NOW, a_certificate, a_hotkey, a_key, to_der
from tests.fakes import FakeClock
from tests.unit.adapters.observability.watched import Registry, Verifier, a_state, grant


def a_monitor(
    *,
    board: Board | None = None,
    worker: int = 0,
    freshness: Freshness = Freshness.FRESH,
    certificates: tuple[ClientCertificate, ...] = (),
) -> tuple[Monitor, Tally]:
    """A worker's monitor, and its tally."""
    clock = FakeClock()
    tally = Tally(clock=clock)
    monitor = Monitor(
        tally=tally,
        registry=Registry(a_state(freshness)),
        verifier=Verifier(*certificates),
        clock=clock,
        board=board,
        worker=worker,
    )
    return monitor, tally


async def test_single_worker_needs_no_board() -> None:
    """It knows everything there is to know."""
    monitor, tally = a_monitor()
    await monitor.start()
    grant(tally)
    assert monitor.overview().codes["granted"] == 1
    assert monitor.health().freshness is Freshness.FRESH
    await monitor.aclose()


async def test_worker_sees_what_others_published() -> None:
    """Counts add up, and the worst registry speaks for all."""
    board = Board(2)
    first, _ = a_monitor(board=board)
    second, tally = a_monitor(board=board, worker=1, freshness=Freshness.EXPIRED)
    await first.start()
    await second.start()
    grant(tally, times=5)
    await second.aclose()
    assert first.overview().codes["granted"] == 5
    assert first.overview().workers == 2
    assert first.health().freshness is Freshness.EXPIRED
    await first.aclose()


async def test_replaced_worker_goes_on_where_its_predecessor_ended() -> None:
    """A counter that goes back would look like a restart of everything."""
    board = Board(1)
    for expected in (2, 4, 6):
        monitor, tally = a_monitor(board=board)
        await monitor.start()
        grant(tally, times=2)
        await monitor.aclose()
        overview = monitor.overview()
        assert overview.codes["granted"] == expected
        assert overview.minutes[int(NOW.timestamp() // 60)] == (expected, 0)
        assert [each.times for each in overview.callers] == [expected]


async def test_worker_asked_before_it_has_started_tells_what_its_predecessor_counted() -> None:
    """The admin listener may be scraped before the worker that replaces another is ready."""
    board = Board(1)
    predecessor, tally = a_monitor(board=board)
    await predecessor.start()
    grant(tally, times=2)
    await predecessor.aclose()

    successor, tally = a_monitor(board=board)
    assert successor.overview().codes["granted"] == 2
    await successor.start()
    grant(tally)
    assert successor.overview().codes["granted"] == 3
    await successor.aclose()


def test_certificates_that_end_within_thirty_days_are_shown() -> None:
    """The soonest first; the others are none of today's worries."""

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
