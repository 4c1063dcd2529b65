from __future__ import annotations

from nexus_auth.adapters.log_throttle import QUIET_SECONDS, REMINDER_SECONDS, LogThrottle
from tests.unit.adapters.registry.sources import FakeClocks


def test_line_is_allowed_at_once_then_when_it_differs_or_after_long() -> None:
    """A different line is allowed sooner than the same one again."""
    clocks = FakeClocks()
    throttle = LogThrottle(clocks.monotonic)
    assert throttle.allow("one")
    assert not throttle.allow("another")
    clocks.advance(QUIET_SECONDS)
    assert not throttle.allow("one")
    assert throttle.allow("another")
    clocks.advance(REMINDER_SECONDS)
    assert throttle.allow("another")
