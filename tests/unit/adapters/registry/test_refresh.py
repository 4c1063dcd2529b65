from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import structlog.testing

from nexus_auth.adapters.registry.backoff import RETRY_SECONDS_AT_MOST, Backoff
from nexus_auth.adapters.registry.fetch import PATIENCE_IN_OUTAGE_SECONDS, PATIENCE_SECONDS
from nexus_auth.adapters.registry.refresh import (
    EARLY_SECONDS,
    JITTER,
    MAX_WAITING,
    WATCH_SECONDS,
    Refresher,
    refresh_due,
)
from nexus_auth.domain.errors import RegistryUnavailable
from tests.unit.adapters.registry.sources import a_timing, until_idle
from tests.virtual_time import LoopClocks

pytestmark = pytest.mark.virtual_time

EVERY_SECONDS = 30.0
DOWN = RegistryUnavailable("connection refused")


class Scene:
    """A refresher over fetches that end when they are let."""

    def __init__(self, *, is_shared: bool = False) -> None:
        self.clocks = LoopClocks()
        self.fetches = 0
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.is_news = False
        self.news_at = float("-inf")
        self.looks = 0
        self.look_error: Exception | None = None
        self.backoff = Backoff(source="test", clocks=self.clocks.both)
        self.refresher = Refresher(
            fetch=self._fetch,
            next_due=lambda began: max(began, self.news_at) + EVERY_SECONDS,
            find_news=self._find_news if is_shared else None,
            backoff=self.backoff,
            timing=a_timing(self.clocks),
        )

    async def _fetch(self) -> None:
        self.fetches += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.refresher.note_answer()

    async def _find_news(self) -> bool:
        self.looks += 1
        if self.look_error is not None:
            raise self.look_error
        if self.is_news:
            self.news_at = self.clocks.monotonic()
        return self.is_news

    async def wait_for_news(self, *, is_known: bool = False, is_enough: bool = False) -> float:
        """Waits as a caller does, and says for how many seconds."""
        began = self.clocks.monotonic()
        await self.refresher.wait_for_news(lambda: is_enough, is_known=is_known)
        return self.clocks.monotonic() - began


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    """A scene of a process on its own."""
    scene = Scene()
    yield scene
    await scene.refresher.aclose()


@pytest_asyncio.fixture
async def one_of_many() -> AsyncIterator[Scene]:
    """A scene of a process that takes in what others have fetched."""
    scene = Scene(is_shared=True)
    yield scene
    await scene.refresher.aclose()


async def test_all_who_refresh_share_the_fetch_in_flight(scene: Scene) -> None:
    """One request to the source, however many wait for it."""
    await asyncio.gather(*(scene.refresher.refresh() for _ in range(100)))
    assert scene.fetches == 1


async def test_started_refresher_fetches_at_once_and_whenever_it_is_due(scene: Scene) -> None:
    """Until it is closed."""
    scene.refresher.start()
    await asyncio.sleep(10 * EVERY_SECONDS + 1)
    assert scene.fetches == 1 + 10
    assert scene.refresher.is_running
    await scene.refresher.aclose()
    await asyncio.sleep(10 * EVERY_SECONDS)
    assert scene.fetches == 1 + 10
    assert not scene.refresher.is_running


async def test_close_waits_until_the_fetch_in_flight_has_ended(scene: Scene) -> None:
    """What it uses is closed next."""
    scene.open.clear()
    scene.refresher.start()
    await until_idle()
    assert len(asyncio.all_tasks()) == 1 + 2
    await scene.refresher.aclose()
    assert len(asyncio.all_tasks()) == 1


async def test_start_joins_the_fetch_in_flight(scene: Scene) -> None:
    """A caller who came before it has begun one: a second one would be one too many."""
    scene.open.clear()
    refreshing = asyncio.create_task(scene.refresher.refresh())
    await until_idle()
    scene.refresher.start()
    await asyncio.sleep(10)
    assert scene.fetches == 1
    scene.open.set()
    await refreshing


async def test_start_fetches_nothing_that_is_not_due(scene: Scene) -> None:
    """A service that is started again and again is no burden to the source."""
    scene.refresher.plan(scene.clocks.monotonic())
    scene.refresher.start()
    await asyncio.sleep(EVERY_SECONDS - 1)
    assert scene.fetches == 0
    await asyncio.sleep(2)
    assert scene.fetches == 1


