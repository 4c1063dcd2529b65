"""The event loop of the tests that wait."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.builders import NOW
from tests.virtual_time import START_SECONDS, LoopClocks, VirtualTimeLoop

pytestmark = pytest.mark.virtual_time

YEAR_SECONDS = 365 * 24 * 3600.0


def test_mark_alone_changes_nothing_for_a_test_that_does_not_wait() -> None:
    """A module can be marked as a whole."""


async def test_sleep_takes_its_time_on_every_clock_but_the_real_one() -> None:
    """A year is over at once."""
    clocks = LoopClocks()
    assert (clocks.wall(), clocks.monotonic()) == (NOW, START_SECONDS)
    await asyncio.sleep(YEAR_SECONDS)
    assert clocks.monotonic() == pytest.approx(START_SECONDS + YEAR_SECONDS)
    assert (clocks.wall() - NOW).total_seconds() == pytest.approx(YEAR_SECONDS)


async def test_timers_run_in_their_order() -> None:
    """Virtual time stops at each of them."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    seen: list[tuple[str, float]] = []

    async def note(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((name, loop.time() - START_SECONDS))

    await asyncio.gather(note("last", 3600), note("first", 0.001), note("second", 60))
    assert [name for name, _ in seen] == ["first", "second", "last"]
    assert [at for _, at in seen] == pytest.approx([0.001, 60, 3600])


async def test_time_limit_passes_where_nothing_else_can_happen() -> None:
    """And not before."""
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await asyncio.Event().wait()
    assert loop.time() == pytest.approx(START_SECONDS + 60)


async def test_time_does_not_pass_while_a_task_can_run() -> None:
    """However long it takes by the real clock."""
    loop = asyncio.get_running_loop()
    for _ in range(1000):
        await asyncio.sleep(0)
    assert loop.time() == START_SECONDS


async def test_time_does_not_pass_while_a_thread_is_at_work() -> None:
    """A job takes no virtual time, so it is always within its time limit."""
    loop = asyncio.get_running_loop()
    other = asyncio.create_task(asyncio.sleep(3600))
    async with asyncio.timeout(0.001):
        await asyncio.to_thread(time.sleep, 0.05)
    assert loop.time() == START_SECONDS
    assert not other.done()
    await other


async def test_many_threads_never_let_time_slip() -> None:
    """The result of the last of them is delivered before the next timer."""
    for _ in range(200):
        async with asyncio.timeout(0.001):
            await asyncio.gather(*(asyncio.to_thread(int) for _ in range(4)))


async def test_job_that_fails_or_is_given_up_lets_time_pass_in_the_end() -> None:
    """Neither an exception nor a cancellation stops the clock for ever."""
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 / 0)
    let_go = threading.Event()
    job = asyncio.create_task(asyncio.to_thread(let_go.wait, 10))
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    let_go.set()
    await asyncio.sleep(3600)
