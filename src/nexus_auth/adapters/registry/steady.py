"""Clocks that only go forward."""

from __future__ import annotations

import time
from collections.abc import Callable

SteadyClock = Callable[[], float]
"""Tells seconds since some moment in the past; never goes back, never jumps."""

if hasattr(time, "CLOCK_BOOTTIME"):

    def steady_seconds() -> float:
        """Seconds since the machine started, the time it slept included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:  # pragma: no cover - Linux has it

    def steady_seconds() -> float:
        """Seconds since some moment in the past."""
        return time.monotonic()
