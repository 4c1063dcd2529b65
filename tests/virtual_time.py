"""Tests that wait, without the wall clock: an event loop whose time is virtual.

A test marked `virtual_time` runs in a `VirtualTimeLoop`. There `loop.time()` stands still while
some task can run, and jumps to the next timer when none can. `asyncio.sleep`, `asyncio.timeout`
and `call_later` take no real time, and a machine that stalls changes nothing. `LoopClocks` are the
clocks that go with it.

Jobs in threads (`asyncio.to_thread`) are real, and take no virtual time: the loop does not jump
while one is pending. Sockets and child processes are not for this loop: what they wait for is real,
and every time limit on them would pass at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

from nexus_auth.adapters.clock import Clocks
from tests.builders import NOW

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_SECONDS: Final = 1000.0
"""What a new loop's clock shows."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that waits for no timer."""

    def __init__(self) -> None:
        self._now = START_SECONDS
        self._jobs = 0
        self._executor: ThreadPoolExecutor | None = None
        super().__init__(_Selector(self))
        # A timer counts as due within this span. The real clock's is finer than a float of many
        # days, and then a timer that is due exactly now would never run.
        self._clock_resolution = 1e-6

    @property
    def has_jobs(self) -> bool:
        """Whether a thread is at work whose end this loop has not heard of yet."""
        return self._jobs > 0

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Moves the virtual time on."""
        self._now += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Runs a job in a real thread. Time stands still until its result is here."""
        if executor is None:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(thread_name_prefix="virtual")
                self.set_default_executor(self._executor)
            executor = self._executor
        job = executor.submit(func, *args)
        # The order matters: the result is delivered before time may pass again.
        result = asyncio.wrap_future(job, loop=self)
        self._jobs += 1
        job.add_done_callback(self._report_job)
        return result

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the base's signature; its limit would pass at once.
        """Waits for the threads for as long as it takes."""
        await super().shutdown_default_executor()

    def _report_job(self, _: Future[Any]) -> None:
        """Called in the job's thread, or in the loop's where the job was cancelled."""
        with contextlib.suppress(RuntimeError):  # The loop was closed meanwhile.
            self.call_soon_threadsafe(self._end_job)

    def _end_job(self) -> None:
        self._jobs -= 1


class _Selector(selectors.DefaultSelector):
    """Lets virtual time pass where the loop would sleep."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self._loop.has_jobs:
            # The end of a job, or a signal, wakes the loop through its own pipe.
            return super().select(None)
        self._loop.jump(timeout)
        return ready


class LoopClocks:
    """A wall clock and a monotonic clock that follow the time of a loop.

    It is the loop that runs when this is made, or else at the first call. Threads may call too.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()

    @property
    def both(self) -> Clocks:
        """As a registry takes them."""
        return Clocks(self.wall, self.monotonic)

    def wall(self) -> datetime:
        """The time of day; `NOW` when the loop began."""
        return NOW + timedelta(seconds=self.monotonic() - START_SECONDS)

    def monotonic(self) -> float:
        """The time of the loop, in seconds."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.time()
