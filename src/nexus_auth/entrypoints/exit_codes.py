"""What the exit status of every command means."""

from __future__ import annotations

TYPE_CHECKING = False  # see cli.py: `typing` costs time
if TYPE_CHECKING:
    from typing import Final

DONE: Final = 0
"""It was done, or granted."""
FAILED: Final = 1
"""It failed, or was denied."""
USAGE: Final = 2
"""Wrong usage or configuration."""
UNREACHABLE: Final = 3
"""The registry or Pylon could not be reached."""
