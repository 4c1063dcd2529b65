"""What the port `SnapshotStore` declares is all that comes out, whatever a Redis answers."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from nexus_auth.adapters.store import redis_store
from nexus_auth.adapters.store.record import LONGEST_LEASE, MAX_RECORD_BYTES
from nexus_auth.adapters.store.redis_store import RedisStore
from nexus_auth.domain.errors import RecordRejected, StoreUnavailable
from nexus_auth.domain.ports import SnapshotStore
from tests.builders import NOW, a_hotkey
from tests.fakes import FakeClock
from tests.integration.pylon.running import running_pylon
from tests.integration.redis.hostile import (
    Behaviour,
    HostileRedis,
    answering,
    answering_half,
    dripping,
    hostile_redis,
    pouring,
    saying_nothing,
)
from tests.integration.service.running import a_header, register, running_service
from tests.unit.contracts.snapshot_store import KEEP, LONG

MEMORY_BYTES: Final = 5 * MAX_RECORD_BYTES
"""A text as long as the longest record: in the stream's buffer, which grows, and copied out."""

NOTHING_OF_OURS: Final[dict[str, Behaviour]] = {
    "a number without end": answering(b":" + b"9" * 100_000 + b"\r\n"),
    "a number of 20 digits": answering(b":99999999999999999999\r\n"),
    "no number": answering(b":\r\n"),
    "a number that is a text": answering(b":0x1\r\n"),
    "an array": answering(b"*2\r\n:1\r\n:2\r\n"),
    "an empty array": answering(b"*0\r\n"),
    "no array": answering(b"*-1\r\n"),
    "nested arrays": answering(b"*1\r\n" * 5000 + b":1\r\n"),
    "an array without end": pouring(b"*2147483647\r\n", b":1\r\n" * 10_000),
    "arrays in arrays without end": pouring(b"", b"*1\r\n" * 10_000),
    "a text of a terabyte": pouring(b"$999999999999\r\n", b"x" * 65_536),
    "a text longer than a record": pouring(b"$%d\r\n" % (MAX_RECORD_BYTES + 1), b"x" * 65_536),
    "a text of negative length": answering(b"$-2\r\n"),
    "a text without length": answering(b"$\r\n\r\n"),
    "a text with the length of another": answering(b"$2\r\nlonger\r\n"),
    "an error": answering(b"-ERR no\r\n"),
    "an error of another kind": answering(b"-MOVED 1 127.0.0.1:1\r\n"),
    "an error of loading": answering(b"-LOADING\r\n"),
    "an error of permission": answering(b"-NOAUTH Authentication required.\r\n"),
    "an error without end": pouring(b"-", b"x" * 65_536),
    "an error that is no UTF-8": answering(b"-\xff\xfe\r\n"),
    "a line without end": pouring(b"+", b"x" * 65_536),
    "line feeds alone": answering(b":1\n:1\n"),
    "a carriage return alone": answering(b":1\r:1\r"),
    "inline text": answering(b"hello\r\n"),
    "an empty line": answering(b"\r\n"),
    "HTTP": answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "binary": answering(b"\xff\x00" * 1000 + b"\r\n"),
    "a push of RESP3": answering(b">2\r\n+message\r\n+x\r\n"),
    "a map of RESP3": answering(b"%1\r\n+a\r\n:1\r\n"),
    "a null of RESP3": answering(b"_\r\n"),
    "a truth of RESP3": answering(b"#t\r\n"),
    "a fraction of RESP3": answering(b",1.5\r\n"),
    "a big number of RESP3": answering(b"(" + b"9" * 1000 + b"\r\n"),
    "a verbatim text of RESP3": answering(b"=5\r\ntxt:x\r\n"),
    "a set of RESP3": answering(b"~1\r\n:1\r\n"),
    "an error of RESP3": answering(b"!5\r\nERR x\r\n"),
    "silence": saying_nothing,
    "nothing, and the end": answering_half(b""),
    "half a number": answering_half(b":1"),
    "half a text": answering_half(b"$100\r\nhalf"),
    "a text in drops": dripping(b"$2000\r\n", b"x"),
    "a line in drops": dripping(b"+", b"x"),
}
"""No command here has such a reply."""

ODD: Final[dict[str, Behaviour]] = {
    "a number": answering(b":7\r\n"),
    "zero": answering(b":0\r\n"),
    "a negative number": answering(b":-1\r\n"),
    "the largest number": answering(b":9223372036854775807\r\n"),
    "a text": answering(b"$5\r\nhello\r\n"),
    "an empty text": answering(b"$0\r\n\r\n"),
    "a text as long as the longest record": answering(
        b"$%d\r\n%s\r\n" % (MAX_RECORD_BYTES, b"\xff" * MAX_RECORD_BYTES)
    ),
    "no text": answering(b"$-1\r\n"),
    "a status": answering(b"+OK\r\n"),
    "an empty status": answering(b"+\r\n"),
    "two replies": answering(b":1\r\n:1\r\n"),
}
"""Some commands have such a reply, and others do not."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits end by the store's own time limit, whatever that is."""
    monkeypatch.setattr(redis_store, "TIMEOUT_SECONDS", 0.3)


