"""How often a line is logged."""

from __future__ import annotations

from nexus_auth.adapters.log_throttle import QUIET_SECONDS, REMINDER_SECONDS, LogThrottle


def test_line_is_allowed_at_once_then_when_it_differs_or_after_long() -> None:
    """A different line is allowed sooner than the same one again."""
    now = 0.0
    throttle = LogThrottle(lambda: now)
    assert throttle.allow("one")
    assert not throttle.allow("another")
    now += QUIET_SECONDS
    assert not throttle.allow("one")
    assert throttle.allow("another")
    now += REMINDER_SECONDS
    assert throttle.allow("another")
