"""Says when to fetch, and runs one fetch at a time for all who wait for it.

Knows nothing of keys: what a fetch is, and when the next one is due, is handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Final

import structlog

from nexus_auth.adapters.registry.fetch import PATIENCE_IN_OUTAGE_SECONDS
from nexus_auth.domain.errors import RegistryError, RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nexus_auth.adapters.registry.backoff import Backoff
    from nexus_auth.adapters.registry.fetch import Timing

EARLY_SECONDS: Final = 2.0
"""Fetches are at least this far apart, however many callers ask for one."""

WATCH_SECONDS: Final = 1.0
"""How often to look for news that other processes saved: so much later a new key counts here."""

MAX_WAITING: Final = 32
"""How many callers with an unknown hotkey may wait for the next early fetch; the others are
answered at once from what is known. Twice as many with a known hotkey may: they have rotated their
key, or claim to."""

JITTER: Final = 0.05
"""Refreshes come up to this part early, so that replicas that started together drift apart."""

_SLEEP_SLACK_SECONDS: Final = 0.01
"""A sleep may end this much before its time, by another clock."""

_log = structlog.get_logger(__name__)


class Refresher:
    """Runs fetches: when they are due (between `start` and `aclose`) and when callers need them.

    There is one fetch in flight at a time, and all who need its answer wait for the same task.
    """

    def __init__(
        self,
        *,
        fetch: Callable[[], Awaitable[None]],
        next_due: Callable[[float], float],
        find_news: Callable[[], Awaitable[bool]] | None,
        backoff: Backoff,
        timing: Timing,
    ) -> None:
        """Wires the refresher. All moments are by the monotonic clock, all spans in seconds.

        Args:
            fetch: Fetches, and takes in what comes. May raise RegistryError and TimeoutError.
            next_due: Says when to fetch next after a fetch that began at a moment and did not fail.
            find_news: Takes in what other processes fetched, and says whether there was anything;
                None where there are no others.
            backoff: Counts failed fetches, and spaces them during an outage.
            timing: How long a caller may wait for a fetch, and by which clock.
        """
        self._fetch = fetch
        self._next_due = next_due
        self._find_news = find_news
        self._backoff = backoff
        self._monotonic = timing.clocks.monotonic
        self._patience = timing.patience.total_seconds()
        self._in_flight: asyncio.Task[None] | None = None
        self._began = float("-inf")
        self._is_answered = False
        # Resolved whenever there is something to look at anew.
        self._news: asyncio.Future[None] | None = None
        self._waiting = 0
        self._due = float("-inf")
        self._due_changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether fetches are started when they are due."""
        return self._keeper is not None

    def start(self) -> None:
        """Begins to fetch in the background, at once where that is due."""
        self._keeper = asyncio.create_task(self._keep_fresh(), name="registry-keeper")
        # The first fetch is in flight before the first caller can come.
        if self._in_flight is None and self._due <= self._monotonic():
            self._begin(is_early=False)

    async def aclose(self) -> None:
        """Ends the fetch in flight, and begins no other by itself."""
        tasks = [task for task in (self._keeper, self._in_flight) if task is not None]
        self._keeper = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self) -> None:
        """Fetches now, or waits for the fetch in flight. Raises nothing."""
        await asyncio.wait({self._in_flight or self._begin(is_early=True)})

    async def wait_for_news(self, is_enough: Callable[[], bool], *, is_known: bool) -> None:
        """Waits for the fetch in flight, or for one that may begin now or soon.

        Returns at once while the source is known to be down, and where another early fetch would
        come too late for the caller's patience. `is_enough` is called when there is news, and says
        whether that ends the wait; `is_known` whether the caller's hotkey is known.
        """
        patience_ends = self._monotonic() + self._patience
        in_flight = self._in_flight
        # Once a fetch has its answer, what follows (handing it to others) brings no news.
        if in_flight is None or self._is_answered:
            if self._backoff.is_waiting:
                return
            delay = self._began + EARLY_SECONDS - self._monotonic()
            if delay > 0 and not await self._sleep(
                delay, patience_ends=patience_ends, is_known=is_known
            ):
                return
            # Others woke at the same time; the first of them begins the fetch.
            in_flight = self._in_flight
            if in_flight is None:
                if self._monotonic() < self._began + EARLY_SECONDS - _SLEEP_SLACK_SECONDS:
                    return
                in_flight = self._begin(is_early=True)
        # Counted from the fetch, not from the caller: a source that has been silent for that long
        # delays no other caller.
        patience = PATIENCE_IN_OUTAGE_SECONDS if self._backoff.is_failing else self._patience
        patience_ends = min(patience_ends, self._began + patience)
        while self._in_flight is in_flight and (left := patience_ends - self._monotonic()) > 0:
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            # Cancels nothing that others wait for as well.
            await asyncio.wait({self._news}, timeout=left)
            if is_enough():
                return

    def note_answer(self) -> None:
        """Notes that the fetch in flight has its answer, though it may have more to do."""
        self._backoff.succeeded()
        self._is_answered = True

    def announce(self) -> None:
        """Has every waiting caller look again."""
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)

    def plan(self, began: float = float("-inf")) -> None:
        """Sets when the next fetch is due, after one that began at a moment."""
        failing = self._backoff.is_failing
        self._due = self._backoff.next_try if failing else self._next_due(began)
        self._due_changed.set()

    async def _sleep(self, delay: float, *, patience_ends: float, is_known: bool) -> bool:
        """Waits until an early fetch may begin; returns False where that is not worthwhile."""
        limit = 2 * MAX_WAITING if is_known else MAX_WAITING
        is_worthwhile = self._monotonic() + delay < patience_ends and not self._backoff.is_failing
        if not is_worthwhile or self._waiting >= limit:
            return False
        self._waiting += 1
        try:
            await asyncio.sleep(delay)
        finally:
            self._waiting -= 1
        return True

    # Fetching.

    def _begin(self, *, is_early: bool) -> asyncio.Task[None]:
        self._began = self._monotonic()
        self._is_answered = False
        self._in_flight = asyncio.create_task(
            self._run_fetch(is_early=is_early), name="registry-refresh"
        )
        return self._in_flight

    async def _run_fetch(self, *, is_early: bool) -> None:
        """Runs one fetch to its end, whatever that is. Raises nothing."""
        began = self._began
        try:
            # A fetch is needless where another process brings news, unless a caller wants one.
            if self._find_news is None or not await self._find_news() or is_early:
                await self._fetch()
        except TimeoutError:
            self._backoff.failed(RegistryUnavailable("the source did not answer in time"))
        except RegistryError as exc:
            self._backoff.failed(exc)
        except Exception as exc:  # noqa: BLE001 - the edge of a task that nothing awaits.
            # A defect, ours or the source's: it must neither end the refreshing nor go unseen.
            _log.exception("refresh_crashed")
            self._backoff.failed(exc)
        finally:
            self._in_flight = None
            self.plan(began)
            self.announce()

    # Refreshing in the background.

    async def _keep_fresh(self) -> None:
        while True:
            try:
                await self._wait_and_fetch()
            except Exception:  # noqa: BLE001 - the edge of a task that nothing awaits.
                # A defect; the refreshing goes on, and does not fill the log.
                _log.exception("keeper_crashed")
                await asyncio.sleep(EARLY_SECONDS)

    async def _wait_and_fetch(self) -> None:
        """Waits until a fetch is due, and begins it; or takes in news, or waits again."""
        if self._in_flight is not None:
            await asyncio.wait({self._in_flight})
        self._due_changed.clear()
        delay = self._due - self._monotonic()
        if delay > 0:
            if self._find_news is not None:
                delay = min(delay, WATCH_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._due_changed.wait()
            if self._find_news is not None and self._in_flight is None and await self._find_news():
                self.plan()
        elif self._in_flight is None:
            self._begin(is_early=False)


def refresh_due(*, fetched_at: float, began: float, every: float, is_ours: bool) -> float:
    """When a snapshot is to be renewed whose fetch began at `fetched_at`, `every` so many seconds.

    The process that fetched last (`is_ours`) fetches next; the others stand by. `began` is when
    the last fetch of this process began. All moments are by the monotonic clock.
    """
    early, late = (1 - JITTER, 1.0) if is_ours else (1.0, 1 + 2 * JITTER)
    # Not for secrets: they need only differ.
    due = fetched_at + every * random.uniform(early, late)  # noqa: S311
    return max(due, began + EARLY_SECONDS)
