"""Keeps log lines rare that somebody outside could otherwise have written all the time."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from nexus_auth.adapters.registry.outage import QUIET_SECONDS, REMINDER_SECONDS

if TYPE_CHECKING:
    from nexus_auth.domain.ports import MonotonicClock


class Seldom:
    """Says whether one kind of line is worth writing now.

    The first time it is. Something else is worth a line `QUIET_SECONDS` later, the same again
    after `REMINDER_SECONDS`.
    """

    def __init__(self, steady: MonotonicClock) -> None:
        """Starts with nothing said; `steady` measures spans."""
        self._steady = steady
        self._said: Hashable = None
        self._said_at = float("-inf")

    def is_due(self, what: Hashable) -> bool:
        """Says whether this is to be written, and takes it for written then."""
        now = self._steady()
        quiet = REMINDER_SECONDS if what == self._said else QUIET_SECONDS
        if now - self._said_at < quiet:
            return False
        self._said, self._said_at = what, now
        return True
