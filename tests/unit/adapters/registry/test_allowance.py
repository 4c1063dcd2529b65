from __future__ import annotations

import pytest

from nexus_auth.adapters.registry.allowance import Allowance
from tests.unit.adapters.registry.sources import FakeClocks

AT_ONCE, PER_SECOND, DISTANCE = 10, 4.0, 2.0


@pytest.fixture
def allowance(clocks: FakeClocks) -> Allowance:
    """An allowance that is full."""
    return Allowance(AT_ONCE, PER_SECOND, distance=DISTANCE, monotonic=clocks.monotonic)


def take_all(allowance: Allowance) -> int:
    """How many fetches it gives to hotkeys that were never fetched."""
    return next(number for number in range(1000) if not allowance.take())


def test_gives_so_many_at_once_and_so_many_a_second(
    allowance: Allowance, clocks: FakeClocks
) -> None:
    """It fills up to its size again, and not beyond."""
    assert take_all(allowance) == AT_ONCE
    clocks.advance(1)
    assert take_all(allowance) == PER_SECOND
    clocks.advance(0.2)
    assert take_all(allowance) == 0
    clocks.advance(0.05)
    assert take_all(allowance) == 1
    clocks.advance(3600)
    assert take_all(allowance) == AT_ONCE


def test_is_short_below_half(allowance: Allowance) -> None:
    """So that something can be done before nothing is left."""
    for _ in range(AT_ONCE // 2):
        assert not allowance.is_short
        assert allowance.take()
    assert not allowance.is_short
    assert allowance.take()
    assert allowance.is_short


def test_hotkey_fetched_a_moment_ago_takes_nothing(allowance: Allowance) -> None:
    """However much is left."""
    assert not allowance.take(idle=DISTANCE - 0.01)
    assert take_all(allowance) == AT_ONCE
    assert not allowance.take(idle=DISTANCE)


def test_the_less_is_left_the_longer_a_hotkey_waits(allowance: Allowance) -> None:
    """Never fetched comes first, then what was fetched longest ago."""
    assert allowance.take(idle=DISTANCE, among=20)
    assert not allowance.take(idle=DISTANCE, among=20)
    for left in range(AT_ONCE - 1, 0, -1):
        wait = DISTANCE + 2 * 20 / PER_SECOND * (AT_ONCE - left) / AT_ONCE
        assert not allowance.take(idle=wait - 0.01, among=20)
        assert allowance.take(idle=wait, among=20)
    assert not allowance.take(among=20)


def test_hotkeys_that_ask_without_a_pause_leave_half_to_others(
    allowance: Allowance, clocks: FakeClocks
) -> None:
    """And each of them has its share."""
    fetched = dict.fromkeys(range(20), clocks.seconds)
    counts = dict.fromkeys(fetched, 0)
    for _ in range(3000):
        clocks.advance(0.1)
        for number, at in fetched.items():
            if allowance.take(idle=clocks.seconds - at, among=len(fetched)):
                fetched[number] = clocks.seconds
                counts[number] += 1
    assert take_all(allowance) >= AT_ONCE // 2 - 1
    assert min(counts.values()) >= 0.9 * max(counts.values())
