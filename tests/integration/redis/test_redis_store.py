from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from nexus_auth.adapters.clock import Clocks, utc_now
from nexus_auth.adapters.registry.lease import SharedSnapshots
from nexus_auth.adapters.store import redis_store
from nexus_auth.adapters.store.record import MAX_RECORD_BYTES, RecordFormat
from nexus_auth.adapters.store.redis_store import RedisStore
from nexus_auth.domain.errors import RecordRejected, StoreUnavailable
from nexus_auth.domain.ports import SnapshotStore
from nexus_auth.domain.snapshot import SubnetSnapshot
from tests.builders import NOW, a_hotkey, a_key, public_bytes
from tests.fakes import FakeClock
from tests.integration.real import Process, free_port
from tests.integration.redis.server import PASSWORD, redis_url
from tests.unit.contracts.snapshot_store import KEEP, LONG, SnapshotStoreContract

SCOPE = "http://pylon:8000 netuid=12"

Server = tuple[Process, int]


@pytest_asyncio.fixture
async def stores(redis_server: Server) -> AsyncIterator[tuple[RedisStore, RedisStore]]:
    """Two processes' views of one store."""
    _, port = redis_server
    pair = tuple(RedisStore(redis_url(port), scope=SCOPE, clock=FakeClock()) for _ in range(2))
    yield pair[0], pair[1]
    for store in pair:
        await store.aclose()


class TestRedisStore(SnapshotStoreContract):
    """The contract that the other stores keep as well."""

    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The contract is about answers. Twenty connections at once may take a moment to open."""
        monkeypatch.setattr(redis_store, "TIMEOUT_SECONDS", 20.0)


@asynccontextmanager
async def somebody_else_at_the_record(port: int) -> AsyncIterator[tuple[Redis, bytes | str]]:
    """A client that may write the store's Redis, and the key of the one record in it."""
    async with Redis.from_url(redis_url(port)) as client:
        (key,) = await client.keys("*:snapshot")
        yield client, key


async def test_two_subnets_share_one_redis(redis_server: Server, stores: object) -> None:
    """Neither sees the other's record, or waits for its turn."""
    _, port = redis_server
    one = RedisStore(redis_url(port), scope=SCOPE, clock=utc_now)
    other = RedisStore(redis_url(port), scope="http://pylon:8000 netuid=1", clock=utc_now)
    await one.save(b"one", said_at=NOW, keep_for=KEEP)
    assert await other.load() is None
    assert await one.acquire_lease("one", LONG)
    assert await other.acquire_lease("other", LONG)
    await one.aclose()
    await other.aclose()


async def test_processes_of_an_earlier_version_keep_another_record_and_lease(
    redis_server: Server, stores: tuple[RedisStore, RedisStore]
) -> None:
    """During an upgrade neither version reads, replaces or waits for what is the other's."""
    _, port = redis_server
    name = hashlib.sha256(SCOPE.encode()).hexdigest()[:32]  # as version 1 named them
    snapshot, lease = f"nexus-auth:{{{name}}}:snapshot", f"nexus-auth:{{{name}}}:turn"
    async with Redis.from_url(redis_url(port)) as client:
        await client.hset(snapshot, mapping={"said_at": "9" * 12, "record": b"{}"})
        await client.set(lease, "one of them", px=30_000)
        one, _ = stores
        assert await one.version() is None
        assert await one.acquire_lease("one", LONG)
        await one.save(b"ours", said_at=NOW, keep_for=KEEP)
        assert await client.hget(snapshot, "record") == b"{}"
        assert await client.get(lease) == b"one of them"


async def test_record_said_earlier_does_not_replace_a_later_one(
    stores: tuple[RedisStore, RedisStore],
) -> None:
    """A process that was stopped for a while does not bring back what it knew."""
    one, other = stores
    await one.save(b"later", said_at=NOW, keep_for=KEEP)
    earlier = NOW - timedelta(seconds=1)
    assert await other.save(b"earlier", said_at=earlier, keep_for=KEEP) is None
    assert await one.load() == b"later"


async def test_record_from_the_future_is_replaced(stores: tuple[RedisStore, RedisStore]) -> None:
    """A clock that was wrong once blocks the store for nobody."""
    one, other = stores
    await one.save(b"future", said_at=NOW + timedelta(hours=1), keep_for=KEEP)
    await other.save(b"now", said_at=NOW, keep_for=KEEP)
    assert await one.load() == b"now"


async def test_record_ends_with_its_usefulness(stores: tuple[RedisStore, RedisStore]) -> None:
    """Redis forgets what nobody may use any more."""
    one, _ = stores
    await one.save(b"brief", said_at=NOW, keep_for=timedelta(milliseconds=20))
    await asyncio.sleep(0.05)
    assert await one.load() is None
    assert await one.version() is None


async def test_record_that_is_too_large_is_not_read(
    redis_server: Server, stores: tuple[RedisStore, RedisStore]
) -> None:
    """Whoever can write the store cannot fill our memory."""
    _, port = redis_server
    one, _ = stores
    await one.save(b"x", said_at=NOW, keep_for=KEEP)
    async with somebody_else_at_the_record(port) as (client, key):
        await client.hset(key, "record", "x" * (MAX_RECORD_BYTES + 1))
    with pytest.raises(RecordRejected, match="too large"):
        await one.load()


