"""Ctrl-C and its relatives: they end the demo, but never between starting a child and noting it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, NoReturn

from nexus_auth.entrypoints.signals import exit_code_of, handled_by

if TYPE_CHECKING:
    from types import FrameType


class Interrupts:
    """Turns the signals that end a process into `SystemExit`, except while held."""

    def __init__(self) -> None:
        self._held = 0
        self._pending: int | None = None
        self._closing = False

    def caught(self) -> AbstractContextManager[None]:
        """Takes over the signals' handlers for the length of the block."""
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
    raise SystemExit(exit_code_of(number))
