from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
import structlog.testing

from nexus_auth.adapters.registry import backoff, lease, refresh
from nexus_auth.adapters.registry.fetch import PATIENCE_SECONDS
from nexus_auth.adapters.registry.lease import NewsSign, SharedSnapshots
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.adapters.store.record import RecordFormat
from nexus_auth.domain.errors import RegistryUnavailable, StoreUnavailable
from nexus_auth.domain.health import Freshness
from nexus_auth.domain.snapshot import SubnetSnapshot
from tests.builders import a_hotkey
from tests.unit.adapters.registry.sources import (
    MAX_AGE,
    REFRESH_EVERY,
    FakeClocks,
    FakeSource,
    FakeStore,
    a_block,
    a_timing,
    key_of,
    keys_of,
    until,
)
from tests.virtual_time import LoopClocks

pytestmark = pytest.mark.virtual_time

ALICE = a_hotkey("alice")
DOWN = RegistryUnavailable("connection refused")
LEASE = timedelta(seconds=lease.LEASE_SECONDS)

Make = Callable[..., SnapshotRegistry]


@pytest.fixture
def source() -> FakeSource:
    """A source that knows alice and carol."""
    return FakeSource(keys_of("alice", "carol"))


@pytest.fixture
def store() -> FakeStore:
    """A store that all registries share."""
    return FakeStore()


@pytest_asyncio.fixture
async def make(source: FakeSource, store: FakeStore) -> AsyncIterator[Make]:
    """Makes registries that share a store, as processes of one machine do."""
    made: list[SnapshotRegistry] = []

    def build(
        *,
        clocks: FakeClocks | None = None,
        secret: bytes | None = None,
        sign: NewsSign | None = None,
        **timing: Any,
    ) -> SnapshotRegistry:
        used = clocks or LoopClocks()
        codec = RecordFormat(scope="a subnet", clocks=used.both, secret=secret, boot_id="boot")
        registry = SnapshotRegistry(
            source=source,
            timing=a_timing(used, **timing),
            shared=SharedSnapshots(store=store, codec=codec, clocks=used.both, sign=sign),
        )
        made.append(registry)
        return registry

    yield build
    for registry in made:
        await registry.aclose()


async def test_restart_serves_what_was_known_while_the_source_is_away(
    make: Make, source: FakeSource
) -> None:
    """The first caller after a restart is served, and no caller waits."""
    await make().refresh()
    source.error = DOWN
    restarted = make()
    await restarted.start()
    assert restarted.peek(ALICE) is not None
    await restarted.refresh()
    assert restarted.peek(ALICE) is not None
    assert restarted.health().freshness is Freshness.STALE


async def test_restart_costs_the_source_nothing_while_the_snapshot_is_fresh(
    make: Make, source: FakeSource
) -> None:
    """A replica that is restarted again and again is no burden."""
    await make().refresh()
    for _ in range(5):
        await make().start()
    # Beyond the time for which the lease is kept.
    await asyncio.sleep(0.9 * REFRESH_EVERY.total_seconds())
    assert source.bulk_fetches == 1


async def test_age_limit_holds_across_restarts(make: Make, source: FakeSource) -> None:
    """A snapshot remembers when it was said, whatever happened to the wall clock since."""
    clocks = FakeClocks()
    await make(clocks=clocks).refresh()
    source.error = DOWN
    clocks.advance(MAX_AGE.total_seconds() - 1)
    clocks.wall.advance(seconds=-600)
    restarted = make(clocks=clocks)
    await restarted.start()
    assert restarted.peek(ALICE) is not None
    clocks.advance(1)
    assert restarted.peek(ALICE) is None
    another = make(clocks=clocks)
    await another.start()
    assert another.peek(ALICE) is None


async def test_record_that_is_not_believed_is_ignored_with_a_warning(
    make: Make, source: FakeSource, store: FakeStore
) -> None:
    """Once, and the service starts as if there were none."""
    await make(secret=b"one").refresh()
    with structlog.testing.capture_logs() as lines:
        other = make(secret=b"another")
        await other.start()
        assert other.peek(ALICE) is None
        await other.refresh()
        assert other.peek(ALICE) is not None
    assert [line["event"] for line in lines] == ["stored_snapshot_ignored"]
    assert "another secret" in lines[0]["problem"]


async def test_store_full_of_nonsense_does_not_write_the_log_full(
    store: FakeStore,
) -> None:
    """A store that changes every second is logged now and then."""
    clocks = FakeClocks()
    codec = RecordFormat(scope="a subnet", clocks=clocks.both)
    shared = SharedSnapshots(store=store, codec=codec, clocks=clocks.both)
    with structlog.testing.capture_logs() as lines:
        for number in range(300):
            await store.save(b"{" * number, said_at=clocks.wall(), keep_for=MAX_AGE)
            assert await shared.fetch_news() is None
            clocks.advance(1)
    assert {line["event"] for line in lines} == {"stored_snapshot_ignored"}
    assert len(lines) <= 10


