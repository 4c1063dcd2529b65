"""What a command shows while it works.

Showing never fails: a closed terminal must not lose a key.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, TextIO

from nexus_auth.entrypoints.terminal import is_terminal, painted

_TICK_SECONDS: Final = 0.2
_LINE_EVERY_SECONDS: Final = 15.0
_SPINNER: Final = "|/-\\"
_CLEAR_LINE: Final = "\r\x1b[K"
_FULL_COLUMNS: Final = 96
"""What the longest line of a check takes."""
_CHECK_INDENT: Final = "\n" + " " * 12


class Reporter:
    """Writes results to `out`, and everything on the way there to `err`; flushes each line."""

    def __init__(self, *, out: TextIO | None = None, err: TextIO | None = None) -> None:
        # A process that was started without them has None there.
        self._out = out or sys.stdout or io.StringIO()
        self._err = err or sys.stderr or io.StringIO()
        self._is_line_open = False

    def result(self, text: str, colour: str = "") -> None:
        """Writes one line about what was done, in a colour where there is one."""
        self._close_line()
        _write(self._out, f"{painted(text, colour, self._out)}\n")

    def check(self, text: str, why: str, *, is_right: bool) -> None:
        """Writes what was tried, marked ` ok ` or `FAIL`, and why that is right or wrong.

        On a narrow terminal the reason gets a line of its own.
        """
        mark, colour = (" ok ", "green") if is_right else ("FAIL", "red")
        narrow = is_terminal(self._out) and shutil.get_terminal_size().columns < _FULL_COLUMNS
        gap = _CHECK_INDENT if narrow else "  "
        self.result(f" {painted(mark, colour, self._out)} {text}{gap}{why}")

    def say(self, text: str) -> None:
        """Writes one line about what is going on."""
        self._close_line()
        _write(self._err, f"{text}\n")

    def warn(self, text: str) -> None:
        """Writes something that the reader has to act on."""
        self.say(f"{painted('WARNING', 'yellow', self._err)}: {text}")

    @asynccontextmanager
    async def waiting(self, text: str) -> AsyncIterator[None]:
        """Shows that something is being waited for, and for how long already."""
        if not is_terminal(self._err):
            self.say(text)
        ticker = asyncio.create_task(self._tick(text))
        try:
            yield
        finally:
            ticker.cancel()
            # Whatever became of it must not keep a key from being written.
            await asyncio.gather(ticker, return_exceptions=True)
            self._close_line()

    async def _tick(self, text: str) -> None:
        started = time.monotonic()
        for sign in itertools.cycle(_SPINNER):
            if is_terminal(self._err):
                self._is_line_open = True
                passed = time.monotonic() - started
                _write(self._err, f"{_CLEAR_LINE}{sign} {text} ({passed:.0f} s)")
                await asyncio.sleep(_TICK_SECONDS)
            else:
                await asyncio.sleep(_LINE_EVERY_SECONDS)
                self.say(f"{text} ({time.monotonic() - started:.0f} s)")

    def _close_line(self) -> None:
        if self._is_line_open:
            self._is_line_open = False
            _write(self._err, _CLEAR_LINE)


def _write(stream: TextIO, text: str) -> None:
    # A closed pipe, a terminal that went away, a full disk under a log: nothing to fail for.
    with suppress(Exception):
        stream.write(text)
        stream.flush()
