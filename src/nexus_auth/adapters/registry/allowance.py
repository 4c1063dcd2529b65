"""Limits how many fetches callers can cause, and shares that out fairly among hotkeys."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexus_auth.domain.ports import MonotonicClock


class Allowance:
    """So many fetches at once, and so many a second after that (a token bucket)."""

    def __init__(
        self, at_once: int, per_second: float, *, distance: float, monotonic: MonotonicClock
    ) -> None:
        """Starts full. `distance` is the least time between two fetches of a hotkey, in seconds."""
        self._at_once = at_once
        self._per_second = per_second
        self._distance = distance
        self._monotonic = monotonic
        self._left = float(at_once)
        self._counted_at = monotonic()

    @property
    def is_short(self) -> bool:
        """Whether less than half was left when the last fetch was asked for."""
        return self._left < self._at_once / 2

    def take(self, *, idle: float = float("inf"), among: int = 0) -> bool:
        """Says whether a hotkey may be fetched now, and counts the fetch if so.

        The less is left, the longer ago its last fetch must be (`idle`, in seconds), so that those
        that waited longest come first. `among` is how many hotkeys share the allowance. If all of
        them ask without a pause, each has its fetch every `among / per_second` seconds, and half
        of the allowance stays for those that were never fetched.
        """
        now = self._monotonic()
        earned = (now - self._counted_at) * self._per_second
        self._left = min(float(self._at_once), self._left + earned)
        self._counted_at = now
        wait = 2 * among / self._per_second * (1 - self._left / self._at_once)
        if self._left < 1 or idle < self._distance + wait:
            return False
        self._left -= 1
        return True
