"""Spaces the attempts to reach a source that fails, and the lines that are logged about it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import structlog

from nexus_auth.adapters.log_throttle import LogThrottle

if TYPE_CHECKING:
    from datetime import datetime

    from nexus_auth.adapters.clock import Clocks

RETRY_SECONDS_AT_LEAST: Final = 0.5
"""The pause after the first failure: a source that refuses connections refuses them quickly."""

RETRY_SECONDS_AT_MOST: Final = 8.0
"""The longest pause. The service recovers within this time of its source, and sends a dead one
some 15 requests a minute at most."""

_log = structlog.get_logger(__name__)


class Backoff:
    """Counts the failures of one source in a row, and says when to try it again.

    Logs when an outage begins, goes on and ends.

    Attributes:
        source: What the source is called.
        since: When the outage began (aware, UTC); None while there is none.
        last_error: What the last failure said; None while there is none.
        next_try: When the next attempt is due, by the monotonic clock.
        ended_at: When the last outage ended, by the monotonic clock.
    """

    def __init__(self, *, source: str, clocks: Clocks, threshold: int = 1) -> None:
        """Starts without an outage. The source counts as down from `threshold` failures on."""
        self.source = source
        self.since: datetime | None = None
        self.last_error: str | None = None
        self.next_try = 0.0
        self.ended_at = float("-inf")
        self._clock = clocks.wall
        self._monotonic = clocks.monotonic
        self._threshold = threshold
        self._failures = 0
        self._began = 0.0
        self._outages = 0
        self._is_logged = False
        self._throttle = LogThrottle(clocks.monotonic)

    @property
    def is_failing(self) -> bool:
        """Whether the source is known to be down: the last attempts failed."""
        return self._failures >= self._threshold

    @property
    def is_waiting(self) -> bool:
        """Whether the source is down and the next attempt is not due yet."""
        return self.is_failing and self._monotonic() < self.next_try

    def failed(self, error: Exception) -> None:
        """Counts a failure."""
        now = self._monotonic()
        if not self._failures:
            self.since, self._began = self._clock(), now
            self._outages += 1
        self._failures += 1
        # Doubled each time; the exponent is bounded, since 2.0 ** 1024 is an error.
        longest = min(2.0 ** min(self._failures - 1, 10), RETRY_SECONDS_AT_MOST)
        # Jitter, so that a fleet does not return all at once. Not for secrets.
        self.next_try = now + random.uniform(RETRY_SECONDS_AT_LEAST, longest)  # noqa: S311
        self.last_error = str(error)
        cause = type(error).__name__
        # A new outage is news, even where its cause is that of the last one.
        if self._throttle.allow((self._outages, cause)):
            _log.warning(
                "source_still_failing" if self._is_logged else "source_failed",
                source=self.source,
                cause=cause,
                error=self.last_error,
                seconds=round(now - self._began, 1),
                attempts=self._failures,
            )
            self._is_logged = True

    def succeeded(self) -> None:
        """Ends the outage, where there is one."""
        if self.is_failing:
            self.ended_at = self._monotonic()
        if self._is_logged:
            _log.info(
                "source_recovered",
                source=self.source,
                seconds=round(self._monotonic() - self._began, 1),
                attempts=self._failures,
            )
        self._failures = 0
        self._is_logged = False
        self.since = self.last_error = None
