"""Follows one source's failures: when to ask again, and what to tell the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import tenacity

if TYPE_CHECKING:
    from datetime import datetime

    from nexus_auth.domain.ports import Clock, MonotonicClock

RETRY_SECONDS_AT_LEAST: Final = 0.5
"""Even right after the first failure: a source that refuses connections refuses them quickly."""

RETRY_SECONDS_AT_MOST: Final = 8.0
"""The service is back within this time of its source, and asks a dead one some 15 times a minute
at most."""

REMINDER_SECONDS: Final = 600.0
"""How often the log repeats that an outage goes on."""

QUIET_SECONDS: Final = 30.0
"""A new cause, or a new outage, is worth a line at most this often: a source that works every
other time must not write the log full."""

WAIT: Final = tenacity.wait_random_exponential(
    multiplier=1, min=RETRY_SECONDS_AT_LEAST, max=RETRY_SECONDS_AT_MOST
)


class Outage:
    """Knows since when and why a source fails, and spaces the attempts to ask it again."""

    def __init__(
        self, *, source: str, clock: Clock, steady: MonotonicClock, log: Any, threshold: int = 1
    ) -> None:
        """Starts without an outage.

        Args:
            source: What to call it in the log.
            clock: Tells the time (aware, UTC).
            steady: Measures spans.
            log: A structlog logger.
            threshold: After how many failures in a row the source counts as down.
        """
        self.since: datetime | None = None
        self.last_error: str | None = None
        self.next_try = 0.0
        self.ended_at = float("-inf")
        """When the last outage was over, by the steady clock."""
        self._source = source
        self._clock = clock
        self._steady = steady
        self._log = log
        self._threshold = threshold
        self._failures = 0
        self._began = 0.0
        self._cause: str | None = None
        self._last_line = float("-inf")
        self._is_told = False
        self._retry = tenacity.RetryCallState(tenacity.AsyncRetrying(), None, (), {})

    @property
    def is_on(self) -> bool:
        """Whether the source is known to be down: the last attempts failed."""
        return self._failures >= self._threshold

    @property
    def is_waiting(self) -> bool:
        """Whether it is down and too early to ask it again."""
        return self.is_on and self._steady() < self.next_try

    def failed(self, error: Exception) -> None:
        """Takes note of a failure."""
        now = self._steady()
        if not self._failures:
            self.since, self._began = self._clock(), now
        self._failures += 1
        self._retry.attempt_number = self._failures
        self.next_try = now + WAIT(self._retry)
        self.last_error = str(error)
        cause = type(error).__name__
        quiet = REMINDER_SECONDS if self._is_told and cause == self._cause else QUIET_SECONDS
        if now - self._last_line >= quiet:
            self._log.warning(
                "source_still_failing" if self._is_told else "source_failed",
                source=self._source,
                cause=cause,
                error=self.last_error,
                seconds=round(now - self._began, 1),
                attempts=self._failures,
            )
            self._last_line, self._is_told, self._cause = now, True, cause

    def succeeded(self) -> None:
        """Takes note that the source answered as it should."""
        if self.is_on:
            self.ended_at = self._steady()
        if self._is_told:
            self._log.info(
                "source_recovered",
                source=self._source,
                seconds=round(self._steady() - self._began, 1),
                attempts=self._failures,
            )
        self._failures = 0
        self._is_told = False
        self.since = self.last_error = None
