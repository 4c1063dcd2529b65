"""Ctrl-C and its relatives, put off while the only copy of a key is on its way."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from nexus_auth.entrypoints.signals import exit_code_of, handled_by

if TYPE_CHECKING:
    from types import FrameType

_FIRST: Final = (
    "Not now: Pylon may be replacing the key on chain, and the answer holds the only copy of the "
    "new one. Ending as soon as it is on disk."
)
_SECOND: Final = (
    "Still waiting. Ending now may lose the new key: the certificate on disk would be worthless, "
    "and a new one would have to be made. Press Ctrl-C once more to end all the same."
)


class HeldSignals:
    """Notes the signals that end a process, and says why they have to wait.

    The third Ctrl-C is obeyed: somebody was told twice what that costs. Other signals never are;
    whoever sends them can send SIGKILL.

    Attributes:
        received: The first signal that came.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.received: int | None = None
        self._say = say
        self._interrupts = 0
        self._give_up: Callable[[], object] | None = None

    @property
    def exit_code(self) -> int | None:
        """What a shell reports of a process that the signal ended; None when none came."""
        return None if self.received is None else exit_code_of(self.received)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds signals for the length of the block, which runs in a task on the main thread."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        if task is not None:
            self._give_up = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            with handled_by(self._handle):
                yield
        finally:
            self._give_up = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        self._interrupts += number == signal.SIGINT
        if self._interrupts <= 1:
            self._say(_FIRST)
        elif self._interrupts == 2:  # noqa: PLR2004 - the second one
            self._say(_SECOND)
        elif self._give_up is not None:
            self._give_up()
