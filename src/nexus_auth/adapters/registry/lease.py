"""Shares snapshots with other processes through a store, and the lease to fetch for all of them.

The store is a help and never a condition: while it is away, every process fetches for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from nexus_auth.adapters.clock import SYSTEM_CLOCKS, Clocks
from nexus_auth.adapters.log_throttle import LogThrottle
from nexus_auth.adapters.registry.backoff import Backoff
from nexus_auth.domain.errors import RecordRejected, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from nexus_auth.domain.ports import SnapshotCodec, SnapshotStore
    from nexus_auth.domain.snapshot import StoredSnapshot, SubnetSnapshot

LEASE_SECONDS: Final = 2.0
"""How long a lease lasts without being renewed: after this time another process takes over from
one that died, and this far apart are the fetches of a whole fleet."""

LEASE_PATIENCE_SECONDS: Final = 30.0
"""How long to wait for the lease while its holder brings no news, before fetching all the same. A
holder that died lost it long before that; this is for a lease that never ends."""

LEASE_PATIENCE_AT_FIRST_SECONDS: Final = 1.0
"""The same while nothing usable is known and the lease is not renewed: callers are waiting, and the
holder may be the process that this one replaces. A holder that lives renews its lease within this
time, and has the answer sooner than a process that begins to fetch now."""

LEASE_POLL_SECONDS: Final = 0.1
"""How often to look for news, and for the end of the lease, meanwhile."""

STORE_SECONDS: Final = 2.0
"""When an access to the store is given up. A store ends by itself before that; this holds if it
does not."""

_RENEWED_SECONDS: Final = 0.1
"""A lease that ends so much later than it did was renewed; less is a difference of clocks."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class NewsSign:
    """Tells the workers of one service at once that one of them saved a snapshot.

    Plain shared memory, made before the workers fork. To look at it costs a request nothing.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, len(uuid.uuid4().bytes))

    def change(self) -> None:
        """Makes it another one than every worker has seen."""
        self._memory[:] = uuid.uuid4().bytes

    def read(self) -> bytes:
        """What it is now; a value that is read while another is written is another one, too."""
        return self._memory[:]


class SharedSnapshots:
    """One process's view of the snapshots that a fleet shares. Raises nothing.

    Records are written and read in a thread, so that no caller waits meanwhile: ten thousand
    hotkeys take some 150 ms.
    """

    def __init__(
        self,
        *,
        store: SnapshotStore,
        codec: SnapshotCodec,
        clocks: Clocks = SYSTEM_CLOCKS,
        sign: NewsSign | None = None,
    ) -> None:
        """Takes a store, which it closes in `aclose`, and what writes and reads its records.

        `sign` is that of all workers of this service; None where there is one process only.
        """
        self.is_empty = False
        """Whether the store was seen to hold no record at all."""
        self._store = store
        self._codec = codec
        self._monotonic = clocks.monotonic
        self._sign = sign
        self._seen_sign = None if sign is None else sign.read()
        self._holder = uuid.uuid4().hex
        self._seen_version: str | None = None
        self._lease_ends: float | None = None
        self._ignored = LogThrottle(clocks.monotonic)
        self._crashed = LogThrottle(clocks.monotonic)
        self._is_read_only = False
        self._backoff = Backoff(source="snapshot store", clocks=clocks)

    @property
    def is_away(self) -> bool:
        """Whether the store is known to be away, and the next attempt is not due yet."""
        return self._backoff.is_waiting

    def is_behind(self) -> bool:
        """Says whether another worker saved a snapshot since `fetch_news` last looked."""
        return self._sign is not None and self._sign.read() != self._seen_sign and not self.is_away

    async def fetch_news(self) -> StoredSnapshot | None:
        """Reads what another process saved since the last time, if it is to be believed."""
        if self.is_away:
            return None
        news = None
        # Read first: what is saved from now on changes it again.
        sign = None if self._sign is None else self._sign.read()
        with self._counted(writing=False):
            version = await _in_time(self._store.version())
            news = None if version == self._seen_version else await self._load()
            self._seen_version = version
            self._seen_sign = sign
            self.is_empty = version is None
        return news

    async def save(
        self, snapshot: SubnetSnapshot, *, fetched_at: float, keep_for: timedelta
    ) -> None:
        """Hands a snapshot to the others, for as long as it can be used (`keep_for`).

        `fetched_at` is when its fetch began, by the monotonic clock.
        """
        if self.is_away:
            return
        with self._counted(writing=True):
            record = await asyncio.to_thread(self._codec.build, snapshot, fetched_at=fetched_at)
            saving = self._store.save(record, said_at=snapshot.said_at, keep_for=keep_for)
            version = await _in_time(saving)
            # Where the record of another process was left in place, that is news.
            self._seen_version = version or self._seen_version
            if self._sign is not None:
                self._sign.change()

    async def wait_for_lease(
        self, *, find_news: Callable[[], Awaitable[bool]], is_urgent: Callable[[], bool]
    ) -> bool:
        """Waits until this process may fetch, or `find_news` finds some; says whether to fetch.

        The lease is acquired then, unless its holder was waited for in vain. `is_urgent` says
        whether callers wait, and nothing usable is known: then a holder that does not renew its
        lease is not waited for long.
        """
        began = last_sign = self._monotonic()
        while not await self.acquire_lease():
            urgent = is_urgent()
            if urgent and await self._is_lease_renewed():
                last_sign = self._monotonic()
            now = self._monotonic()
            is_overdue = urgent and now >= last_sign + LEASE_PATIENCE_AT_FIRST_SECONDS
            if is_overdue or now >= began + LEASE_PATIENCE_SECONDS:
                break
            await asyncio.sleep(LEASE_POLL_SECONDS)
            if await find_news():
                return False
        return True

    async def acquire_lease(self, span: timedelta = timedelta(seconds=LEASE_SECONDS)) -> bool:
        """Acquires or renews the lease to fetch; always granted while the store is away."""
        granted = True
        if not self.is_away:
            with self._counted(writing=True):
                granted = await _in_time(self._store.acquire_lease(self._holder, span))
        return granted

    @contextlib.asynccontextmanager
    async def lease_kept(self, *, ends_at: Callable[[], float]) -> AsyncIterator[None]:
        """Renews an acquired lease while a fetch is in flight, and sets its end afterwards.

        `ends_at` is called then, and gives the end by the monotonic clock. The lease lasts long
        enough for the others to see the news first.
        """
        renewing = asyncio.create_task(self._keep_renewing(), name="registry-lease")
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            remaining = max(ends_at() - self._monotonic(), 2 * LEASE_POLL_SECONDS)
            await self.acquire_lease(timedelta(seconds=remaining))

    async def aclose(self) -> None:
        """Closes the store."""
        with self._counted(writing=False):
            await _in_time(self._store.aclose())

    async def _is_lease_renewed(self) -> bool:
        """Says whether the lease's holder has renewed it since the last call."""
        before = ends = None
        if not self.is_away:
            with self._counted(writing=False):
                remaining = await _in_time(self._store.lease_remaining())
                before = self._lease_ends
                if remaining is not None:
                    ends = self._monotonic() + remaining.total_seconds()
                self._lease_ends = ends
        return before is not None and ends is not None and ends > before + _RENEWED_SECONDS

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            await self.acquire_lease()

    async def _load(self) -> StoredSnapshot | None:
        """Reads the record; None when it is gone, or not to be believed."""
        try:
            record = await _in_time(self._store.load())
            return None if record is None else await asyncio.to_thread(self._codec.parse, record)
        except RecordRejected as exc:
            if self._ignored.allow(str(exc)):
                _log.warning("stored_snapshot_ignored", problem=str(exc))
            return None

    @contextlib.contextmanager
    def _counted(self, *, writing: bool) -> Iterator[None]:
        """Counts how an access to the store ends; one that fails ends the block, without an error.

        An outage of writing does not end with a read: a store can be readable and accept no
        writes, as with a full disk, or a Redis that is read-only.
        """
        try:
            yield
        except StoreUnavailable as exc:
            failure = exc
        except TimeoutError:
            failure = StoreUnavailable("it did not answer in time")
        except Exception as exc:  # noqa: BLE001 - the edge to a store, which keeps no registry from its source.
            # A defect of the store, or an answer that it does not expect.
            if self._crashed.allow(type(exc).__name__):
                _log.exception("store_crashed")
            failure = StoreUnavailable(f"it crashed: {type(exc).__name__}")
        else:
            self._is_read_only = self._is_read_only and not writing
            if not self._is_read_only:
                self._backoff.succeeded()
            return
        self._is_read_only = self._is_read_only or writing
        self._backoff.failed(failure)


async def _in_time(access: Awaitable[T]) -> T:
    """Waits for an access to the store, and gives it up after a while.

    Raises:
        TimeoutError: If it did not end.
    """
    async with asyncio.timeout(STORE_SECONDS):
        return await access
