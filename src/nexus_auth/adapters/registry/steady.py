"""Clocks that only go forward."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Final

SteadyClock = Callable[[], float]
"""Tells seconds since some moment in the past; never goes back, never jumps."""

steady_seconds: Final[SteadyClock] = (
    # Without a Python function in between: every request asks.
    functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)
"""Seconds since the machine started, the time it slept included where the system can tell."""
