"""Ctrl-C and its relatives: they end the demo, but never between starting a child and noting it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from types import FrameType

_ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_SIGNALLED: Final = 128
"""Shells report a process that a signal ended as this plus the signal's number."""


class Interrupts:
    """Turns the signals that end a process into `SystemExit`, except while held."""

    def __init__(self) -> None:
        self._held = 0
        self._pending: int | None = None
        self._closing = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Takes over the signals' handlers for the length of the block."""
        before: dict[int, Any] = {each: signal.signal(each, self._handle) for each in _ENDING}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Puts signals off until the end of the block, which must be short."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._pending is not None and not self._held:
            _leave(self._pending)

    def close(self) -> None:
        """From now on signals change nothing: the demo is ending already."""
        self._closing = True

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._closing:
            return
        if self._held:
            self._pending = number
            return
        _leave(number)


def _leave(number: int) -> NoReturn:
    raise SystemExit(_SIGNALLED + number)
