from __future__ import annotations

from nexus_auth.adapters.registry.outage import QUIET_SECONDS, REMINDER_SECONDS
from nexus_auth.adapters.registry.seldom import Seldom
from tests.unit.adapters.registry.sources import FakeClocks


def test_line_is_due_at_once_then_when_it_says_something_else_or_after_long() -> None:
    """Something else soon after is not lost: whoever has it asks again."""
    clocks = FakeClocks()
    seldom = Seldom(clocks.steady)
    assert seldom.is_due("one")
    assert not seldom.is_due("another")
    clocks.advance(QUIET_SECONDS)
    assert not seldom.is_due("one")
    assert seldom.is_due("another")
    clocks.advance(REMINDER_SECONDS)
    assert seldom.is_due("another")
