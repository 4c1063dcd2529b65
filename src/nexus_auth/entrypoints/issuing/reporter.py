"""Tells a person, or a log, what is going on.

Never fails: a closed terminal must not lose a key.
"""

from __future__ import annotations

import asyncio
import io
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from nexus_auth.entrypoints.terminal import painted

if TYPE_CHECKING:
    from typing import TextIO

_TICK_SECONDS: Final = 0.2
_LINE_EVERY_SECONDS: Final = 15.0
_SPINNER: Final = "|/-\\"
_CLEAR_LINE: Final = "\r\x1b[K"


class Reporter:
    """Results go to `out`, everything on the way there to `err`."""

    def __init__(self, *, out: TextIO | None = None, err: TextIO | None = None) -> None:
        # A process that was started without them has None there.
        self._out = out or sys.stdout or io.StringIO()
        self._err = err or sys.stderr or io.StringIO()
        self._is_line_open = False

    def result(self, text: str) -> None:
        """One line about what was done."""
        self._close_line()
        _write(self._out, f"{text}\n")

    def say(self, text: str) -> None:
        """One line about what is going on."""
        self._close_line()
        _write(self._err, f"{text}\n")

    def warn(self, text: str) -> None:
        """Something that the reader has to act on."""
        self._close_line()
        word = "WARNING"
        if _is_terminal(self._err):
            word = painted(word, "yellow", self._err)
        _write(self._err, f"{word}: {text}\n")

    @asynccontextmanager
    async def waiting(self, text: str) -> AsyncIterator[None]:
        """Shows that something is being waited for, and for how long already."""
        is_terminal = _is_terminal(self._err)
        if not is_terminal:
            self.say(text)
        show = self._spin if is_terminal else self._count
        ticker = asyncio.create_task(show(text))
        try:
            yield
        finally:
            ticker.cancel()
            # Whatever became of it must not keep a key from being written.
            await asyncio.gather(ticker, return_exceptions=True)
            self._close_line()

    async def _spin(self, text: str) -> None:
        started = time.monotonic()
        tick = 0
        while True:
            passed = time.monotonic() - started
            sign = _SPINNER[tick % len(_SPINNER)]
            self._is_line_open = True
            _write(self._err, f"{_CLEAR_LINE}{sign} {text} ({passed:.0f} s)")
            tick += 1
            await asyncio.sleep(_TICK_SECONDS)

    async def _count(self, text: str) -> None:
        started = time.monotonic()
        while True:
            await asyncio.sleep(_LINE_EVERY_SECONDS)
            self.say(f"{text} ({time.monotonic() - started:.0f} s)")

    def _close_line(self) -> None:
        if self._is_line_open:
            self._is_line_open = False
            _write(self._err, _CLEAR_LINE)


def _is_terminal(stream: TextIO) -> bool:
    with suppress(OSError, ValueError):
        return stream.isatty()
    return False


def _write(stream: TextIO, text: str) -> None:
    # A closed pipe, a terminal that went away, a full disk under a log: nothing to fail for.
    with suppress(Exception):
        stream.write(text)
        stream.flush()
