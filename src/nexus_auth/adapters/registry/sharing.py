"""Shares snapshots with other processes through a store, and takes turns with them in asking.

The store is a help and never a condition: while it is away, everybody asks for himself.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from nexus_auth.adapters.registry.outage import Outage
from nexus_auth.adapters.registry.seldom import Seldom
from nexus_auth.domain.errors import RecordRejected, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nexus_auth.adapters.store.record import RecordFormat
    from nexus_auth.domain.ports import SnapshotStore
    from nexus_auth.domain.snapshot import StoredSnapshot, SubnetSnapshot

TURN_SECONDS: Final = 2.0
"""How long a turn lasts without being claimed again: after this time somebody else takes over
from a process that died, and this far apart are the questions of a whole fleet."""

_RENEWED_SECONDS: Final = 0.1
"""A turn that ends so much later than it did was claimed again; less is a question of clocks."""

_LARGE_BYTES: Final = 64 * 1024
_LARGE_KEYS: Final = 512
"""Records from this size on are written and read in a thread, so that no caller waits meanwhile:
ten thousand hotkeys take some 150 ms, a subnet of today one."""

_log = structlog.get_logger(__name__)


class SharedSnapshots:
    """One process's view of the snapshots that a fleet shares. Raises nothing."""

    def __init__(
        self,
        *,
        store: SnapshotStore,
        record_format: RecordFormat,
        turn: timedelta = timedelta(seconds=TURN_SECONDS),
    ) -> None:
        """Takes a store, which it closes in `aclose`.

        Args:
            store: Where the fleet's snapshot is kept.
            record_format: Writes and reads its records.
            turn: How long a turn lasts without being claimed again.
        """
        self.is_empty = False
        """Whether the store was seen to hold no record at all."""
        self._store = store
        self._format = record_format
        self._turn = turn
        self._holder = uuid.uuid4().hex
        self._seen: str | None = None
        self._turn_ends: float | None = None
        self._ignored = Seldom(record_format.steady)
        # A store can be readable and take nothing: a disk that is full, a Redis that is read-only.
        self._takes_nothing = False
        self._outage = Outage(
            source="snapshot store",
            clock=record_format.clock,
            steady=record_format.steady,
            log=_log,
        )

    @property
    def is_away(self) -> bool:
        """Whether the store is known to be away, and not worth asking."""
        return self._outage.is_waiting

    async def fetch_news(self) -> StoredSnapshot | None:
        """Reads what another process saved since the last time, if it is to be believed."""
        if self.is_away:
            return None
        version = self._seen
        try:
            version = await self._store.version()
            record = None if version == self._seen else await self._store.load()
            news = None if record is None else await self._parse(record)
        except StoreUnavailable as exc:
            self._failed(exc, writing=False)
            return None
        except RecordRejected as exc:
            if self._ignored.is_due(str(exc)):
                _log.warning("stored_snapshot_ignored", problem=str(exc))
            news = None
        self._succeeded(writing=False)
        self._seen = version
        self.is_empty = version is None
        return news

    async def save(self, snapshot: SubnetSnapshot, *, asked_at: float, keep_for: timedelta) -> None:
        """Tells the others what the source said, for as long as it can be used."""
        if self.is_away:
            return
        if len(snapshot.keys) < _LARGE_KEYS:
            record = self._format.build(snapshot, asked_at=asked_at)
        else:
            record = await asyncio.to_thread(self._format.build, snapshot, asked_at=asked_at)
        try:
            version = await self._store.save(record, said_at=snapshot.said_at, keep_for=keep_for)
        except StoreUnavailable as exc:
            self._failed(exc, writing=True)
        else:
            self._succeeded(writing=True)
            self.is_empty = False
            # Where somebody else's is there instead, that is news.
            self._seen = version or self._seen

    async def acquire_lease(self, span: timedelta | None = None) -> bool:
        """Takes the turn to ask the source, or keeps it; always granted while the store is away."""
        if self.is_away:
            return True
        try:
            granted = await self._store.acquire_lease(self._holder, span or self._turn)
        except StoreUnavailable as exc:
            self._failed(exc, writing=True)
            return True
        self._succeeded(writing=True)
        return granted

    async def is_turn_renewed(self) -> bool:
        """Says whether whoever holds the turn has claimed it again since this was last asked."""
        if self.is_away:
            return False
        try:
            left = await self._store.lease_remaining()
        except StoreUnavailable as exc:
            self._failed(exc, writing=False)
            return False
        before, self._turn_ends = self._turn_ends, None
        if left is None:
            return False
        self._turn_ends = self._format.steady() + left.total_seconds()
        return before is not None and self._turn_ends > before + _RENEWED_SECONDS

    @contextlib.asynccontextmanager
    async def keeping_the_turn(self) -> AsyncIterator[None]:
        """Keeps a turn that was taken for as long as the question lasts."""
        keeper = asyncio.create_task(self._keep_the_turn(), name="registry-turn")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def aclose(self) -> None:
        """Lets go of the store."""
        await self._store.aclose()

    def _failed(self, error: StoreUnavailable, *, writing: bool) -> None:
        self._takes_nothing = self._takes_nothing or writing
        self._outage.failed(error)

    def _succeeded(self, *, writing: bool) -> None:
        """Ends the outage, unless it is one of writing and this was reading."""
        self._takes_nothing = self._takes_nothing and not writing
        if not self._takes_nothing:
            self._outage.succeeded()

    async def _parse(self, record: bytes) -> StoredSnapshot:
        if len(record) < _LARGE_BYTES:
            return self._format.parse(record)
        return await asyncio.to_thread(self._format.parse, record)

    async def _keep_the_turn(self) -> None:
        while True:
            await asyncio.sleep(self._turn.total_seconds() / 3)
            await self.acquire_lease()