async def outcome(call: Awaitable[object], *declared: type[Exception]) -> object:
    """What a call returns, or its error where the port declares it; any other ends the test."""
    try:
        return await call
    except declared as exc:
        return exc.with_traceback(None)


async def outcomes(store: SnapshotStore) -> list[object]:
    """What each method does. Its values are of the kinds that the port declares."""
    version = await outcome(store.version(), StoreUnavailable)
    assert isinstance(version, str | StoreUnavailable | None)
    assert not isinstance(version, str) or len(version) <= 32
    record = await outcome(store.load(), StoreUnavailable, RecordRejected)
    assert isinstance(record, bytes | StoreUnavailable | RecordRejected | None)
    saved = await outcome(store.save(b"x", said_at=NOW, keep_for=KEEP), StoreUnavailable)
    assert isinstance(saved, str | StoreUnavailable | None)
    acquired = await outcome(store.acquire_lease("me", LONG), StoreUnavailable)
    assert isinstance(acquired, bool | StoreUnavailable)
    remaining = await outcome(store.lease_remaining(), StoreUnavailable)
    assert isinstance(remaining, timedelta | StoreUnavailable | None)
    assert not isinstance(remaining, timedelta) or timedelta(0) < remaining <= LONGEST_LEASE
    return [version, record, saved, acquired, remaining]


async def bounded_outcomes(server: HostileRedis) -> list[object]:
    """The same, in bounded time and memory; and the store recovers once Redis does."""
    store = RedisStore(server.url, scope="a subnet", clock=FakeClock())
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        async with asyncio.timeout(40):
            found = await outcomes(store)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < MEMORY_BYTES
    server.is_polite = True
    server.behaviour = answering(b"$-1\r\n")
    assert await store.version() is None
    await store.aclose()
    return found


@pytest.mark.parametrize("answered", ["all", "all but the greeting"])
@pytest.mark.parametrize("name", NOTHING_OF_OURS)
async def test_nonsense_is_an_outage(name: str, answered: str) -> None:
    """Every method has the port's error, in bounded time and memory."""
    with hostile_redis(NOTHING_OF_OURS[name], is_polite=answered != "all") as server:
        found = await bounded_outcomes(server)
        assert [type(each) for each in found] == [StoreUnavailable] * 5
        assert server.commands


@pytest.mark.parametrize("answered", ["all", "all but the greeting"])
@pytest.mark.parametrize("name", ODD)
async def test_odd_reply_is_a_declared_value_or_error(name: str, answered: str) -> None:
    """A reply that belongs to another command never surprises the caller."""
    with hostile_redis(ODD[name], is_polite=answered != "all") as server:
        await bounded_outcomes(server)


async def test_error_repeats_nothing_of_what_redis_says() -> None:
    """The text could be anything, and goes to the log."""
    with hostile_redis(answering(b"-ERR \x1b[31m secret\r\n")) as server:
        store = RedisStore(server.url, scope="a subnet", clock=FakeClock())
        with pytest.raises(StoreUnavailable) as caught:
            await store.version()
        await store.aclose()
    assert "secret" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"


SERVICE_NONSENSE: Final[dict[str, Callable[[], Behaviour]]] = {
    name: lambda name=name: {**NOTHING_OF_OURS, **ODD}[name]  # type: ignore[misc]
    for name in ("a number", "an array", "nested arrays", "a text of a terabyte", "silence")
}


@pytest.mark.parametrize("name", SERVICE_NONSENSE)
def test_service_grants_whatever_its_redis_answers(name: str, tmp_path: Path) -> None:
    """It starts, fetches from Pylon by itself, sees rotated keys, and says what is wrong."""
    with (
        hostile_redis(SERVICE_NONSENSE[name]()) as server,
        running_pylon() as pylon,
    ):
        register(pylon, "alice")
        with running_service(
            tmp_path,
            pylon.url,
            NEXUS_AUTH_SNAPSHOT_STORE=server.url,
            NEXUS_AUTH_SNAPSHOT_STORE_SECRET="a secret that all replicas have",
        ) as service:
            assert service.ask(a_header("alice")).status == 200
            # The refreshing goes on.
            register(pylon, "bob")
            answered = service.ask(a_header("bob"))
            while answered.status != 200:
                answered = service.ask(a_header("bob"))
            assert answered.headers["X-Hotkey"] == a_hotkey("bob").address
            failed = service.lines("source_failed")
            assert not service.lines("refresh_crashed")
            assert not service.lines("keeper_crashed")
    assert {line["source"] for line in failed} == {"snapshot store"}
