from __future__ import annotations

import pytest
import structlog.testing

from nexus_auth.adapters.registry.fallback import LookupFallback
from nexus_auth.adapters.registry.lookup import LookupRegistry
from tests.builders import a_hotkey
from tests.unit.adapters.registry.sources import (
    MAX_AGE,
    REFRESH_EVERY,
    FakeClocks,
    FakeSource,
    key_of,
    until_idle,
)

pytestmark = pytest.mark.virtual_time


class Scene:
    """A fallback over a source, and what it built."""

    def __init__(self, source: FakeSource, clocks: FakeClocks, *, is_active: bool = False) -> None:
        self.source = source
        self.clocks = clocks
        self.built: list[LookupRegistry] = []
        self.needs_neurons = False
        self.fallback = LookupFallback(
            self._build, needs_neurons=lambda: self.needs_neurons, is_active=is_active
        )

    def current(self) -> LookupRegistry | None:
        """The registry that stands in now."""
        return self.fallback.registry

    def _build(self) -> LookupRegistry:
        registry = LookupRegistry(
            source=self.source,
            clock=self.clocks.wall,
            monotonic=self.clocks.monotonic,
            max_age=MAX_AGE,
            refresh_every=REFRESH_EVERY,
        )
        self.built.append(registry)
        return registry


async def test_fallback_begins_and_ends_with_one_line_each(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """However often the source says the same."""
    scene = Scene(source, clocks)
    assert scene.current() is None
    with structlog.testing.capture_logs() as lines:
        scene.fallback.end()
        scene.fallback.begin()
        scene.fallback.begin()
        assert scene.current() is scene.built[0]
        scene.fallback.end()
        scene.fallback.end()
    assert scene.current() is None
    assert [line["event"] for line in lines] == ["bulk_not_offered", "bulk_offered_again"]


async def test_fallback_from_the_beginning_is_not_logged(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """It is what the settings ask for."""
    with structlog.testing.capture_logs() as lines:
        scene = Scene(source, clocks, is_active=True)
    assert scene.current() is scene.built[0]
    assert not lines


async def test_fallback_is_of_no_use_to_a_policy_that_needs_neurons(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """They come with all keys at once. What was learned is not lost meanwhile."""
    scene = Scene(source, clocks, is_active=True)
    scene.needs_neurons = True
    assert scene.current() is None
    scene.needs_neurons = False
    assert scene.current() is scene.built[0]


@pytest.mark.parametrize("way", ["end", "aclose"])
async def test_fetches_in_flight_end_with_it(
    source: FakeSource, clocks: FakeClocks, way: str
) -> None:
    """Nothing is left running."""
    scene = Scene(source, clocks, is_active=True)
    registry = scene.built[0]
    source.keys[a_hotkey("alice")] = key_of("alice")
    await registry.lookup(a_hotkey("alice"), presented=key_of("alice"))
    source.open.clear()
    clocks.advance(REFRESH_EVERY.total_seconds())
    registry.peek(a_hotkey("alice"))
    await until_idle()
    assert len(registry._in_flight) == 1
    if way == "end":
        scene.fallback.end()
    else:
        await scene.fallback.aclose()
    await until_idle()
    assert not registry._in_flight