@pytest.mark.parametrize("method", ["acquire_lease", "save"])
async def test_store_that_takes_nothing_does_not_write_the_log_full(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """That a full disk, or a Redis that is read-only, can still be read is no recovery."""
    clocks = FakeClocks()
    codec = RecordFormat(scope="a subnet", clocks=clocks.both)
    shared = SharedSnapshots(store=store, codec=codec, clocks=clocks.both)

    async def write() -> None:
        if method == "acquire_lease":
            assert await shared.acquire_lease()
        else:
            known = SubnetSnapshot(keys=keys_of("alice"), said_at=clocks.wall())
            await shared.save(known, fetched_at=clocks.monotonic(), keep_for=MAX_AGE)

    with structlog.testing.capture_logs() as lines:
        with monkeypatch.context() as patch:
            patch.setattr(store, method, failing("is away"))
            for number in range(300):
                await shared.fetch_news()
                if number % 30 == 0:
                    await write()
                clocks.advance(1)
        await shared.fetch_news()
        await write()
    assert [line["event"] for line in lines] == ["source_failed", "source_recovered"]


async def test_outage_of_reading_ends_with_a_read_unless_writing_fails_as_well(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that stands by writes nothing for hours."""
    shared = a_member(store)
    with structlog.testing.capture_logs() as lines:
        for failing_write in (None, "acquire_lease"):
            with monkeypatch.context() as patch:
                if failing_write is not None:
                    patch.setattr(store, failing_write, failing("is away"))
                    assert await shared.acquire_lease()
                    await asyncio.sleep(60)
                patch.setattr(store, "version", failing("is away"))
                await shared.fetch_news()
            for _ in range(2):
                await asyncio.sleep(60)
                await shared.fetch_news()
        events = [line["event"] for line in lines]
        assert events == ["source_failed", "source_recovered", "source_failed"]
        assert lines[0]["error"] == "connection refused"
        assert await shared.acquire_lease()
        await shared.fetch_news()
    assert [line["event"] for line in lines[3:]] == ["source_recovered"]


async def test_one_refresh_an_interval_serves_the_fleet(make: Make, source: FakeSource) -> None:
    """Six processes fetch as often as one, and all of them have the news."""
    fleet = [make() for _ in range(6)]
    await asyncio.gather(*(registry.start() for registry in fleet))
    await until(lambda: all(registry.peek(ALICE) for registry in fleet))
    assert source.bulk_fetches == 1
    source.keys[ALICE] = key_of("alice's new")
    await asyncio.sleep(10 * REFRESH_EVERY.total_seconds() + 2)
    assert source.bulk_fetches == 1 + 10
    news = [registry.peek(ALICE) for registry in fleet]
    assert all(found is not None and found.public_key == key_of("alice's new") for found in news)


async def test_early_refreshes_are_limited_for_the_whole_fleet(
    make: Make, source: FakeSource
) -> None:
    """A flood over all processes costs one fetch a lease, and each caller gets the news."""
    fleet = [make() for _ in range(6)]
    await asyncio.gather(*(registry.start() for registry in fleet))
    await until(lambda: all(registry.peek(ALICE) for registry in fleet))
    await asyncio.sleep(refresh.EARLY_SECONDS / 2)
    source.keys |= keys_of("bob")
    loop = asyncio.get_running_loop()
    began = loop.time()
    found = await asyncio.gather(
        *(
            registry.lookup(a_hotkey("bob"), presented=key_of("bob"))
            for registry in fleet
            for _ in range(20)
        )
    )
    assert all(found)
    spent = loop.time() - began
    assert source.bulk_fetches <= 1 + 1 + spent / lease.LEASE_SECONDS


async def test_lease_is_kept_until_any_process_may_fetch_again(
    make: Make, source: FakeSource, store: FakeStore
) -> None:
    """Two seconds after the last fetch began, so that a flood over all processes is one flood."""
    registry = make()
    source.open.clear()
    refreshing = asyncio.create_task(registry.refresh())
    await asyncio.sleep(0.5)
    source.open.set()
    await refreshing
    remaining = await store.lease_remaining()
    assert remaining is not None
    assert remaining.total_seconds() == pytest.approx(2.0 - 0.5)


async def test_holder_of_the_lease_that_dies_is_replaced(make: Make, store: FakeStore) -> None:
    """A lease that is not renewed expires."""
    assert await store.acquire_lease("the dead", timedelta(seconds=1))
    registry = make()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await registry.lookup(ALICE, presented=key_of("alice")) is not None
    assert loop.time() - began == pytest.approx(1, abs=2 * lease.LEASE_POLL_SECONDS)


async def test_holder_renews_the_lease_while_the_source_takes_its_time(
    make: Make, source: FakeSource
) -> None:
    """A slow answer does not make the others fetch."""
    fleet = [make() for _ in range(3)]
    await asyncio.gather(*(registry.start() for registry in fleet))
    await until(lambda: all(registry.peek(ALICE) for registry in fleet))
    await asyncio.sleep(LEASE.total_seconds())
    source.keys |= keys_of("bob")
    source.open.clear()
    refreshes = [asyncio.create_task(registry.refresh()) for registry in fleet]
    await asyncio.sleep(10 * LEASE.total_seconds())
    assert source.bulk_fetches == 2
    source.open.set()
    await asyncio.gather(*refreshes)
    assert source.bulk_fetches == 2
    assert all(registry.peek(a_hotkey("bob")) for registry in fleet)


async def test_processes_that_know_nothing_wait_for_the_one_that_fetches(
    make: Make, source: FakeSource
) -> None:
    """A slow answer to the very first fetch does not make the others fetch either."""
    source.open.clear()
    fleet = [make() for _ in range(3)]
    await asyncio.gather(*(registry.start() for registry in fleet))
    await asyncio.sleep(20 * lease.LEASE_PATIENCE_AT_FIRST_SECONDS)
    assert source.bulk_fetches == 1
    source.open.set()
    await until(lambda: all(registry.peek(ALICE) for registry in fleet))
    assert source.bulk_fetches == 1


async def test_answers_slower_than_the_interval_are_fetched_one_at_a_time(
    make: Make, source: FakeSource
) -> None:
    """A process that waits for the lease takes news for news, however old they are then."""
    fleet = [make(refresh_every=timedelta(seconds=5)) for _ in range(4)]
    await asyncio.gather(*(registry.start() for registry in fleet))
    await until(lambda: all(registry.peek(ALICE) for registry in fleet))
    for _ in range(6):
        source.open.clear()
        fetches = source.bulk_fetches
        await until(lambda: source.bulk_fetches > fetches, seconds=60)  # noqa: B023
        await asyncio.sleep(0.7 * lease.LEASE_PATIENCE_SECONDS)
        assert source.bulk_fetches == fetches + 1
        source.open.set()


async def test_process_that_knows_nothing_does_not_wait_long_for_the_lease(
    make: Make, store: FakeStore
) -> None:
    """Its callers wait as well, and the holder may be the dead process that it replaces."""
    assert await store.acquire_lease("the dead", timedelta(minutes=1))
    registry = make()
    assert await registry.lookup(ALICE, presented=key_of("alice")) is not None


@pytest.mark.parametrize("already_refreshed", [1, 0])
async def test_store_that_is_away_denies_no_caller(
    already_refreshed: int,
    make: Make,
    source: FakeSource,
    store: FakeStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each process fetches for itself; the log says so once, and once when it is over."""
    monkeypatch.setattr(backoff, "RETRY_SECONDS_AT_LEAST", 0.1)
    monkeypatch.setattr(backoff, "RETRY_SECONDS_AT_MOST", 0.1)
    registry = make()
    if already_refreshed:
        await registry.refresh()
    with structlog.testing.capture_logs() as lines:
        store.is_away = True
        await registry.start()
        await asyncio.sleep(refresh.EARLY_SECONDS)
        assert await registry.lookup(ALICE, presented=key_of("alice")) is not None
        source.keys |= keys_of("bob")
        await asyncio.sleep(refresh.EARLY_SECONDS)
        assert await registry.lookup(a_hotkey("bob"), presented=key_of("bob")) is not None
        store.is_away = False
        await asyncio.sleep(0.15)
        await registry.refresh()
    assert [line["event"] for line in lines] == ["source_failed", "source_recovered"]
    assert store.record is not None


async def test_store_that_lost_its_record_is_given_it_again(
    make: Make, source: FakeSource, store: FakeStore
) -> None:
    """A Redis that was started anew is of use to new processes also while the source is away."""
    clocks = FakeClocks()
    known = make(clocks=clocks)
    await known.start()
    await until(lambda: store.record is not None)
    source.error = DOWN
    clocks.advance(MAX_AGE.total_seconds() - 2)
    store.record = None
    await until(lambda: store.record is not None)
    restarted = make(clocks=clocks)
    await restarted.start()
    assert restarted.peek(ALICE) is not None
    clocks.advance(2)
    assert restarted.peek(ALICE) is None
    store.record = None
    await asyncio.sleep(1.5 * refresh.WATCH_SECONDS)
    assert store.record is None


async def test_record_that_another_saved_meanwhile_is_read(
    make: Make, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that comes too late to save its answer takes in the later one."""
    clocks = LoopClocks()
    codec = RecordFormat(scope="a subnet", clocks=clocks.both)
    late = SharedSnapshots(store=store, codec=codec, clocks=clocks.both)
    assert await late.fetch_news() is None
    fetched_at = clocks.monotonic()
    early = SubnetSnapshot(keys=keys_of("alice"), said_at=clocks.wall())
    await make().refresh()

    async def leave_in_place(*_: object, **__: object) -> None:
        """As Redis does with a record that was said later."""

    monkeypatch.setattr(store, "save", leave_in_place)
    await late.save(early, fetched_at=fetched_at, keep_for=MAX_AGE)
    news = await late.fetch_news()
    assert news is not None
    assert news.snapshot.keys == keys_of("alice", "carol")


async def test_suspicious_snapshot_is_settled_by_the_process_that_quarantined_it(
    make: Make, source: FakeSource, store: FakeStore
) -> None:
    """The others keep what they know until it is confirmed, and fetch nothing meanwhile."""
    fleet = [make() for _ in range(3)]
    await asyncio.gather(*(registry.start() for registry in fleet))
    await until(lambda: all(registry.peek(ALICE) for registry in fleet))
    await asyncio.sleep(LEASE.total_seconds())
    source.keys = {}
    await fleet[0].refresh()
    await asyncio.gather(*(each.lookup(a_hotkey("x"), presented=bytes(32)) for each in fleet[1:]))
    assert all(registry.peek(ALICE) for registry in fleet)
    await until(lambda: not any(registry.peek(ALICE) for registry in fleet), seconds=10)
    assert source.bulk_fetches <= 4


def a_member(store: FakeStore) -> SharedSnapshots:
    """One process's view of the store, without a registry."""
    clocks = LoopClocks()
    codec = RecordFormat(scope="a subnet", clocks=clocks.both)
    return SharedSnapshots(store=store, codec=codec, clocks=clocks.both)


async def no_news() -> bool:
    """As where no other process has fetched."""
    return False


@pytest.mark.parametrize(
    ("is_urgent", "patience"),
    [(True, 1.0), (False, 30.0)],
)
async def test_lease_that_never_ends_is_waited_for_as_long_as_makes_sense(
    store: FakeStore, *, is_urgent: bool, patience: float
) -> None:
    """Not long where callers wait and its holder shows no sign of life."""
    await store.acquire_lease("the dead", timedelta(minutes=1))
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await a_member(store).wait_for_lease(find_news=no_news, is_urgent=lambda: is_urgent)
    assert loop.time() - began == pytest.approx(patience, abs=0.2)


async def test_lease_that_ends_between_two_looks_is_acquired(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it has no end any more is no sign of its holder, and no defect."""
    await store.acquire_lease("another", timedelta(seconds=0.25))
    ends = store.lease_remaining
    looks = 0

    async def end_meanwhile() -> timedelta | None:
        nonlocal looks
        looks += 1
        if looks == 2:
            store.lease = None
        return await ends()

    monkeypatch.setattr(store, "lease_remaining", end_meanwhile)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await a_member(store).wait_for_lease(find_news=no_news, is_urgent=lambda: True)
    assert looks == 2
    assert loop.time() - began == pytest.approx(0.2)


async def test_store_is_not_asked_for_the_end_of_the_lease_while_no_caller_waits(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet that waits looks ten times a second: one access each time is enough."""
    await store.acquire_lease("another", timedelta(seconds=5))
    monkeypatch.setattr(store, "lease_remaining", pytest.fail)
    assert await a_member(store).wait_for_lease(find_news=no_news, is_urgent=lambda: False)


async def test_lease_that_is_renewed_is_waited_for_however_urgent(store: FakeStore) -> None:
    """Its holder is alive, and has the answer sooner."""
    holder, other = a_member(store), a_member(store)
    assert await holder.acquire_lease()
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + 20
    waiting = asyncio.create_task(other.wait_for_lease(find_news=no_news, is_urgent=lambda: True))
    async with holder.lease_kept(ends_at=lambda: ends_at):
        await asyncio.sleep(10)
    assert not waiting.done()
    await asyncio.sleep(9)
    assert await waiting
    assert loop.time() < ends_at


async def test_news_end_the_wait_for_the_lease(store: FakeStore) -> None:
    """Then there is nothing to fetch."""
    await store.acquire_lease("another", timedelta(minutes=1))
    news = asyncio.Event()

    async def find_news() -> bool:
        return news.is_set()

    waiting = asyncio.create_task(
        a_member(store).wait_for_lease(find_news=find_news, is_urgent=lambda: False)
    )
    await asyncio.sleep(5)
    assert not waiting.done()
    news.set()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert not await waiting
    # A caller waits for little more than a second and a half: the news must be seen in time.
    assert loop.time() - began <= 0.1


@pytest.mark.parametrize(("ends_after", "expected"), [(7, 7), (-1, 2 * lease.LEASE_POLL_SECONDS)])
async def test_kept_lease_ends_when_it_is_to_end_but_not_before_the_news_are_seen(
    store: FakeStore, ends_after: float, expected: float
) -> None:
    """It is set when the fetch has ended, well or badly."""
    holder = a_member(store)
    assert await holder.acquire_lease()
    loop = asyncio.get_running_loop()

    async def fetch_in_vain() -> None:
        async with holder.lease_kept(ends_at=lambda: loop.time() + ends_after):
            await asyncio.sleep(10)
            raise DOWN

    with pytest.raises(RegistryUnavailable):
        await fetch_in_vain()
    remaining = await store.lease_remaining()
    assert remaining is not None
    assert remaining.total_seconds() == pytest.approx(expected)


# The registry asks its source, whatever the store does.


class Defect(Exception):
    """What no port declares."""


WAYS = ("is silent", "is away", "crashes", "an integer", "an array", "nothing")
METHODS = ("version", "load", "save", "acquire_lease", "lease_remaining")


def failing(how: str) -> Callable[..., Awaitable[Any]]:
    """A method of a store that fails in a way."""

    async def fail(*_: object, **__: object) -> object:
        if how == "is silent":
            await asyncio.sleep(3600)
        if how == "is away":
            raise StoreUnavailable("connection refused")
        if how == "crashes":
            raise Defect("nobody declared this")
        # What a server may answer that is none: it is used as if it were right.
        return {"an integer": 7, "an array": [[b"x"]], "nothing": None}[how]

    return fail


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("methods", [METHODS, *((method,) for method in METHODS)])
async def test_source_is_asked_whatever_the_store_does(
    make: Make,
    source: FakeSource,
    store: FakeStore,
    methods: tuple[str, ...],
    how: str,
) -> None:
    """All of it or one method alone, from the start or later: keys are renewed, old and new."""
    fail = {method: failing(how) for method in methods}
    if methods == METHODS:
        vars(store).update(fail)
    registry = make()
    await registry.start()
    await until(lambda: registry.peek(ALICE) is not None, seconds=60)
    vars(store).update(fail)
    for number in range(3):
        source.keys[ALICE] = key_of(f"alice's key {number}")
        await asyncio.sleep(REFRESH_EVERY.total_seconds() + 2 * lease.LEASE_PATIENCE_SECONDS)
        found = registry.peek(ALICE)
        assert found is not None
        assert found.public_key == key_of(f"alice's key {number}")
    assert registry.health().freshness is Freshness.FRESH


async def test_crash_of_a_store_is_logged_with_its_traceback_and_rarely(
    make: Make, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a defect, which must neither go unseen nor fill the log."""
    with structlog.testing.capture_logs() as lines:
        monkeypatch.setattr(store, "version", failing("crashes"))
        async with make():
            await asyncio.sleep(300)
    crashes = [line for line in lines if line["event"] == "store_crashed"]
    assert len(crashes) == 1
    assert crashes[0]["exc_info"]
    assert [line["cause"] for line in lines if line["event"] == "source_failed"] == [
        "StoreUnavailable"
    ]


async def test_codec_that_crashes_keeps_no_registry_from_its_source(
    make: Make, source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when it writes nor when it reads."""

    def crash(*_: object, **__: object) -> None:
        raise Defect

    await make().refresh()
    monkeypatch.setattr(RecordFormat, "parse", crash)
    monkeypatch.setattr(RecordFormat, "build", crash)
    registry = make()
    await registry.start()
    await until(lambda: registry.peek(ALICE) is not None, seconds=60)


async def test_store_is_closed_with_its_registry(make: Make, store: FakeStore) -> None:
    """Also where it was away."""
    closed = 0

    async def count() -> None:
        nonlocal closed
        closed += 1

    vars(store)["aclose"] = count
    store.is_away = True
    async with make():
        await asyncio.sleep(1)
    assert closed == 1


async def test_silent_store_delays_a_start_by_two_seconds(make: Make, store: FakeStore) -> None:
    """Then it counts as away, and the source is asked."""
    vars(store).update({method: failing("is silent") for method in METHODS})
    loop = asyncio.get_running_loop()
    began = loop.time()
    registry = make()
    await registry.start()
    await until(lambda: registry.peek(ALICE) is not None)
    assert loop.time() - began == pytest.approx(2.0, abs=0.1)


async def test_record_of_its_own_is_not_read_again(
    make: Make, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand hotkeys take some 150 ms to read."""
    load, loads = store.load, 0

    async def count() -> bytes | None:
        nonlocal loads
        loads += 1
        return await load()

    monkeypatch.setattr(store, "load", count)
    async with make():
        await asyncio.sleep(10 * REFRESH_EVERY.total_seconds())
    assert store.saved >= 10
    assert loads == 0


async def test_store_that_cannot_be_closed_ends_nothing_else(
    make: Make, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that stops is not kept from it."""
    for how in ("crashes", "is silent"):
        registry = make()
        await registry.start()
        with monkeypatch.context() as patch:
            patch.setattr(store, "aclose", failing(how))
            await registry.aclose()
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("method", ["save", "acquire_lease"])
async def test_store_that_fails_in_one_way_alone_is_away_until_it_works_again(
    make: Make,
    source: FakeSource,
    store: FakeStore,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """Each process fetches for itself meanwhile, and takes in what others save afterwards."""
    with monkeypatch.context() as patch:
        patch.setattr(store, method, failing("is away"))
        one, other = make(), make()
        await asyncio.gather(one.refresh(), other.refresh())
        assert source.bulk_fetches == 2
        assert one.peek(ALICE) is not None
        assert other.peek(ALICE) is not None
    source.keys |= keys_of("bob")
    await asyncio.sleep(backoff.RETRY_SECONDS_AT_MOST)
    await one.refresh()
    await other.start()
    assert source.bulk_fetches == 3
    assert other.peek(a_hotkey("bob")) is not None


# News from another process.


@pytest.mark.parametrize("set_back", [0, 600])
async def test_news_from_another_process_are_usable_for_as_long_as_where_they_were_fetched(
    make: Make, source: FakeSource, set_back: float
) -> None:
    """Neither shorter nor longer, also where the wall clock is set back meanwhile."""
    clocks = FakeClocks()
    first, second = make(clocks=clocks), make(clocks=clocks)
    await first.refresh()
    source.error = DOWN
    clocks.advance(100)
    await second.start()
    clocks.wall.advance(seconds=-set_back)
    assert second.peek(ALICE) == first.peek(ALICE) is not None
    clocks.advance(MAX_AGE.total_seconds() - 100 - 0.001)
    assert second.peek(ALICE) is not None
    clocks.advance(0.001)
    assert second.peek(ALICE) is None


@pytest.mark.parametrize(
    ("seconds", "block"), [(10, 8), (0, 8), (-10, 8), (10, 7)], ids=["10", "0", "-10", "lagging"]
)
async def test_only_newer_news_replace_what_is_known(
    make: Make, source: FakeSource, store: FakeStore, seconds: float, block: int
) -> None:
    """An older record takes nothing back, and makes nothing older; nor does an older block.

    The node of another process may lag, and would bring back a key that was rotated.
    """
    clocks = FakeClocks()
    source.block = a_block(8)
    registry = make(clocks=clocks)
    await registry.start()
    await until(lambda: registry.peek(ALICE) is not None)
    known = registry.peek(ALICE)
    codec = RecordFormat(scope="a subnet", clocks=clocks.both, boot_id="boot")
    said_at = clocks.wall() + timedelta(seconds=seconds)
    other = SubnetSnapshot(keys=keys_of("alice", "zoe"), said_at=said_at, block=a_block(block))
    record = codec.build(other, fetched_at=clocks.monotonic() + seconds)
    clocks.advance(11)
    await store.save(record, said_at=said_at, keep_for=MAX_AGE)
    await asyncio.sleep(2 * refresh.WATCH_SECONDS)
    now = registry.peek(ALICE)
    assert now is not None
    if seconds > 0 and block == 8:
        assert registry.peek(a_hotkey("zoe")) is not None
        assert now.expires_at == said_at + MAX_AGE
    else:
        assert registry.peek(a_hotkey("zoe")) is None
        assert now is known


async def test_news_end_the_quarantine_of_an_answer(
    make: Make, source: FakeSource, store: FakeStore
) -> None:
    """What is said after them is compared with them, and needs a confirmation of its own."""
    clocks = FakeClocks()
    one, other = make(clocks=clocks), make(clocks=clocks)
    await one.refresh()
    full = dict(source.keys)
    for keys, process in [({}, one), (full, other), ({}, one)]:
        clocks.advance(4)
        store.lease = None
        source.keys = dict(keys)
        await process.refresh()
        assert one.peek(ALICE) is not None


# The workers of one service: what one has learned, the others know before they deny.


async def two_workers_of_which_one_has_news(
    make: Make, source: FakeSource, store: FakeStore
) -> SnapshotRegistry:
    """The worker that has fetched, looked for news and may not fetch for now.

    After that, the other one has fetched a newcomer, and another's new key.
    """
    sign = NewsSign()
    one, other = make(sign=sign), make(sign=sign)
    await other.refresh()
    source.keys |= {a_hotkey("bob"): key_of("bob"), ALICE: key_of("alice's new")}
    await asyncio.sleep(0.5)
    store.lease = None
    await one.refresh()
    assert one.peek(a_hotkey("bob")) is not None
    return other


@pytest.mark.parametrize(("name", "key"), [("bob", "bob"), ("alice", "alice's new")])
async def test_worker_knows_what_another_granted_by_before_it_denies(
    make: Make, source: FakeSource, store: FakeStore, name: str, key: str
) -> None:
    """A newcomer, or a rotated key, is granted by all from its first grant on, without a fetch."""
    other = await two_workers_of_which_one_has_news(make, source, store)
    fetches, began = source.bulk_fetches, asyncio.get_running_loop().time()
    callers = (other.lookup(a_hotkey(name), presented=key_of(key)) for _ in range(500))
    for found in await asyncio.gather(*callers):
        assert found is not None
        assert found.public_key == key_of(key)
    assert asyncio.get_running_loop().time() == began
    assert source.bulk_fetches == fetches


async def test_worker_saves_its_news_before_it_grants_by_them(
    make: Make, source: FakeSource, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise another worker could look in between, and deny."""
    registry = make()
    known: list[object] = []
    save = store.save

    async def look_and_save(*args: Any, **named: Any) -> str | None:
        known.append(registry.peek(ALICE))
        return await save(*args, **named)

    monkeypatch.setattr(store, "save", look_and_save)
    await registry.refresh()
    assert known == [None]
    assert registry.peek(ALICE) is not None


async def test_look_that_began_too_early_is_followed_by_another(
    make: Make, source: FakeSource, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved during a look is seen by the next one, which a caller waits for as well."""
    other = await two_workers_of_which_one_has_news(make, source, store)
    version, looks = store.version, 0

    async def slow_version() -> str | None:
        nonlocal looks
        looks += 1
        if looks > 1:
            return await version()
        await asyncio.sleep(0.5)
        return str(store.saved - 1)  # What it was when the look began.

    monkeypatch.setattr(store, "version", slow_version)
    early = asyncio.create_task(other.lookup(a_hotkey("x"), presented=bytes(32)))
    await asyncio.sleep(0.1)
    assert other._shared is not None
    assert other._shared._sign is not None
    other._shared._sign.change()
    assert await other.lookup(a_hotkey("bob"), presented=key_of("bob")) is not None
    assert looks == 2
    await early


async def test_store_that_is_silent_holds_no_worker_up_for_long(
    make: Make, source: FakeSource, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller waits for it as long as for a source, and then no caller waits for it."""
    other = await two_workers_of_which_one_has_news(make, source, store)

    async def hang() -> None:
        await asyncio.sleep(3600)

    for method in ("version", "load", "save", "lease_remaining"):
        monkeypatch.setattr(store, method, lambda *_, **__: hang())
    loop = asyncio.get_running_loop()
    began = loop.time()
    with structlog.testing.capture_logs() as lines:
        await other.lookup(a_hotkey("bob"), presented=key_of("bob"))
        assert loop.time() - began == pytest.approx(PATIENCE_SECONDS)
        await asyncio.sleep(lease.STORE_SECONDS - PATIENCE_SECONDS + 0.1)
    assert [line["error"] for line in lines] == ["it did not answer in time"]
    assert other._shared is not None
    assert not other._shared.is_behind()


async def test_answer_older_than_what_another_process_saved_meanwhile_is_not_served(
    make: Make, source: FakeSource, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not take back what a later fetch found; the lease was lost meanwhile."""
    slow, quick = make(), make()
    save = store.save

    async def save_late(record: bytes, **named: Any) -> str | None:
        monkeypatch.setattr(store, "save", save)
        await asyncio.sleep(1)
        source.keys |= keys_of("bob")
        store.lease = None
        await quick.refresh()
        assert await slow._adopt_news()
        return None

    monkeypatch.setattr(store, "save", save_late)
    await slow.refresh()
    assert slow.peek(a_hotkey("bob")) is not None


async def test_look_that_hangs_ends_with_the_registry(
    make: Make, source: FakeSource, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who hangs up does not end it, since others may wait for it; closing does."""
    other = await two_workers_of_which_one_has_news(make, source, store)
    monkeypatch.setattr(store, "version", failing("is silent"))
    waiting = asyncio.create_task(other.lookup(a_hotkey("x"), presented=bytes(32)))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) == 1 + 1
    loop = asyncio.get_running_loop()
    began = loop.time()
    await other.aclose()
    assert len(asyncio.all_tasks()) == 1
    assert loop.time() == began


async def test_process_that_knows_nothing_is_patient_with_the_lease_in_an_outage(
    make: Make, source: FakeSource, store: FakeStore
) -> None:
    """No caller waits then, and its holder is as likely to end the outage."""
    registry = make()
    source.error = DOWN
    await registry.refresh()
    assert registry.health().failing_since is not None
    store.lease = ("another", asyncio.get_running_loop().time() + 60)
    await asyncio.sleep(backoff.RETRY_SECONDS_AT_MOST)
    refreshing = asyncio.create_task(registry.refresh())
    await asyncio.sleep(29)
    assert source.bulk_fetches == 1
    await refreshing
    assert source.bulk_fetches == 2


@pytest.mark.parametrize(
    ("age", "ends_outage", "is_fetch_due"),
    [(28, True, False), (29.5, True, True), (31, False, True)],
)
async def test_news_count_for_as_much_as_they_are_new(
    make: Make,
    source: FakeSource,
    store: FakeStore,
    age: float,
    *,
    ends_outage: bool,
    is_fetch_due: bool,
) -> None:
    """Newer than an interval they end the outage; nearly as old, a fetch is due all the same."""
    clocks = FakeClocks()
    registry = make(clocks=clocks)
    source.error = DOWN
    await registry.refresh()
    codec = RecordFormat(scope="a subnet", clocks=clocks.both, boot_id="boot")
    news = SubnetSnapshot(keys=keys_of("zoe"), said_at=clocks.wall())
    record = codec.build(news, fetched_at=clocks.monotonic())
    clocks.advance(age)
    await store.save(record, said_at=news.said_at, keep_for=MAX_AGE)
    assert await registry._adopt_news() != is_fetch_due
    assert registry.peek(a_hotkey("zoe")) is not None
    assert (registry.health().failing_since is None) == ends_outage


async def test_record_is_kept_for_as_long_as_it_can_be_used(
    make: Make, source: FakeSource, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes late is not kept for longer."""
    save, kept = store.save, []

    async def note(record: bytes, *, said_at: datetime, keep_for: timedelta) -> str | None:
        kept.append(keep_for)
        return await save(record, said_at=said_at, keep_for=keep_for)

    monkeypatch.setattr(store, "save", note)
    registry = make()
    source.open.clear()
    refreshing = asyncio.create_task(registry.refresh())
    await asyncio.sleep(20)
    source.open.set()
    await refreshing
    assert kept == [MAX_AGE - timedelta(seconds=20)]


async def test_answer_that_came_too_late_to_be_used_is_not_saved(
    make: Make, source: FakeSource, store: FakeStore
) -> None:
    """It would displace what another process can still use."""
    registry = make(max_age=timedelta(seconds=10))
    source.open.clear()
    refreshing = asyncio.create_task(registry.refresh())
    await asyncio.sleep(10)
    source.open.set()
    await refreshing
    assert registry.peek(ALICE) is None
    assert store.record is None


async def test_record_that_is_too_old_ends_no_lookups_of_single_keys(
    make: Make, source: FakeSource, store: FakeStore
) -> None:
    """It is of no use, and what stands in for it is."""
    clocks = FakeClocks()
    codec = RecordFormat(scope="a subnet", clocks=clocks.both, boot_id="boot")
    old = SubnetSnapshot(keys=keys_of("zoe"), said_at=clocks.wall())
    record = codec.build(old, fetched_at=clocks.monotonic())
    source.offers_bulk = False
    registry = make(clocks=clocks)
    await registry.refresh()
    clocks.advance(MAX_AGE.total_seconds())
    await store.save(record, said_at=old.said_at, keep_for=MAX_AGE)
    assert not await registry._adopt_news()
    assert registry.health().mode == "lookup"
    assert await registry.lookup(ALICE, presented=key_of("alice")) is not None


async def test_news_of_another_process_end_the_wait_for_a_fetch_that_hangs(
    make: Make, source: FakeSource, store: FakeStore
) -> None:
    """All who wait look at once, and not when their patience ends."""
    registry, clocks = make(), LoopClocks()
    source.open.clear()
    began = clocks.monotonic()
    waiting = asyncio.create_task(registry.lookup(ALICE, presented=key_of("alice")))
    await asyncio.sleep(0.5)
    news = SubnetSnapshot(keys=keys_of("alice"), said_at=clocks.wall())
    codec = RecordFormat(scope="a subnet", clocks=clocks.both, boot_id="boot")
    record = codec.build(news, fetched_at=clocks.monotonic())
    await store.save(record, said_at=news.said_at, keep_for=MAX_AGE)
    assert await registry._adopt_news()
    assert await waiting is not None
    assert clocks.monotonic() - began == pytest.approx(0.5)
