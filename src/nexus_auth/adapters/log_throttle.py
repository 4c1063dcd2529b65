"""Limits how often one kind of line is logged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

    from nexus_auth.domain.ports import MonotonicClock

REMINDER_SECONDS: Final = 600.0
"""The least time between two lines that say the same."""

QUIET_SECONDS: Final = 30.0
"""The least time between two lines that differ: a source that fails every other time must not fill
the log."""


class LogThrottle:
    """Says whether one kind of line is to be logged now.

    The first line is. After it, a different one is allowed `QUIET_SECONDS` later, and the same one
    `REMINDER_SECONDS` later.
    """

    def __init__(self, monotonic: MonotonicClock) -> None:
        self._monotonic = monotonic
        self._logged: Hashable = None
        self._logged_at = float("-inf")

    def allow(self, what: Hashable) -> bool:
        """Says whether a line about this is to be logged, and counts it as logged if so."""
        now = self._monotonic()
        quiet = REMINDER_SECONDS if what == self._logged else QUIET_SECONDS
        if now - self._logged_at < quiet:
            return False
        self._logged, self._logged_at = what, now
        return True
