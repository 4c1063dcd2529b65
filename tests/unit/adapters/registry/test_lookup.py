from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
import structlog.testing

from nexus_auth.adapters.registry import lookup
from nexus_auth.adapters.registry.fetch import FETCH_SECONDS, PATIENCE_SECONDS
from nexus_auth.adapters.registry.lookup import LookupFallback, LookupRegistry
from nexus_auth.domain.errors import RegistryAnswerInvalid, RegistryUnavailable
from nexus_auth.domain.health import Freshness
from nexus_auth.domain.ports import Registration
from tests.builders import NOW, a_hotkey
from tests.unit.adapters.registry.sources import (
    MAX_AGE,
    REFRESH_EVERY,
    FakeClocks,
    FakeSource,
    a_timing,
    key_of,
    keys_of,
    until_idle,
)

pytestmark = pytest.mark.virtual_time

ALICE = a_hotkey("alice")
BOB = a_hotkey("bob")
DOWN = RegistryUnavailable("connection refused")

Make = Callable[..., LookupRegistry]


@pytest_asyncio.fixture
async def make(source: FakeSource, clocks: FakeClocks) -> AsyncIterator[Make]:
    """Makes registries over the source; closes them at the end."""
    made: list[LookupRegistry] = []

    def build(**timing: Any) -> LookupRegistry:
        registry = LookupRegistry(source=source, timing=a_timing(clocks, **timing))
        made.append(registry)
        return registry

    yield build
    for registry in made:
        await registry.aclose()


async def find(registry: LookupRegistry, name: str) -> Registration | None:
    """Looks up a caller who presents the key that goes with the name."""
    return await registry.lookup(a_hotkey(name), presented=key_of(name))


async def test_answer_is_remembered(make: Make, source: FakeSource) -> None:
    """A hotkey is fetched once, registered or not."""
    registry = make()
    assert registry.peek(ALICE) is None
    for _ in range(3):
        assert await find(registry, "alice") == Registration(
            public_key=key_of("alice"), expires_at=NOW + MAX_AGE
        )
        assert await find(registry, "bob") is None
    assert registry.peek(ALICE) is registry.peek(ALICE) is not None
    assert source.fetches == {ALICE: 1, BOB: 1}
    assert source.bulk_fetches == 0


