"""The signals by which a process is asked to end, for code that cannot end at every moment."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
"""What a service drains on; SIGHUP has another meaning to it."""
ENDING: Final = (*STOPPING, signal.SIGHUP)
"""What ends a command: `kill`, Ctrl-C, a terminal that was closed."""

_SIGNALLED: Final = 128


def exit_code_of(number: int) -> int:
    """What a shell reports of a process that a signal ended."""
    return _SIGNALLED + number


@contextmanager
def handled_by(
    handle: Callable[[int, FrameType | None], None],
    signals: Sequence[signal.Signals] = ENDING,
) -> Iterator[None]:
    """Replaces the signals' handlers for the length of the block, on the main thread."""
    before: dict[int, Any] = {each: signal.signal(each, handle) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Has SIGTERM end the process with its exit code for the length of the block.

    Without a handler it ends a process as well, but not the first one of a container: for that
    one the kernel drops the signal for good.
    """
    with handled_by(_exit, (signal.SIGTERM,)):
        yield


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(exit_code_of(number))


@contextmanager
def held_back() -> Iterator[None]:
    """Keeps signals waiting until a `let_through` inside the block; none is lost, none kills.

    What still waits at the end of the block is dropped: the process ends then.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        while signal.sigtimedwait(ENDING, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def let_through() -> Iterator[None]:
    """Delivers signals for the length of the block; their handlers are there before."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class HeldSignals:
    """Notes the signals that would end a process, and explains why they have to wait.

    A Ctrl-C after the last explanation is obeyed: the user knows by then what it costs. Other
    signals never are; their sender can send SIGKILL.

    Attributes:
        exit_code: What a shell reports of a process that the first signal ended; None when none
            came.
    """

    def __init__(self, say: Callable[[str], None], explanations: Sequence[str]) -> None:
        """Keeps what to `say` to the user, from a signal handler.

        There is at least one explanation: for the first Ctrl-C, the second, and so on. Other
        signals repeat the last that was shown.
        """
        self.exit_code: int | None = None
        self._say = say
        self._explanations = explanations
        self._interrupts = 0
        self._give_up: Callable[[], object] | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds signals for the length of the block, which runs in a task on the main thread.

        The Ctrl-C that is obeyed cancels the task.
        """
        import asyncio  # here, since every command imports this module first

        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        if task is not None:
            self._give_up = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            with handled_by(self._handle):
                yield
        finally:
            self._give_up = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.exit_code is None:
            self.exit_code = exit_code_of(number)
        self._interrupts += number == signal.SIGINT
        if self._interrupts <= len(self._explanations):
            self._say(self._explanations[max(self._interrupts, 1) - 1])
        elif self._give_up is not None:
            self._give_up()


class Interrupts:
    """Turns the signals that end a process into `SystemExit`, except while held."""

    def __init__(self) -> None:
        self._held = 0
        self._pending: int | None = None
        self._closing = False

    def caught(self) -> AbstractContextManager[None]:
        """Replaces the signals' handlers for the length of the block."""
        return handled_by(self._handle)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Puts signals off until the end of the block, which must be short."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._pending is not None and not self._held:
            raise SystemExit(exit_code_of(self._pending))

    def close(self) -> None:
        """From now on signals change nothing: the process is ending already."""
        self._closing = True

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._closing:
            return
        if not self._held:
            raise SystemExit(exit_code_of(number))
        self._pending = number
