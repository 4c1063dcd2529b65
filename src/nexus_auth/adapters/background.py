"""A thread with an event loop, for code that has none, and what is open in it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

DEFAULT_TIMEOUT_SECONDS: Final = 10.0
"""Registries answer within two seconds. Longer means that something hangs, such as a server that
lets no thread run."""


class _Thread(threading.Thread, Generic[T]):
    """A thread with an event loop, and the thing that runs in it.

    A daemon, so that a program that forgets to close can end.
    """

    def __init__(self, name: str, build: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        """Returns when the thing is open, or raises what opening it raises."""
        super().__init__(name=f"nexus-auth-{name}", daemon=True)
        self._build = build
        self._opened: concurrent.futures.Future[T] = concurrent.futures.Future()
        self.start()
        self.thing = self._opened.result()

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            # The thread that waits for the thing gets the error; once it is open, none waits.
            if self._opened.done():
                raise
            self._opened.set_exception(exc)

    async def _serve(self) -> None:
        self.loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        async with self._build() as thing:
            self._opened.set_result(thing)
            await self._closing.wait()

    def stop(self) -> None:
        with suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self._closing.set)


class Background(Generic[T]):
    """One thing that is opened in a thread of its own: at its first use, once in each process.

    A program that forks may create this object before. Safe to use from several threads. The thread
    ends when this object is closed, or is no longer used.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], AbstractAsyncContextManager[T]],
        *,
        timeout_seconds: float,
    ) -> None:
        """Starts nothing yet.

        Args:
            name: What the thing is, for the thread's name and for errors.
            build: Builds the context manager that opens the thing, and closes it.
            timeout_seconds: How long one call may take.
        """
        self._name, self._build = name, build
        self._timeout_seconds = timeout_seconds
        self._closed = False
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Starts anew, in a forked process."""
        # In a forked process the thread does not exist, and the lock may be held for ever.
        self._lock = threading.Lock()
        self._thread: _Thread[T] | None = None

    def run(self, call: Callable[[T], Coroutine[Any, Any, R]]) -> R:
        """Runs a call of the thing in its event loop, and waits for the result.

        Raises:
            TimeoutError: When it takes too long, or is cancelled.
            RuntimeError: When this object was closed.
            Exception: What the call raises; what opening the thing raises, at its first use.
        """
        thread = self.ensure_open()
        coroutine = call(thread.thing)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, thread.loop)
        except RuntimeError:
            coroutine.close()
            raise self._is_closed() from None
        try:
            return future.result(self._timeout_seconds)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            future.cancel()
            raise TimeoutError from None

    def close(self) -> None:
        """Closes the thing and ends the thread. May be called more than once."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()
            thread.join()

    def ensure_open(self) -> _Thread[T]:
        """Opens the thing, unless it is open."""
        thread = self._thread
        if thread is not None:
            return thread
        with self._lock:
            if self._closed:
                raise self._is_closed()
            if self._thread is None:
                self._thread = _Thread(self._name, self._build)
                weakref.finalize(self, _stop_thread, os.getpid(), self._thread).atexit = False
            return self._thread

    def _is_closed(self) -> RuntimeError:
        return RuntimeError(f"the {self._name} is closed")


def _stop_thread(process: int, thread: _Thread[Any]) -> None:
    if process == os.getpid():  # no forked one, where the thread does not exist
        thread.stop()


_forgetful: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def forget_in_child(owner: Any) -> None:
    """Has `owner.forget()` called in each forked process, while the owner lives."""
    _forgetful.add(owner)


def _forget_all() -> None:
    for owner in list(_forgetful):
        owner.forget()


os.register_at_fork(after_in_child=_forget_all)
