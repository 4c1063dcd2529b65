"""What every SnapshotStore must do."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from nexus_auth.adapters.store.record import MAX_RECORD_BYTES
from nexus_auth.domain.ports import SnapshotStore
from tests.builders import NOW

KEEP = timedelta(minutes=15)
LONG = timedelta(seconds=30)

Stores = tuple[SnapshotStore, SnapshotStore]


class SnapshotStoreContract:
    """Needs a fixture `stores`: two processes' views of one empty store."""

    async def test_nothing_is_kept_at_first(self, stores: Stores) -> None:
        """No record, no version."""
        one, _ = stores
        assert await one.load() is None
        assert await one.version() is None

    async def test_record_is_seen_by_the_other(self, stores: Stores) -> None:
        """What one saves, both read."""
        one, other = stores
        version = await one.save(b"first", said_at=NOW, keep_for=KEEP)
        assert await other.load() == b"first"
        assert await other.version() == await one.version() == version is not None

    @pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 300_000, MAX_RECORD_BYTES])
    async def test_record_of_any_allowed_size_is_read(self, stores: Stores, size: int) -> None:
        """Above 64 KB too, which is where streams and pipes have their limits."""
        one, other = stores
        record = random.Random(size).randbytes(size)
        await one.save(record, said_at=NOW, keep_for=KEEP)
        assert await other.load() == record

    async def test_version_changes_with_the_record(self, stores: Stores) -> None:
        """So that news can be noticed without reading them."""
        one, other = stores
        await one.save(b"first", said_at=NOW, keep_for=KEEP)
        before = await other.version()
        await one.save(b"other", said_at=NOW + timedelta(seconds=1), keep_for=KEEP)
        assert await other.version() != before
        assert await other.load() == b"other"

    async def test_lease_belongs_to_one_at_a_time(self, stores: Stores) -> None:
        """Its holder may renew it; the other has to wait."""
        one, other = stores
        assert await one.acquire_lease("one", LONG)
        assert not await other.acquire_lease("other", LONG)
        assert await one.acquire_lease("one", LONG)
        assert not await other.acquire_lease("other", LONG)

    async def test_lease_that_is_not_renewed_expires(self, stores: Stores) -> None:
        """A process that died blocks the others no longer than its lease."""
        one, other = stores
        assert await one.acquire_lease("one", timedelta(milliseconds=1))
        await asyncio.sleep(0.02)
        assert await other.acquire_lease("other", LONG)
        assert not await one.acquire_lease("one", LONG)

    async def test_lease_says_how_long_it_lasts(self, stores: Stores) -> None:
        """To the others too; longer when it is renewed, and nothing once it has expired."""
        one, other = stores
        assert await other.lease_remaining() is None
        assert await one.acquire_lease("one", timedelta(seconds=5))
        left = await other.lease_remaining()
        assert left is not None
        assert timedelta(0) < left <= timedelta(seconds=5)
        assert await one.acquire_lease("one", LONG)
        longer = await other.lease_remaining()
        assert longer is not None
        assert longer > left
        assert await one.acquire_lease("one", timedelta(milliseconds=1))
        await asyncio.sleep(0.02)
        assert await other.lease_remaining() is None

    async def test_simultaneous_processes_have_one_winner(self, stores: Stores) -> None:
        """Also when all come at the same moment."""
        calls = [stores[n % 2].acquire_lease(f"holder {n}", LONG) for n in range(20)]
        assert sum(await asyncio.gather(*calls)) == 1

    async def test_cancelled_call_ends_as_cancelled(self, stores: Stores) -> None:
        """Whenever it is cancelled: a task that goes on would keep the lease for ever."""
        one, _ = stores
        await one.acquire_lease("one", LONG)
        cancelled = 0
        for pause in range(200):
            task = asyncio.create_task(one.acquire_lease("one", LONG))
            for _ in range(pause % 20):
                await asyncio.sleep(0)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
                cancelled += 1
        assert cancelled
        # A thread that a cancelled call left behind may hold the file for a moment longer.
        async with asyncio.timeout(5):
            while not await one.acquire_lease("one", LONG):  # noqa: ASYNC110 - as a process would.
                await asyncio.sleep(0.01)
