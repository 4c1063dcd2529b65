"""The system's clocks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nexus_auth.domain.ports import Clock, MonotonicClock

utc_now: Final[Clock] = partial(datetime.now, UTC)
"""The wall clock (aware, UTC). No function of ours: it is called several times for each request."""

monotonic_seconds: Final[MonotonicClock] = (
    # Without a Python function in between: it is called for each request.
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)
"""Seconds since the machine started. Time in which it slept counts, where the system can tell."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The two clocks that are used together.

    Attributes:
        wall: Gives the time (aware, UTC).
        monotonic: Measures spans on this machine, across processes.
    """

    wall: Clock = utc_now
    monotonic: MonotonicClock = monotonic_seconds


SYSTEM_CLOCKS: Final = Clocks()