async def test_version_that_is_too_large_is_not_read(
    redis_server: Server, stores: tuple[RedisStore, RedisStore]
) -> None:
    """Nor by way of the name of the record, which is asked for every second."""
    _, port = redis_server
    one, _ = stores
    await one.save(b"x", said_at=NOW, keep_for=KEEP)
    async with somebody_else_at_the_record(port) as (client, key):
        await client.hset(key, "said_at", "9" * 1_000_000)
    version = await one.version()
    assert version is not None
    assert len(version) < 100


async def test_what_the_url_says_of_our_own_business_does_not_count(redis_server: Server) -> None:
    """A URL that other programs use too may ask for text, for time limits and for trying again."""
    _, port = redis_server
    url = redis_url(port) + "?decode_responses=true&socket_timeout=9&retry=3&retry_on_error=x"
    url += "&protocol=3"
    store = RedisStore(url, scope=SCOPE, clock=FakeClock())
    version = await store.save(b"\xff", said_at=NOW, keep_for=KEEP)
    assert await store.version() == version
    assert await store.load() == b"\xff"
    await store.aclose()


async def every_call(store: SnapshotStore) -> list[str]:
    """What each method says when the store is away."""
    calls = (
        store.version(),
        store.load(),
        store.save(b"x", said_at=NOW, keep_for=KEEP),
        store.acquire_lease("me", LONG),
    )
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, StoreUnavailable)]
    assert len(errors) == len(calls), results
    return [f"{error} {error!r} {error.__cause__!r}" for error in errors]


@pytest.mark.parametrize("url", ["redis://:{}@127.0.0.1:{}/0", "rediss://:{}@127.0.0.1:{}/0"])
async def test_redis_that_is_not_there_is_unavailable(url: str) -> None:
    """One error, whatever is wrong, and never a password in it."""
    store = RedisStore(url.format("hush", free_port()), scope=SCOPE, clock=utc_now)
    for text in [*await every_call(store), repr(store)]:
        assert "hush" not in text
    await store.aclose()


async def test_wrong_password_is_unavailable(redis_server: Server) -> None:
    """Redis is there, but not for us."""
    _, port = redis_server
    url = redis_url(port).replace("password", "mistake")
    store = RedisStore(url, scope=SCOPE, clock=utc_now)
    for text in await every_call(store):
        assert "mistake" not in text
        assert PASSWORD not in text
    await store.aclose()


async def test_redis_that_is_silent_is_unavailable_within_a_second(
    redis_server: Server, stores: tuple[RedisStore, RedisStore]
) -> None:
    """A stopped Redis holds nobody up; when it goes on, so does the store."""
    process, _ = redis_server
    one, _ = stores
    await one.save(b"x", said_at=NOW, keep_for=KEEP)
    process.send_signal(signal.SIGSTOP)
    try:
        # One after the other they would take four seconds.
        async with asyncio.timeout(3):
            await every_call(one)
    finally:
        process.send_signal(signal.SIGCONT)
    assert await one.load() == b"x"


async def test_key_of_another_kind_is_rejected_and_replaced(
    redis_server: Server, stores: tuple[RedisStore, RedisStore]
) -> None:
    """Something else under our name is no outage, which would last for as long as it is there."""
    _, port = redis_server
    one, other = stores
    await one.save(b"x", said_at=NOW, keep_for=KEEP)
    async with somebody_else_at_the_record(port) as (client, key):
        for put in (client.lpush, client.set):
            await client.delete(key)
            await put(key, "x")
            version = await one.version()
            assert version is not None
            with pytest.raises(RecordRejected, match="no hash"):
                await one.load()
            saved = await one.save(b"y", said_at=NOW, keep_for=KEEP)
            assert saved == await other.version() != version
            assert await other.load() == b"y"
            assert await client.pttl(key) > 0


async def test_fleet_shares_again_after_something_else_took_the_place(
    redis_server: Server, stores: tuple[RedisStore, RedisStore]
) -> None:
    """The next one who asks the source puts its answer there, and the others have it."""
    _, port = redis_server
    clocks = Clocks(FakeClock())
    asker, listener = (
        SharedSnapshots(
            store=store,
            codec=RecordFormat(scope=SCOPE, clocks=clocks),
            clocks=clocks,
        )
        for store in stores
    )
    await stores[0].save(b"x", said_at=NOW, keep_for=KEEP)
    async with somebody_else_at_the_record(port) as (client, key):
        await client.delete(key)
        await client.set(key, "x")
    for each in (asker, listener):
        assert await each.fetch_news() is None
        assert (each.is_away, each.is_empty) == (False, False)
    known = SubnetSnapshot(keys={a_hotkey("alice"): public_bytes(a_key("alice"))}, said_at=NOW)
    await asker.save(known, fetched_at=0.0, keep_for=KEEP)
    news = await listener.fetch_news()
    assert news is not None
    assert news.snapshot.keys == known.keys