@pytest.mark.parametrize("overdue", [0.0, 1.0, float("inf")])
async def test_first_caller_shares_the_fetch_that_a_start_begins(
    one_of_many: Scene, overdue: float
) -> None:
    """And its news, where another process has brought some: no fetch of its own."""
    one_of_many.is_news = True
    if overdue < float("inf"):
        one_of_many.refresher.plan(one_of_many.clocks.monotonic() - EVERY_SECONDS - overdue)
    one_of_many.refresher.start()
    await one_of_many.refresher.refresh()
    assert (one_of_many.looks, one_of_many.fetches) == (1, 0)


async def test_failures_are_spaced_by_the_backoff(scene: Scene) -> None:
    """Not by the interval: the source may be back sooner."""
    scene.error = DOWN
    scene.refresher.start()
    await asyncio.sleep(300)
    assert 300 / RETRY_SECONDS_AT_MOST <= scene.fetches <= 300 / 2


@pytest.mark.parametrize("error", [TimeoutError(), ZeroDivisionError("a defect")])
async def test_fetch_that_breaks_is_a_failure_and_ends_nothing(
    scene: Scene, error: Exception
) -> None:
    """A defect is logged with its traceback."""
    scene.error = error
    with structlog.testing.capture_logs() as lines:
        await scene.refresher.refresh()
    assert scene.backoff.is_failing
    is_defect = not isinstance(error, TimeoutError)
    assert any(line["event"] == "refresh_crashed" for line in lines) == is_defect


async def test_patience_counts_from_the_fetch(scene: Scene) -> None:
    """Callers who come later wait for the rest of it only."""
    scene.open.clear()
    first = asyncio.create_task(scene.wait_for_news())
    await asyncio.sleep(1)
    assert await scene.wait_for_news() == pytest.approx(PATIENCE_SECONDS - 1)
    assert await scene.wait_for_news() == 0
    assert await first == pytest.approx(PATIENCE_SECONDS)
    assert scene.fetches == 1


async def test_patience_is_short_in_an_outage(scene: Scene) -> None:
    """Between two attempts there is none at all."""
    scene.error = DOWN
    await scene.refresher.refresh()
    assert await scene.wait_for_news() == 0
    scene.open.clear()
    await asyncio.sleep(RETRY_SECONDS_AT_MOST)
    assert await scene.wait_for_news() == pytest.approx(PATIENCE_IN_OUTAGE_SECONDS)
    assert scene.fetches == 2


async def test_caller_waits_for_no_early_fetch_in_an_outage(scene: Scene) -> None:
    """Not even where the next attempt is due before the distance is kept."""
    scene.error = DOWN
    await scene.refresher.refresh()
    await asyncio.sleep(1)
    assert not scene.backoff.is_waiting
    assert await scene.wait_for_news() == 0
    assert scene.fetches == 1


async def test_news_end_the_wait_before_the_fetch_does(scene: Scene) -> None:
    """They are announced while the fetch has more to do; whether they are enough is asked then."""
    scene.open.clear()
    content = asyncio.create_task(scene.wait_for_news(is_enough=True))
    patient = asyncio.create_task(scene.wait_for_news())
    await asyncio.sleep(1)
    scene.refresher.announce()
    assert await content == pytest.approx(1)
    assert await patient == pytest.approx(PATIENCE_SECONDS)


async def test_fetch_that_has_its_answer_is_not_waited_for(scene: Scene) -> None:
    """What follows, such as handing it to others, brings no news."""
    scene.open.clear()
    refreshing = asyncio.create_task(scene.refresher.refresh())
    await until_idle()
    scene.refresher.note_answer()
    assert await scene.wait_for_news() == 0
    scene.open.set()
    await refreshing


async def test_early_fetches_keep_their_distance(scene: Scene) -> None:
    """A caller who would wait too long for the next one does not wait."""
    await scene.refresher.refresh()
    assert await scene.wait_for_news() == 0
    await asyncio.sleep(EARLY_SECONDS - 1)
    assert await scene.wait_for_news() == pytest.approx(1)
    assert scene.fetches == 2


async def test_caller_who_waited_begins_no_fetch_soon_after_another(scene: Scene) -> None:
    """Such as one that came due meanwhile: it keeps its distance to every fetch, not to one."""
    await scene.refresher.refresh()
    await asyncio.sleep(0.5)
    waiting = asyncio.create_task(scene.wait_for_news())
    await asyncio.sleep(0.3)
    await scene.refresher.refresh()
    assert await waiting == pytest.approx(EARLY_SECONDS - 0.5)
    assert scene.fetches == 2


