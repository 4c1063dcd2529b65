"""What the demo tells the person who watches it: one line a part, one line a scenario."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Final

from nexus_auth.entrypoints.terminal import painted

if TYPE_CHECKING:
    from typing import TextIO

_ASKED_COLUMNS: Final = 38
_SCENARIO_COLUMNS: Final = 96
"""What the longest line takes."""


class Reporter:
    """Writes lines as things happen; colour on a terminal only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        # On a narrow terminal the reason has a line of its own.
        narrow = self._stream.isatty() and shutil.get_terminal_size().columns < _SCENARIO_COLUMNS
        self._gap = "\n" + " " * 12 if narrow else "  "

    def say(self, text: str = "") -> None:
        """Writes a line."""
        print(text, file=self._stream, flush=True)

    def part(self, name: str, what: str) -> None:
        """Tells of a part that is running now."""
        self.say(f"  {name:<18} {painted(what, 'dim', self._stream)}")

    def scenario(self, *, is_right: bool, status: int, asked: str, why: str) -> None:
        """Tells what was asked, what came back, and why that is right, or what is wrong."""
        mark = painted(" ok ", "green", self._stream) if is_right else self._failed()
        shown = painted(f"{status}", "bold", self._stream)
        self.say(f" {mark} {shown}  {asked:<{_ASKED_COLUMNS}}{self._gap}{why}")

    def verdict(self, *, all_right: bool) -> None:
        """Tells how it went."""
        if all_right:
            self.say(painted("\nAll as it must be.", "green", self._stream))
        else:
            self.say(painted("\nNot all is as it must be.", "red", self._stream))

    def _failed(self) -> str:
        return painted("FAIL", "red", self._stream)
