from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
import structlog.testing

from nexus_auth.adapters.registry.backoff import RETRY_SECONDS_AT_MOST
from nexus_auth.adapters.registry.fetch import CONFIRM_SECONDS, FETCH_SECONDS, PATIENCE_SECONDS
from nexus_auth.adapters.registry.refresh import EARLY_SECONDS, MAX_WAITING
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.domain.errors import RegistryAnswerInvalid, RegistryUnavailable
from nexus_auth.domain.health import Freshness
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.ports import Registration
from tests.builders import NOW, a_hotkey
from tests.unit.adapters.registry.sources import (
    MAX_AGE,
    REFRESH_EVERY,
    FakeClocks,
    FakeSource,
    a_block,
    a_timing,
    key_of,
    keys_of,
    until_idle,
)

pytestmark = pytest.mark.virtual_time

ALICE = a_hotkey("alice")
BOB = a_hotkey("bob")
DOWN = RegistryUnavailable("connection refused")

Make = Callable[..., SnapshotRegistry]


@pytest_asyncio.fixture
async def make(source: FakeSource, clocks: FakeClocks) -> AsyncIterator[Make]:
    """Makes registries over the source, not started; closes them at the end."""
    made: list[SnapshotRegistry] = []

    def build(**timing: Any) -> SnapshotRegistry:
        registry = SnapshotRegistry(source=source, timing=a_timing(clocks, **timing))
        made.append(registry)
        return registry

    yield build
    for registry in made:
        await registry.aclose()


async def find(registry: SnapshotRegistry, name: str) -> Registration | None:
    """Looks up a caller who presents the key that goes with the name."""
    return await registry.lookup(a_hotkey(name), presented=key_of(name))


async def test_peek_answers_from_the_last_snapshot(make: Make, source: FakeSource) -> None:
    """One fetch brings all keys, and each may be used for max_age from its start."""
    registry = make()
    assert registry.peek(ALICE) is None
    await registry.refresh()
    expected = Registration(public_key=key_of("alice"), expires_at=NOW + MAX_AGE)
    assert registry.peek(ALICE) == expected
    assert registry.peek(ALICE) is registry.peek(ALICE)
    assert registry.peek(BOB) is None
    assert source.bulk_fetches == 1
    assert not source.fetches