async def test_unregistered_hotkey_is_fetched_again_soon(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """A hotkey that registers is granted within two seconds."""
    registry = make()
    assert await find(registry, "bob") is None
    source.keys |= keys_of("bob")
    clocks.advance(2)
    assert await find(registry, "bob") is not None


async def test_key_in_use_is_renewed_in_the_background(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """The caller is answered from memory while the fetch is in flight."""
    registry = make()
    await find(registry, "alice")
    source.keys[ALICE] = key_of("alice's new")
    clocks.advance(30)
    at_hand = registry.peek(ALICE)
    assert at_hand is not None
    assert at_hand.public_key == key_of("alice")
    await until_idle()
    at_hand = registry.peek(ALICE)
    assert at_hand is not None
    assert at_hand.public_key == key_of("alice's new")
    assert at_hand.expires_at == NOW + timedelta(seconds=30) + MAX_AGE


async def test_key_long_unused_is_fetched_before_it_is_used(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """A key that was not renewed because it was not used may have been replaced long ago."""
    registry = make()
    await find(registry, "alice")
    del source.keys[ALICE]
    source.keys[ALICE] = key_of("alice's new")
    clocks.advance(60)
    assert registry.peek(ALICE) is None
    found = await find(registry, "alice")
    assert found is not None
    assert found.public_key == key_of("alice's new")


async def test_known_key_serves_through_an_outage_until_max_age(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Known callers keep being served for the configured time, then denied."""
    registry = make()
    await find(registry, "alice")
    source.error = DOWN
    clocks.advance(60)
    for name in ("x", "y", "z"):
        with pytest.raises(RegistryUnavailable):
            await find(registry, name)
    assert registry.health().freshness is Freshness.STALE
    clocks.advance(MAX_AGE.total_seconds() - 61)
    assert registry.peek(ALICE) is not None
    await until_idle()
    clocks.advance(1)
    assert registry.peek(ALICE) is None
    with pytest.raises(RegistryUnavailable, match="connection refused"):
        await find(registry, "alice")
    assert registry.health().freshness is Freshness.EXPIRED


async def test_known_caller_waits_for_no_fetch_when_an_outage_ends_only_to_begin_anew(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """The key could not be renewed meanwhile; it is now, in the background."""
    source.keys |= keys_of("bob", "carol", "dave")
    registry = make()
    assert await find(registry, "alice") is not None
    source.error = DOWN
    clocks.advance(1)
    for name in ("bob", "carol", "dave"):
        with pytest.raises(RegistryUnavailable):
            await find(registry, name)
    clocks.advance(300)
    assert registry.health().freshness is Freshness.STALE
    source.error = None
    assert await find(registry, "bob") is not None
    source.open.clear()
    assert registry.peek(ALICE) is not None
    clocks.advance(REFRESH_EVERY.total_seconds())
    assert registry.peek(ALICE) is None
    source.open.set()


async def test_fetches_in_the_queue_are_not_sent_to_a_source_that_went_down(
    make: Make, source: FakeSource
) -> None:
    """It gets none of them until the next attempt is due."""
    source.open.clear()
    registry = make()
    lookups = [
        asyncio.create_task(find(registry, f"stranger {n}")) for n in range(3 * lookup.MAX_FETCHES)
    ]
    await asyncio.gather(*lookups, return_exceptions=True)
    source.error = DOWN
    source.open.set()
    await until_idle()
    assert source.fetches.total() == lookup.MAX_FETCHES
    for number in range(3 * lookup.MAX_FETCHES):
        with pytest.raises(RegistryUnavailable):
            await find(registry, f"stranger {number}")
    assert source.fetches.total() == lookup.MAX_FETCHES


async def test_clock_set_back_makes_nothing_younger(make: Make, clocks: FakeClocks) -> None:
    """The monotonic clock ends what the wall clock would prolong."""
    registry = make()
    await find(registry, "alice")
    clocks.wall.advance(hours=-5)
    clocks.seconds += MAX_AGE.total_seconds()
    assert registry.peek(ALICE) is None


async def test_rotated_key_is_fetched(make: Make, source: FakeSource, clocks: FakeClocks) -> None:
    """Another key than the known one is worth a fetch, every two seconds."""
    registry = make()
    await find(registry, "alice")
    source.keys[ALICE] = key_of("alice's new")
    found = await registry.lookup(ALICE, presented=key_of("alice's new"))
    assert found is not None
    assert found.public_key == key_of("alice")
    clocks.advance(2)
    for _ in range(100):
        found = await registry.lookup(ALICE, presented=key_of("another key"))
        assert found is not None
        assert found.public_key == key_of("alice's new")
    assert source.fetches[ALICE] == 2


async def test_key_suddenly_gone_is_believed_gone_after_a_second_answer(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """A source says "not found" as well when it could not read the chain."""
    registry = make()
    await find(registry, "alice")
    del source.keys[ALICE]
    clocks.advance(30)
    registry.peek(ALICE)
    await until_idle()
    assert registry.peek(ALICE) is not None
    clocks.advance(5)
    registry.peek(ALICE)
    await until_idle()
    assert registry.peek(ALICE) is None
    assert await find(registry, "alice") is None
    assert source.fetches[ALICE] == 3


async def test_key_suddenly_gone_is_fetched_once_more_and_not_for_each_caller(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """When the second answer can count."""
    registry = make()
    await find(registry, "alice")
    del source.keys[ALICE]
    clocks.advance(30)
    fetches = []
    for seconds in (0, 2, 2, 0.9, 0.1):
        clocks.advance(seconds)
        for _ in range(10):
            registry.peek(ALICE)
            await until_idle()
        fetches.append(source.fetches[ALICE])
    assert fetches == [2, 2, 2, 2, 3]


async def test_unknown_hotkey_about_which_nonsense_comes_is_fetched_every_two_seconds(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """It is no load for the source, however many callers show it."""
    registry = make()
    source.error = RegistryAnswerInvalid("31 bytes")
    for fetches in (1, 2):
        for _ in range(10):
            with pytest.raises(RegistryAnswerInvalid, match="31 bytes"):
                await find(registry, "bob")
        assert source.fetches[BOB] == fetches
        clocks.advance(2)


async def test_simultaneous_callers_share_one_fetch(make: Make, source: FakeSource) -> None:
    """Five hundred first callers cost one request, also where nothing may be remembered."""
    for number, max_age in enumerate((MAX_AGE, timedelta(0)), start=1):
        registry = make(max_age=max_age)
        source.open.clear()
        callers = [asyncio.create_task(find(registry, "alice")) for _ in range(500)]
        await until_idle()
        callers[0].cancel()
        source.open.set()
        found = await asyncio.gather(*callers[1:])
        assert all(found)
        assert source.fetches[ALICE] == number


async def test_flood_of_strangers_is_no_flood_for_the_source(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Ten thousand unknown hotkeys in ten seconds cost a few hundred requests and no memory."""
    registry = make()
    await find(registry, "alice")
    denied = 0
    for number in range(10_000):
        if number % 1000 == 0:
            clocks.advance(1)
        try:
            await registry.lookup(a_hotkey(f"stranger {number}"), presented=bytes(32))
        except RegistryUnavailable:
            denied += 1
    fetches = source.fetches.total()
    assert fetches <= 2 + lookup.UNKNOWN_AT_ONCE + 10 * lookup.UNKNOWN_PER_SECOND
    assert denied == 10_000 + 1 - fetches
    assert registry.peek(ALICE) is not None


async def test_with_a_cache_of_zero_every_caller_is_asked_about(
    make: Make, source: FakeSource
) -> None:
    """Nothing is remembered, so nothing can be bounded: also beyond 256 of them."""
    names = [f"miner {number}" for number in range(2 * lookup.UNKNOWN_AT_ONCE)]
    source.keys = keys_of(*names)
    registry = make(max_age=timedelta(0))
    for name in names:
        assert await find(registry, name) is not None
    assert source.fetches.total() == len(names)
    assert source.neuron_fetches == 0


@pytest.mark.parametrize("error", [None, ZeroDivisionError("a defect")])
async def test_source_that_hangs_or_crashes_denies_and_recovers(
    make: Make, source: FakeSource, error: Exception | None
) -> None:
    """A fetch that does not end by itself is given up after a minute, and counts as failed."""
    loop = asyncio.get_running_loop()
    registry = make(monotonic=loop.time)
    source.open.clear()
    names = ("alice", "x", "y")
    for name in names:
        with pytest.raises(RegistryUnavailable, match="not answered yet"):
            await find(registry, name)
    if error is not None:
        source.error = error
        source.open.set()
    await asyncio.sleep(FETCH_SECONDS + 1)
    assert not registry._in_flight
    state = registry.health()
    assert state.freshness is Freshness.EXPIRED
    assert "crashed" in str(state.last_error) if error else "in time" in str(state.last_error)
    source.error = None
    source.open.set()
    await asyncio.sleep(8)
    assert await find(registry, "alice") is not None
    assert registry.health().freshness is Freshness.FRESH


async def test_number_of_fetches_in_flight_is_bounded(
    make: Make, source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond that callers are denied at once, also where nothing is remembered."""
    monkeypatch.setattr(lookup, "MAX_IN_FLIGHT", 3)
    registry = make(max_age=timedelta(0))
    source.open.clear()
    callers = [asyncio.create_task(find(registry, f"miner {number}")) for number in range(10)]
    await until_idle()
    assert source.fetches.total() == 3
    assert [each.done() for each in callers] == [False] * 3 + [True] * 7
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert all(isinstance(outcome, RegistryUnavailable) for outcome in outcomes)


async def test_renewals_in_flight_are_bounded_and_deny_nobody(
    make: Make, source: FakeSource, clocks: FakeClocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each key that is used, however often, and none beyond the bound: it comes later."""
    names = [f"miner {number}" for number in range(10)]
    source.keys = keys_of(*names)
    registry = make()
    for name in names:
        assert await find(registry, name) is not None
    monkeypatch.setattr(lookup, "MAX_IN_FLIGHT", 3)
    source.open.clear()
    clocks.advance(REFRESH_EVERY.total_seconds())
    for name in names * 2:
        assert registry.peek(a_hotkey(name)) is not None
        await until_idle()
    assert source.fetches.total() == 10 + 3
    source.open.set()
    await until_idle()
    for name in names:
        assert registry.peek(a_hotkey(name)) is not None
        await until_idle()
    assert source.fetches.total() == 10 + 10


async def test_caller_who_waits_while_the_registry_is_closed_is_denied(
    make: Make, source: FakeSource
) -> None:
    """With the port's error: it is not the caller who was cancelled. Nothing is left running."""
    registry = make()
    source.open.clear()
    waiting = asyncio.create_task(find(registry, "alice"))
    await until_idle()
    await registry.aclose()
    assert asyncio.all_tasks() <= {waiting, asyncio.current_task()}
    with pytest.raises(RegistryUnavailable):
        await waiting


async def test_known_key_about_which_nonsense_comes_is_fetched_every_two_seconds(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """It serves on, and its callers are no load for the source."""
    registry = make()
    assert await find(registry, "alice") is not None
    source.error = RegistryAnswerInvalid("31 bytes")
    clocks.advance(REFRESH_EVERY.total_seconds())
    for _ in range(10 * 10):
        assert registry.peek(ALICE) is not None
        await until_idle()
        found = await registry.lookup(ALICE, presented=key_of("another key"))
        assert found is not None
        clocks.advance(0.1)
    assert source.fetches[ALICE] == 1 + 5


async def test_known_key_is_not_fetched_while_the_source_is_down(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Neither for a caller with another key nor because it is due."""
    registry = make()
    assert await find(registry, "alice") is not None
    source.error = DOWN
    clocks.advance(10)
    for name in ("x", "y", "z"):
        with pytest.raises(RegistryUnavailable):
            await find(registry, name)
    before = source.fetches.total()
    for presented in (key_of("another key"), key_of("alice")):
        found = await registry.lookup(ALICE, presented=presented)
        assert found is not None
        assert found.public_key == key_of("alice")
    assert source.fetches.total() == before


@pytest.mark.parametrize("error", [None, DOWN, RegistryAnswerInvalid("31 bytes")])
async def test_fetch_in_vain_takes_no_known_key_back(
    make: Make, source: FakeSource, clocks: FakeClocks, error: Exception | None
) -> None:
    """One failure, one "not found", for a caller with another key."""
    registry = make()
    known = await find(registry, "alice")
    assert known is not None
    del source.keys[ALICE]
    source.error = error
    clocks.advance(lookup.UNKNOWN_SECONDS)
    assert await registry.lookup(ALICE, presented=key_of("another key")) is known
    assert source.fetches[ALICE] == 2


@pytest.mark.parametrize("clock", ["wall", "monotonic"])
async def test_known_key_ends_in_an_outage_by_the_clock_that_is_first(
    make: Make, source: FakeSource, clocks: FakeClocks, clock: str
) -> None:
    """Whatever the other one says: one that is set back prolongs nothing."""
    registry = make()
    assert await find(registry, "alice") is not None
    source.error = DOWN
    for name in ("x", "y", "z"):
        with pytest.raises(RegistryUnavailable):
            await find(registry, name)
    for seconds in (MAX_AGE.total_seconds() - 0.001, 0.001):
        assert registry.peek(ALICE) is not None
        if clock == "wall":
            clocks.wall.advance(seconds=seconds)
        else:
            clocks.seconds += seconds
        await until_idle()
    assert registry.peek(ALICE) is None
    with pytest.raises(RegistryUnavailable):
        await find(registry, "alice")


async def test_two_failures_in_a_row_are_no_outage_and_three_are(
    make: Make, source: FakeSource
) -> None:
    """They may concern some hotkeys only: the others are fetched at once."""
    registry = make()
    for number in range(3):
        assert registry.health().freshness is Freshness.FRESH
        source.error = DOWN
        with pytest.raises(RegistryUnavailable):
            await find(registry, f"stranger {number}")
    assert source.fetches.total() == 3
    assert registry.health().freshness is Freshness.EXPIRED
    with pytest.raises(RegistryUnavailable):
        await find(registry, "alice")
    assert source.fetches.total() == 3


async def test_memory_is_bounded(
    make: Make, source: FakeSource, monkeypatch: pytest.MonkeyPatch, clocks: FakeClocks
) -> None:
    """Neither the registered nor the strangers can fill the memory."""
    monkeypatch.setattr(lookup, "MAX_KNOWN", 3)
    monkeypatch.setattr(lookup, "MAX_UNKNOWN", 3)
    registry = make()
    names = [f"miner {number}" for number in range(10)]
    source.keys = keys_of(*names)
    for name in names:
        assert await find(registry, name) is not None
        assert await find(registry, f"not {name}") is None
    assert len(registry._known) == 3
    assert len(registry._unknown) == 3
    assert registry.peek(a_hotkey("miner 9")) is not None


async def test_key_that_was_renewed_longest_ago_makes_room(
    make: Make, source: FakeSource, monkeypatch: pytest.MonkeyPatch, clocks: FakeClocks
) -> None:
    """Keys in use are renewed, and stay."""
    monkeypatch.setattr(lookup, "MAX_KNOWN", 3)
    registry = make()
    names = [f"miner {number}" for number in range(4)]
    source.keys = keys_of(*names)
    for name in names[:3]:
        assert await find(registry, name) is not None
    clocks.advance(REFRESH_EVERY.total_seconds())
    assert registry.peek(a_hotkey("miner 0")) is not None
    await until_idle()
    assert await find(registry, "miner 3") is not None
    assert list(registry._known) == [a_hotkey(f"miner {number}") for number in (2, 0, 3)]


async def test_silent_source_holds_up_a_caller_for_the_patience_only(
    make: Make, source: FakeSource
) -> None:
    """A caller who comes later does not wait again."""
    loop = asyncio.get_running_loop()
    registry = make(monotonic=loop.time)
    source.open.clear()
    for limit in (PATIENCE_SECONDS, 0):
        began = loop.time()
        with pytest.raises(RegistryUnavailable, match="not answered yet"):
            await find(registry, "alice")
        assert loop.time() - began == pytest.approx(limit)
    assert source.fetches[ALICE] == 1


async def test_nonsense_about_one_hotkey_does_not_concern_the_others(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """One bad entry never poisons the good ones."""
    registry = make()
    source.error = RegistryAnswerInvalid("31 bytes")
    for number in range(20):
        with pytest.raises(RegistryAnswerInvalid, match="31 bytes"):
            await find(registry, f"broken {number}")
    source.error = None
    assert await find(registry, "alice") is not None
    source.keys[BOB] = bytes(32)
    with pytest.raises(RegistryAnswerInvalid):
        await find(registry, "bob")
    assert registry.health().freshness is Freshness.FRESH


async def test_nonsense_about_every_hotkey_is_logged_in_a_few_lines(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """It is no outage, so no other line would say so."""
    registry = make()
    source.error = RegistryAnswerInvalid("not JSON")
    with structlog.testing.capture_logs() as lines:
        for number in range(600):
            with pytest.raises(RegistryAnswerInvalid):
                await find(registry, f"stranger {number}")
            clocks.advance(2)
    assert {line["event"] for line in lines} == {"lookup_answer_rejected"}
    assert 1 <= len(lines) <= 3


async def test_source_that_is_down_gets_few_requests(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Strangers are answered at once; the log says so once."""
    registry = make()
    source.error = DOWN
    with structlog.testing.capture_logs() as lines:
        for number in range(6000):
            with pytest.raises(RegistryUnavailable, match="connection refused"):
                await find(registry, f"stranger {number}")
            clocks.advance(0.05)
    assert source.fetches.total() <= 300 / 2
    assert [line["event"] for line in lines] == ["source_failed"]
    source.error = None
    clocks.advance(8)
    assert await find(registry, "alice") is not None
    assert registry.health().failing_since is None


async def test_defect_of_the_source_is_logged_and_survived(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """An exception that should not be does not vanish, and denies one caller only."""
    registry = make()
    source.error = ZeroDivisionError("a defect")
    with structlog.testing.capture_logs() as lines, pytest.raises(RegistryUnavailable):
        await find(registry, "alice")
    assert any(line["event"] == "lookup_crashed" and line["exc_info"] for line in lines)
    source.error = None
    clocks.advance(2)
    assert await find(registry, "alice") is not None


# The change from a snapshot to lookups, and back.


class Scene:
    """A fallback over a source."""

    def __init__(
        self, source: FakeSource, clocks: FakeClocks, *, max_age: timedelta = MAX_AGE
    ) -> None:
        self.needs_neurons = False
        self.fallback = LookupFallback(
            source=source,
            timing=a_timing(clocks, max_age=max_age),
            neuron_source=source,
            needs_neurons=lambda: self.needs_neurons,
        )

    def current(self) -> LookupRegistry | None:
        """The registry that stands in now."""
        return self.fallback.registry


async def test_fallback_begins_and_ends_with_one_line_each(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """However often the source says the same."""
    scene = Scene(source, clocks)
    assert scene.current() is None
    with structlog.testing.capture_logs() as lines:
        scene.fallback.end()
        scene.fallback.begin()
        first = scene.current()
        scene.fallback.begin()
        assert scene.current() is first is not None
        scene.fallback.end()
        scene.fallback.end()
    assert scene.current() is None
    assert [line["event"] for line in lines] == ["bulk_not_offered", "bulk_offered_again"]


async def test_fallback_from_the_beginning_is_not_logged(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """It is what the settings ask for."""
    with structlog.testing.capture_logs() as lines:
        scene = Scene(source, clocks, max_age=timedelta(0))
    assert scene.current() is not None
    assert not lines


async def test_fallback_is_of_no_use_to_a_policy_that_needs_neurons(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """They come with all keys at once. What was learned is not lost meanwhile."""
    scene = Scene(source, clocks)
    scene.fallback.begin()
    registry = scene.current()
    scene.needs_neurons = True
    assert scene.current() is None
    scene.needs_neurons = False
    assert scene.current() is registry is not None


@pytest.mark.parametrize("way", ["end", "aclose"])
async def test_fetches_in_flight_end_with_it(
    source: FakeSource, clocks: FakeClocks, way: str
) -> None:
    """Nothing is left running."""
    scene = Scene(source, clocks)
    scene.fallback.begin()
    registry = scene.current()
    assert registry is not None
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