@pytest.mark.parametrize(("is_known", "limit"), [(False, MAX_WAITING), (True, 2 * MAX_WAITING)])
async def test_only_so_many_wait_for_the_next_early_fetch(
    scene: Scene, *, is_known: bool, limit: int
) -> None:
    """The first of them begins it, for all of them."""
    for number in range(1, 4):
        await scene.refresher.refresh()
        await asyncio.sleep(EARLY_SECONDS - 1)
        callers = [asyncio.create_task(scene.wait_for_news(is_known=is_known)) for _ in range(200)]
        # One who hangs up makes room for another.
        await until_idle()
        callers[0].cancel()
        await until_idle()
        callers[0] = asyncio.create_task(scene.wait_for_news(is_known=is_known))
        assert sum([await each > 0 for each in callers]) == limit
        assert scene.fetches == 2 * number
        await asyncio.sleep(EARLY_SECONDS)


async def test_news_of_another_process_replace_the_fetch_that_is_due(one_of_many: Scene) -> None:
    """And one more interval passes; a fetch that a caller wants is not replaced."""
    scene = one_of_many
    await scene.refresher.refresh()
    scene.is_news = True
    scene.refresher.plan(scene.clocks.monotonic())
    scene.refresher.start()
    await asyncio.sleep(EVERY_SECONDS - 1)
    assert scene.looks >= (EVERY_SECONDS - 2) / WATCH_SECONDS
    assert scene.fetches == 1
    await scene.refresher.refresh()
    assert scene.fetches == 2


async def test_next_fetch_is_due_an_interval_after_the_last_news(one_of_many: Scene) -> None:
    """A process that stands by fetches nothing that another has just fetched."""
    one_of_many.refresher.start()
    await asyncio.sleep(EVERY_SECONDS / 2)
    one_of_many.is_news = True
    await asyncio.sleep(WATCH_SECONDS)
    one_of_many.is_news = False
    await asyncio.sleep(EVERY_SECONDS - WATCH_SECONDS)
    assert one_of_many.fetches == 1
    await asyncio.sleep(2 * WATCH_SECONDS)
    assert one_of_many.fetches == 2


async def test_caller_with_an_unknown_key_has_a_fetch_whatever_others_have_saved(
    one_of_many: Scene,
) -> None:
    """Their news may be older than the key."""
    one_of_many.is_news = True
    await one_of_many.wait_for_news()
    assert one_of_many.fetches == 1


async def test_looks_in_vain_change_nothing_about_when_a_fetch_is_due(one_of_many: Scene) -> None:
    """A process among many that brings the news itself fetches as often as one on its own."""
    one_of_many.refresher.start()
    await asyncio.sleep(10 * EVERY_SECONDS + 1)
    assert one_of_many.fetches == 1 + 10


async def test_store_is_looked_at_once_a_second_and_not_during_a_fetch(one_of_many: Scene) -> None:
    """So much later a new key counts here; a fetch looks by itself, before it begins."""
    one_of_many.refresher.start()
    await asyncio.sleep(EVERY_SECONDS - 1)
    # One look before the first fetch.
    assert one_of_many.looks == pytest.approx(EVERY_SECONDS, abs=1)
    one_of_many.open.clear()
    refreshing = asyncio.create_task(one_of_many.refresher.refresh())
    await until_idle()
    before = one_of_many.looks
    await asyncio.sleep(10)
    # The keeper waits for one second more before it learns of the fetch.
    assert one_of_many.looks == before
    one_of_many.open.set()
    await refreshing


async def test_defect_ends_no_refreshing_and_does_not_fill_the_log(one_of_many: Scene) -> None:
    """Such as one of looking for news: it is logged with its traceback, and time passes."""
    one_of_many.refresher.start()
    await asyncio.sleep(1)
    one_of_many.look_error = ZeroDivisionError("a defect")
    with structlog.testing.capture_logs() as lines:
        await asyncio.sleep(EVERY_SECONDS - 5)
    crashes = [line for line in lines if line["event"] == "keeper_crashed"]
    assert 2 <= len(crashes) <= EVERY_SECONDS / EARLY_SECONDS
    assert all(line["exc_info"] for line in crashes)
    one_of_many.look_error = None
    await asyncio.sleep(EVERY_SECONDS)
    assert one_of_many.fetches == 2


@pytest.mark.parametrize("is_ours", [True, False])
def test_process_that_fetched_last_fetches_next(*, is_ours: bool) -> None:
    """The others stand by; and none fetches too soon after its last one."""
    due = [
        refresh_due(fetched_at=100, began=100, every=EVERY_SECONDS, is_ours=is_ours)
        for _ in range(100)
    ]
    early, late = (1 - JITTER, 1.0) if is_ours else (1.0, 1 + 2 * JITTER)
    assert all(100 + EVERY_SECONDS * early <= each <= 100 + EVERY_SECONDS * late for each in due)
    soon = refresh_due(fetched_at=100, began=200, every=EVERY_SECONDS, is_ours=is_ours)
    assert soon == 200 + EARLY_SECONDS