async def test_age_counts_from_the_start_of_the_fetch(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """An answer that took its time is not younger for it."""
    registry = make()
    source.open.clear()
    refreshing = asyncio.create_task(registry.refresh())
    await until_idle()
    clocks.advance(9)
    source.open.set()
    await refreshing
    found = registry.peek(ALICE)
    assert found is not None
    assert found.expires_at == NOW + MAX_AGE
    assert registry.health().age == timedelta(seconds=9)


async def test_known_keys_serve_until_max_age_then_are_closed(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Without news a key works for exactly max_age."""
    registry = make()
    await registry.refresh()
    source.error = DOWN
    clocks.advance(MAX_AGE.total_seconds() - 0.001)
    await registry.refresh()
    assert registry.peek(ALICE) is not None
    assert registry.health().freshness is Freshness.STALE
    clocks.advance(0.001)
    assert registry.peek(ALICE) is None
    assert registry.health().freshness is Freshness.EXPIRED
    with pytest.raises(RegistryUnavailable, match="connection refused"):
        await find(registry, "alice")


async def test_health_says_which_block_and_how_old(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """By the block's own time, not by that of the fetch; while the source is away, ever older."""
    registry = make()
    assert (registry.health().source, registry.health().block) == ("fake source", None)
    source.block = a_block(7)
    await registry.refresh()
    source.error = DOWN
    clocks.advance(12)
    await registry.refresh()
    health = registry.health()
    assert (health.block, health.block_age) == (a_block(7), timedelta(seconds=42))
    assert health.age == timedelta(seconds=12)


async def test_answer_of_an_earlier_block_is_no_answer(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """A node that lags would bring back a key that was rotated; that counts as an outage."""
    registry = make()
    source.keys, source.block = {ALICE: key_of("new")}, a_block(8)
    await registry.refresh()
    source.keys, source.block = keys_of("alice"), a_block(7)
    clocks.advance(REFRESH_EVERY.total_seconds())
    await registry.refresh()
    known = registry.peek(ALICE)
    assert known is not None
    assert known.public_key == key_of("new")
    assert registry.health().freshness is Freshness.STALE
    assert "older block" in (registry.health().last_error or "")
    source.block = a_block(8)
    clocks.advance(REFRESH_EVERY.total_seconds())
    await registry.refresh()
    assert registry.health().freshness is Freshness.FRESH


async def test_earlier_block_serves_where_nothing_may_be_used_any_more(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """A chain that was started anew is not refused for ever."""
    registry = make()
    source.block = a_block(8)
    await registry.refresh()
    source.block = a_block(1)
    clocks.advance(MAX_AGE.total_seconds())
    await registry.refresh()
    assert registry.health().block == a_block(1)
    assert registry.health().freshness is Freshness.FRESH


async def test_clock_set_back_makes_nothing_younger(make: Make, clocks: FakeClocks) -> None:
    """The monotonic clock ends what the wall clock would prolong."""
    registry = make()
    await registry.refresh()
    clocks.wall.advance(hours=-5)
    clocks.advance(MAX_AGE.total_seconds())
    assert registry.peek(ALICE) is None


@pytest.mark.parametrize("clock", ["wall", "monotonic"])
async def test_known_keys_end_by_the_clock_that_is_first(
    make: Make, source: FakeSource, clocks: FakeClocks, clock: str
) -> None:
    """At hand, for a caller who waits, and for the health: whatever the other clock says."""
    registry = make()
    await registry.refresh()
    source.error = DOWN
    await registry.refresh()
    for seconds in (MAX_AGE.total_seconds() - 0.001, 0.001):
        assert registry.peek(ALICE) is not None
        assert await registry.lookup(ALICE, presented=key_of("another key")) is not None
        assert registry.health().freshness is Freshness.STALE
        if clock == "wall":
            clocks.wall.advance(seconds=seconds)
        else:
            clocks.seconds += seconds
    assert registry.peek(ALICE) is None
    with pytest.raises(RegistryUnavailable):
        await find(registry, "alice")
    assert registry.health().freshness is Freshness.EXPIRED


async def test_clock_set_forward_costs_one_fetch(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """What looks too old is not used, but fetched again at the first call."""
    registry = make()
    await registry.refresh()
    clocks.wall.advance(hours=5)
    assert registry.peek(ALICE) is None
    clocks.seconds += 2
    assert await find(registry, "alice") is not None
    assert source.bulk_fetches == 2


async def test_unknown_hotkey_causes_one_early_refresh(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """A caller who was registered a moment ago is found at the first call."""
    registry = make()
    await registry.refresh()
    source.keys |= keys_of("bob")
    clocks.advance(2)
    found = await find(registry, "bob")
    assert found is not None
    assert found.public_key == key_of("bob")
    assert source.bulk_fetches == 2


async def test_rotated_key_is_in_and_the_old_one_out_in_the_same_instant(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """The first caller with the new key ends the old one everywhere."""
    registry = make()
    await registry.refresh()
    source.keys[ALICE] = key_of("alice's new")
    clocks.advance(2)
    found = await registry.lookup(ALICE, presented=key_of("alice's new"))
    assert found is not None
    assert found.public_key == key_of("alice's new")
    at_hand = registry.peek(ALICE)
    assert at_hand is found


async def test_caller_with_a_new_key_waits_for_news_of_that_key(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Other news, such as another process saves, do not end the wait for the fetch in flight."""
    registry = make()
    await registry.refresh()
    source.keys[ALICE] = key_of("alice's new")
    clocks.advance(2)
    source.open.clear()
    waiting = asyncio.create_task(registry.lookup(ALICE, presented=key_of("alice's new")))
    await until_idle()
    registry._refresher.announce()
    await until_idle()
    assert not waiting.done()
    source.open.set()
    found = await waiting
    assert found is not None
    assert found.public_key == key_of("alice's new")


async def test_early_refreshes_keep_their_distance(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Ten thousand strangers cost as many requests as one."""
    registry = make(patience=timedelta(seconds=0.02))
    await registry.refresh()
    for number in range(10_000):
        if number % 1000 == 0:
            clocks.advance(1)
        assert await registry.lookup(a_hotkey(f"stranger {number}"), presented=b"?" * 32) is None
    assert source.bulk_fetches == 1 + 10 // 2


async def test_rotated_caller_waits_for_the_next_early_refresh(
    make: Make, source: FakeSource
) -> None:
    """A caller who comes right after a refresh is not denied for what that could not know."""
    registry = make(monotonic=asyncio.get_running_loop().time)
    await registry.refresh()
    await asyncio.sleep(EARLY_SECONDS / 2)
    source.keys[ALICE] = key_of("alice's new")
    found = await registry.lookup(ALICE, presented=key_of("alice's new"))
    assert found is not None
    assert found.public_key == key_of("alice's new")
    assert source.bulk_fetches == 2


async def test_only_so_many_strangers_wait_for_the_next_early_refresh(
    make: Make, source: FakeSource
) -> None:
    """A flood is answered from what is known instead of piling up."""
    strangers = [a_hotkey(f"stranger {n}") for n in range(500)]
    registry = make(monotonic=asyncio.get_running_loop().time)
    await registry.refresh()
    await asyncio.sleep(EARLY_SECONDS / 2)
    flood = [asyncio.create_task(registry.lookup(each, presented=bytes(32))) for each in strangers]
    await until_idle()
    assert sum(not task.done() for task in flood) == MAX_WAITING
    assert await asyncio.gather(*flood) == [None] * 500
    assert source.bulk_fetches == 2


async def test_simultaneous_first_callers_share_one_fetch(make: Make, source: FakeSource) -> None:
    """Five hundred callers before the first answer cost one request."""
    registry = make()
    source.open.clear()
    callers = [asyncio.create_task(find(registry, "alice")) for _ in range(500)]
    await until_idle()
    source.open.set()
    assert all(found is not None for found in await asyncio.gather(*callers))
    assert source.bulk_fetches == 1


async def test_cancelled_caller_does_not_take_the_answer_from_the_others(
    make: Make, source: FakeSource
) -> None:
    """A client that hangs up ends its own waiting only."""
    registry = make()
    source.open.clear()
    first = asyncio.create_task(find(registry, "alice"))
    second = asyncio.create_task(find(registry, "alice"))
    await until_idle()
    first.cancel()
    await until_idle()
    source.open.set()
    assert await second is not None
    assert first.cancelled()


async def test_silent_source_holds_up_a_stranger_for_the_patience_only(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """The patience counts from the fetch: those who come later do not wait again."""
    loop = asyncio.get_running_loop()
    registry = make(monotonic=loop.time)
    source.open.clear()
    for limit in (PATIENCE_SECONDS, 0, 0):
        began = loop.time()
        with pytest.raises(RegistryUnavailable, match="nothing is known"):
            await find(registry, "alice")
        assert loop.time() - began == pytest.approx(limit)
    assert source.bulk_fetches == 1


async def test_stranger_is_answered_at_once_while_the_source_is_known_to_be_down(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Nothing is fetched, and no caller waits, until the next attempt is due."""
    registry = make()
    await registry.refresh()
    source.error = DOWN
    clocks.advance(30)
    assert await find(registry, "bob") is None
    assert source.bulk_fetches == 2
    for number in range(1000):
        assert await find(registry, f"stranger {number}") is None
    assert source.bulk_fetches == 2
    assert registry.peek(ALICE) is not None


async def test_failures_space_the_attempts_up_to_a_limit(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """A flood is no way around the back-off, and the back-off never exceeds some seconds."""
    registry = make()
    source.error = DOWN
    for _ in range(600):
        with pytest.raises(RegistryUnavailable):
            await find(registry, "alice")
        clocks.advance(0.5)
    # 300 s of at most 8 s between attempts, 4 s on average.
    assert 300 / 8 <= source.bulk_fetches <= 300 / 2
    source.error = None
    clocks.advance(8)
    assert await find(registry, "alice") is not None


async def test_outage_is_logged_in_a_handful_of_lines(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """When it began, why, a rare reminder, and when it ended."""
    registry = make()
    with structlog.testing.capture_logs() as lines:
        source.error = DOWN
        for _ in range(3600):
            with pytest.raises(RegistryUnavailable):
                await find(registry, "alice")
            clocks.advance(0.5)
        source.error = None
        clocks.advance(8)
        await find(registry, "alice")
    events = [line["event"] for line in lines]
    assert events[0] == "source_failed"
    assert events[-1] == "source_recovered"
    assert set(events[1:-1]) == {"source_still_failing"}
    assert len(events) <= 5


async def test_flapping_source_does_not_write_the_log_full(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Every other answer failing for five minutes is logged a few times, not at each change."""
    registry = make()
    with structlog.testing.capture_logs() as lines:
        for number in range(300):
            source.error = DOWN if number % 2 else None
            await registry.refresh()
            clocks.advance(1)
    assert 2 <= len(lines) <= 25


async def test_alternating_answers_do_not_write_the_log_full(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """A source that says one thing and then another is logged now and then."""
    registry = make()
    full = dict(source.keys)
    with structlog.testing.capture_logs() as lines:
        for number in range(150):
            source.keys = {} if number % 4 in {2, 3} else dict(full)
            source.rejected = number % 2
            await registry.refresh()
            clocks.advance(6 if number % 4 == 2 else 2)
    assert Counter(line["event"] for line in lines).keys() == {
        "registry_entries_rejected",
        "suspicious_snapshot",
        "suspicious_snapshot_confirmed",
    }
    assert len(lines) <= 3 * (1 + 450 // 30)


@pytest.mark.parametrize("left", [0, 1, 4])
async def test_suspicious_snapshot_counts_only_when_it_is_said_again(
    left: int, make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """A chain hiccup denies no caller; a hotkey that is gone is out after a second answer."""
    names = [f"miner {number}" for number in range(10)]
    source.keys = keys_of(*names)
    registry = make()
    await registry.refresh()
    source.keys = keys_of(*names[:left])
    clocks.advance(30)
    await registry.refresh()
    assert registry.peek(a_hotkey("miner 9")) is not None
    clocks.advance(2)
    await registry.refresh()  # too soon to count
    assert registry.peek(a_hotkey("miner 9")) is not None
    clocks.advance(3)
    await registry.refresh()
    assert registry.peek(a_hotkey("miner 9")) is None
    assert (registry.peek(a_hotkey("miner 0")) is not None) == (left > 0)


async def test_half_of_the_hotkeys_gone_is_believed_at_once(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Only more than half is suspicious."""
    source.keys = keys_of("alice", "bob")
    registry = make()
    await registry.refresh()
    source.keys = keys_of("alice")
    clocks.advance(30)
    await registry.refresh()
    assert registry.peek(BOB) is None


async def test_hiccup_that_passes_changes_nothing(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """A full answer ends the quarantine of an empty one; the next empty one is quarantined."""
    registry = make()
    full = dict(source.keys)
    for answer in [full, {}, full, {}, full, {}]:
        source.keys = dict(answer)
        await registry.refresh()
        assert registry.peek(ALICE) is not None
        clocks.advance(30)


async def test_quarantined_snapshot_renews_no_age(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """What was left out lives on what the last full answer was worth."""
    registry = make()
    await registry.refresh()
    clocks.advance(MAX_AGE.total_seconds() - 1)
    source.keys = {}
    await registry.refresh()
    assert registry.peek(ALICE) is not None
    clocks.advance(1)
    assert registry.peek(ALICE) is None


async def test_rotation_within_a_suspicious_snapshot_counts_at_once(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """What an answer leaves out may be quarantined, a new key in it counts."""
    source.keys = keys_of("alice", "bob", "carol")
    registry = make()
    await registry.refresh()
    source.keys = {ALICE: key_of("alice's new")}
    clocks.advance(30)
    await registry.refresh()
    at_hand = registry.peek(ALICE)
    assert at_hand is not None
    assert at_hand.public_key == key_of("alice's new")
    assert registry.peek(BOB) is not None


MINERS = [f"miner {number}" for number in range(10)]


def rotated_keys(*names: str) -> dict[Hotkey, bytes]:
    """New keys for these people."""
    return {a_hotkey(name): key_of(f"{name}'s new") for name in names}


def same_keys(*names: str) -> dict[Hotkey, bytes]:
    """One key for all of them."""
    return {a_hotkey(name): key_of("one for all") for name in names}


@pytest.mark.parametrize("change", [rotated_keys, same_keys])
async def test_keys_that_change_for_most_count_only_when_they_are_said_again(
    change: Callable[..., dict[Hotkey, bytes]],
    make: Make,
    source: FakeSource,
    clocks: FakeClocks,
) -> None:
    """A source that mixes keys up shuts nobody out; where everyone rotated, the next answer counts.

    Nothing in the first answer counts: a changed key may belong to somebody else.
    """
    source.keys = keys_of(*MINERS)
    registry = make()
    await registry.refresh()
    source.keys = change(*MINERS) | keys_of("newcomer")
    clocks.advance(30)
    with structlog.testing.capture_logs() as lines:
        await registry.refresh()
    assert [(line["event"], line["kind"]) for line in lines] == [("suspicious_snapshot", "changed")]
    for seconds in (2, 3):
        for name in MINERS:
            found = registry.peek(a_hotkey(name))
            assert found is not None
            assert found.public_key == key_of(name)
        assert registry.peek(a_hotkey("newcomer")) is None
        clocks.advance(seconds)
        await registry.refresh()
    assert [registry.peek(a_hotkey(name)) for name in MINERS] == [
        Registration(public_key=key, expires_at=clocks.wall() + MAX_AGE)
        for key in list(source.keys.values())[:-1]
    ]
    assert registry.peek(a_hotkey("newcomer")) is not None


async def test_hiccup_that_mixes_keys_up_and_passes_changes_nothing(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Whatever it alternates with, no caller is shut out."""
    source.keys = keys_of(*MINERS)
    registry = make()
    for keys in [keys_of(*MINERS), same_keys(*MINERS), {}, rotated_keys(*MINERS)] * 3:
        source.keys = dict(keys)
        await registry.refresh()
        found = registry.peek(a_hotkey("miner 3"))
        assert found is not None
        assert found.public_key == key_of("miner 3")
        clocks.advance(30)


@pytest.mark.parametrize("names", [MINERS[:1], MINERS[:5], ["alice", "bob"]])
async def test_rotations_of_some_count_at_once(
    names: list[str], make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """One of ten, half of ten, two of three."""
    source.keys = keys_of(*MINERS) if "alice" not in names else keys_of("alice", "bob", "carol")
    registry = make()
    await registry.refresh()
    source.keys |= rotated_keys(*names)
    clocks.advance(2)
    for name in names:
        found = await registry.lookup(a_hotkey(name), presented=key_of(f"{name}'s new"))
        assert found is not None
        assert found.public_key == key_of(f"{name}'s new")


async def test_first_answer_counts_whatever_it_is(make: Make, source: FakeSource) -> None:
    """A subnet of one owner with one key is like any other at the start."""
    source.keys = same_keys(*MINERS)
    registry = make()
    await registry.refresh()
    assert registry.peek(a_hotkey("miner 9")) is not None


async def test_started_registry_confirms_keys_that_changed_by_itself(
    make: Make, source: FakeSource
) -> None:
    """The second fetch begins some seconds later, not at the next refresh."""
    source.keys = keys_of(*MINERS)
    registry = make(monotonic=asyncio.get_running_loop().time)
    async with registry:
        await registry.refresh()
        source.keys = rotated_keys(*MINERS)
        await registry.refresh()
        await asyncio.sleep(CONFIRM_SECONDS + 0.1)
        found = registry.peek(a_hotkey("miner 3"))
        assert found is not None
        assert found.public_key == key_of("miner 3's new")
    assert source.bulk_fetches == 3


async def test_key_that_cannot_be_one_is_left_out(make: Make, source: FakeSource) -> None:
    """One bad entry never poisons the good ones."""
    source.keys[BOB] = bytes(32)
    registry = make()
    await registry.refresh()
    assert registry.peek(ALICE) is not None
    assert await find(registry, "bob") is None


async def test_source_without_bulk_answer_gets_a_fetch_for_each(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Such a source works as well, and the bulk answer is tried again later."""
    source.offers_bulk = False
    registry = make()
    assert await find(registry, "alice") is not None
    assert await find(registry, "bob") is None
    assert registry.peek(ALICE) is not None
    assert source.fetches == {ALICE: 1, BOB: 1}
    assert registry.health().mode == "lookup"
    source.offers_bulk = True
    clocks.advance(30)
    await registry.refresh()
    assert registry.health().mode == "snapshot"
    assert registry.peek(ALICE) is not None


async def test_all_keys_are_tried_once_an_interval_where_an_outage_ends_without_them(
    make: Make, source: FakeSource
) -> None:
    """That they are not offered is an answer: it ends the outage, and its attempts."""
    registry = make(monotonic=asyncio.get_running_loop().time)
    source.error = DOWN
    with structlog.testing.capture_logs() as lines:
        async with registry:
            await asyncio.sleep(0.1)
            source.error = None
            source.offers_bulk = False
            await asyncio.sleep(REFRESH_EVERY.total_seconds())
            before = source.bulk_fetches
            await asyncio.sleep(10 * REFRESH_EVERY.total_seconds())
            assert source.bulk_fetches == before + 10
    assert [line["event"] for line in lines] == [
        "source_failed",
        "source_recovered",
        "bulk_not_offered",
    ]


async def test_fetches_of_single_keys_end_with_the_registry(make: Make, source: FakeSource) -> None:
    """Nothing is left running, and the caller has the port's error."""
    source.offers_bulk = False
    registry = make()
    assert await find(registry, "alice") is not None
    source.open.clear()
    waiting = asyncio.create_task(find(registry, "bob"))
    await until_idle()
    await registry.aclose()
    assert asyncio.all_tasks() <= {waiting, asyncio.current_task()}
    with pytest.raises(RegistryUnavailable):
        await waiting


async def test_bulk_answer_that_went_away_does_not_end_what_is_known(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """After a bulk answer, that there is none is an outage and no fallback."""
    registry = make()
    await registry.refresh()
    source.offers_bulk = False
    clocks.advance(30)
    await registry.refresh()
    assert registry.peek(ALICE) is not None
    assert registry.health().freshness is Freshness.STALE
    clocks.advance(MAX_AGE.total_seconds())
    assert await find(registry, "alice") is not None
    assert source.fetches == {ALICE: 1}


async def test_zero_max_age_fetches_every_time(make: Make, source: FakeSource) -> None:
    """Nothing is remembered: not a key, not its absence."""
    registry = make(max_age=timedelta(0))
    await registry.start()
    for _ in range(3):
        assert registry.peek(ALICE) is None
        assert await find(registry, "alice") is not None
        assert await find(registry, "bob") is None
    assert source.fetches == {ALICE: 3, BOB: 3}
    assert source.bulk_fetches == 0


async def test_started_registry_renews_by_itself(make: Make, source: FakeSource) -> None:
    """News arrive without any caller."""
    registry = make(monotonic=asyncio.get_running_loop().time)
    async with registry:
        await asyncio.sleep(10 * REFRESH_EVERY.total_seconds())
        assert 10 <= source.bulk_fetches <= 11
        source.keys[ALICE] = key_of("alice's new")
        await asyncio.sleep(REFRESH_EVERY.total_seconds())
        found = registry.peek(ALICE)
        assert found is not None
        assert found.public_key == key_of("alice's new")
    after = source.bulk_fetches
    await asyncio.sleep(10 * REFRESH_EVERY.total_seconds())
    assert source.bulk_fetches == after


async def test_registry_that_is_started_twice_ends_with_one_close(
    make: Make, source: FakeSource
) -> None:
    """The second start changes nothing."""
    registry = make(monotonic=asyncio.get_running_loop().time)
    await registry.start()
    await registry.start()
    await asyncio.sleep(10 * REFRESH_EVERY.total_seconds())
    assert 10 <= source.bulk_fetches <= 11
    await registry.aclose()
    assert len(asyncio.all_tasks()) == 1


async def test_started_registry_confirms_a_suspicious_snapshot_by_itself(
    make: Make, source: FakeSource
) -> None:
    """The second fetch begins some seconds later, not at the next refresh."""
    registry = make(monotonic=asyncio.get_running_loop().time)
    async with registry:
        await registry.refresh()
        source.keys = {}
        await registry.refresh()
        assert registry.peek(ALICE) is not None
        await asyncio.sleep(CONFIRM_SECONDS + 0.1)
        assert registry.peek(ALICE) is None
    assert source.bulk_fetches == 3


async def test_defect_of_the_source_is_logged_and_survived(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """An exception that should not be neither vanishes nor ends the renewing."""
    registry = make()
    source.error = ZeroDivisionError("a defect")
    with structlog.testing.capture_logs() as lines, pytest.raises(RegistryUnavailable):
        await find(registry, "alice")
    assert any(line["event"] == "refresh_crashed" and line["exc_info"] for line in lines)
    source.error = None
    clocks.advance(8)
    assert await find(registry, "alice") is not None


async def test_health_follows_what_happens(
    make: Make, source: FakeSource, clocks: FakeClocks
) -> None:
    """Starting, fresh, stale: with size, age and cause."""
    registry = make()
    source.error = RegistryAnswerInvalid("not JSON")
    await registry.refresh()
    state = registry.health()
    assert state.freshness is Freshness.STARTING
    assert (state.last_error, state.failing_since) == ("not JSON", NOW)
    assert not state.can_serve
    source.error = None
    await registry.refresh()
    clocks.advance(3)
    state = registry.health()
    assert state.freshness is Freshness.FRESH
    assert (state.size, state.age, state.last_error) == (2, timedelta(seconds=3), None)
    assert state.can_serve


async def test_what_was_not_renewed_three_times_is_stale_whatever_the_reason(
    make: Make, clocks: FakeClocks
) -> None:
    """In a fleet it may be another process that meets the outage."""
    registry = make()
    await registry.refresh()
    clocks.advance(3 * REFRESH_EVERY.total_seconds())
    assert registry.health().freshness is Freshness.FRESH
    clocks.advance(0.001)
    assert registry.health().freshness is Freshness.STALE
    assert registry.health().failing_since is None


@pytest.mark.parametrize("moved", [-3600, 0, 60])
async def test_age_is_that_of_the_clock_that_shows_the_higher_one(
    make: Make, clocks: FakeClocks, moved: float
) -> None:
    """A clock that is set back makes nothing look younger either."""
    registry = make()
    await registry.refresh()
    clocks.advance(10)
    clocks.wall.advance(seconds=moved)
    assert registry.health().age == timedelta(seconds=max(10, 10 + moved))


async def test_source_that_hangs_for_a_minute_is_given_up_and_asked_again(
    make: Make, source: FakeSource
) -> None:
    """What is known serves meanwhile, and keys are renewed again once it answers."""
    registry = make(monotonic=asyncio.get_running_loop().time)
    async with registry:
        await registry.refresh()
        source.open.clear()
        await asyncio.sleep(REFRESH_EVERY.total_seconds() + FETCH_SECONDS - 3)
        assert registry.peek(ALICE) is not None
        assert source.bulk_fetches == 2
        assert registry.health().failing_since is None
        await asyncio.sleep(4)
        assert registry.health().last_error == "the source did not answer in time"
        source.keys[ALICE] = key_of("alice's new")
        source.open.set()
        await asyncio.sleep(RETRY_SECONDS_AT_MOST)
        found = registry.peek(ALICE)
        assert found is not None
        assert found.public_key == key_of("alice's new")


async def test_source_that_crashes_at_every_fetch_is_asked_again_and_again(
    make: Make, source: FakeSource
) -> None:
    """No exception ends the refreshing, in the background either."""
    registry = make(monotonic=asyncio.get_running_loop().time)
    source.error = ZeroDivisionError("a defect")
    with structlog.testing.capture_logs():
        await registry.start()
        await asyncio.sleep(60)
        assert source.bulk_fetches >= 60 / RETRY_SECONDS_AT_MOST
        assert registry.health().last_error == "a defect"
        source.error = None
        await asyncio.sleep(RETRY_SECONDS_AT_MOST)
        assert registry.peek(ALICE) is not None


async def test_switch_to_single_keys_crashes_nothing(make: Make, source: FakeSource) -> None:
    """After what was known is too old: callers, health and refreshes go on, and so back."""
    registry = make(monotonic=asyncio.get_running_loop().time, max_age=timedelta(seconds=20))
    with structlog.testing.capture_logs() as lines:
        async with registry:
            await registry.refresh()
            assert registry.peek(ALICE) is not None
            source.offers_bulk = False
            for _ in range(3):
                await asyncio.sleep(REFRESH_EVERY.total_seconds() + RETRY_SECONDS_AT_MOST)
                assert await find(registry, "alice") is not None
                assert await find(registry, "bob") is None
                assert registry.peek(ALICE) is not None
                await registry.refresh()
                state = registry.health()
                assert (state.mode, state.size, state.freshness) == ("lookup", 1, Freshness.FRESH)
            source.offers_bulk = True
            await asyncio.sleep(REFRESH_EVERY.total_seconds() + 1)
            assert registry.health().mode == "snapshot"
            assert await find(registry, "alice") is not None
    events = [line["event"] for line in lines]
    assert events == ["bulk_not_offered", "bulk_offered_again"]
