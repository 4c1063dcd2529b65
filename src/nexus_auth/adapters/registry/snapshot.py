"""Serves every registered key of a subnet from memory, and composes what keeps it fresh."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import structlog

from nexus_auth.adapters.log_throttle import LogThrottle
from nexus_auth.adapters.registry.backoff import Backoff
from nexus_auth.adapters.registry.fetch import CONFIRM_SECONDS, Timing, fetch_snapshot
from nexus_auth.adapters.registry.lookup import LookupFallback
from nexus_auth.adapters.registry.plausibility import Quarantine, Verdict
from nexus_auth.adapters.registry.refresh import EARLY_SECONDS, JITTER, Refresher, refresh_due
from nexus_auth.domain.errors import BulkNotOffered, RegistryUnavailable
from nexus_auth.domain.health import Freshness, RegistryHealth
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.snapshot import Suspicion

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from nexus_auth.adapters.registry.lease import SharedSnapshots
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.ports import KeySource, NeuronSource
    from nexus_auth.domain.snapshot import SubnetSnapshot

_OVERDUE: Final = 3
"""After how many missed refreshes what is known counts as stale, whatever the reason."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """A snapshot in the form that requests need."""

    snapshot: SubnetSnapshot
    registrations: dict[bytes, Registration]  # by account id: hashed once, compared in C
    usable_until: datetime
    usable_until_monotonic: float
    fetched_at: float
    is_ours: bool


class SnapshotRegistry:
    """A `KeyRegistry` that holds all keys of a subnet in memory.

    Between `start` and `aclose` it renews them by itself; without `start` it does so only when
    `lookup` is called. What it knows may be used for `max_age` after the source said it, by the
    wall clock and by a monotonic clock, whichever comes first: a clock that is set back makes
    nothing younger. Safe for concurrent use within one event loop.

    Where a policy needs neurons now (`needs_neurons`), they come with the keys: one moment, one
    age, all or nothing. A snapshot without them is of no use then.

    With `shared`, one process at a time fetches, and hands what it learns to the others. `aclose`
    closes it; the sources stay their creator's to close.

    Where the source cannot give all keys at once it looks up each hotkey (`LookupRegistry`), and
    tries again every `refresh_every`; so it does always where `max_age` is zero.
    """

    def __init__(
        self,
        *,
        source: KeySource,
        timing: Timing,
        shared: SharedSnapshots | None = None,
        neuron_source: NeuronSource | None = None,
        needs_neurons: Callable[[], bool] = lambda: False,
    ) -> None:
        self._clock = timing.clocks.wall
        self._monotonic = timing.clocks.monotonic
        self._max_age = timing.max_age
        self._refresh_every = timing.refresh_every.total_seconds()
        self._patience = timing.patience.total_seconds()
        self._shared = shared
        self._needs_neurons = needs_neurons
        self._served: _Served | None = None
        self._catching_up: asyncio.Task[bool] | None = None
        self._quarantine = Quarantine()
        self._rejected = 0
        self._rejected_throttle = LogThrottle(self._monotonic)
        self._suspicion_throttle = LogThrottle(self._monotonic)
        self._confirmation_throttle = LogThrottle(self._monotonic)
        self._backoff = Backoff(source=source.name, clocks=timing.clocks)
        self._fetch_snapshot = partial(
            fetch_snapshot, source, neuron_source, needs_neurons, self._clock
        )
        self._fallback = LookupFallback(
            source=source,
            timing=timing,
            neuron_source=neuron_source,
            needs_neurons=needs_neurons,
        )
        self._refresher = Refresher(
            fetch=self._fetch if shared is None else partial(self._fetch_for_all, shared),
            next_due=self._next_due,
            find_news=None if shared is None else self._adopt_news,
            backoff=self._backoff,
            timing=timing,
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Begins to renew keys in the background.

        Takes in what the store knows; does not wait for the source.
        """
        if self._max_age and not self._refresher.is_running:
            await self._adopt_news()
            if self._served is not None:
                self._refresher.plan()
            self._refresher.start()

    async def aclose(self) -> None:
        """Ends what runs in the background. What is known stays usable."""
        await self._refresher.aclose()
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.gather(self._catching_up, return_exceptions=True)
        await self._fallback.aclose()
        if self._shared is not None:
            await self._shared.aclose()

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """See `KeyRegistry.peek`. One look into a dictionary and two at clocks."""
        # `_usable`, written out: this is on the path of every request.
        served = self._served
        if (
            served is not None
            and self._monotonic() < served.usable_until_monotonic
            and self._clock() < served.usable_until
            and (served.snapshot.neurons is not None or not self._needs_neurons())
        ):
            return served.registrations.get(hotkey.account_id)
        fallback = self._fallback.registry
        return None if fallback is None else fallback.peek(hotkey)

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        """See `KeyRegistry.lookup`.

        Never waits while the source is known to be down, nor longer than `patience`. Where a
        snapshot may be used, it is the answer, whether or not it could be renewed.
        """
        has_waited = self._shared is not None and not await self._catch_up(self._shared)
        known = self.peek(hotkey)
        if known is not None and known.public_key == presented:
            return known
        if not has_waited and self._fallback.registry is None:
            await self._refresher.wait_for_news(
                lambda: (now := self.peek(hotkey)) is not None and now.public_key == presented,
                is_known=known is not None,
            )
        served = self._usable()
        if served is not None:
            return served.registrations.get(hotkey.account_id)
        fallback = self._fallback.registry
        if fallback is not None:
            return await fallback.lookup(hotkey, presented=presented)
        raise RegistryUnavailable(self._explain())

    async def refresh(self) -> None:
        """Fetches now, or waits for the fetch in flight. Raises nothing."""
        await self._refresher.refresh()

    def health(self) -> RegistryHealth:
        """Says how good what is known is."""
        served, fallback = self._served, self._fallback.registry
        if served is None and fallback is not None:
            return fallback.health()
        freshness, age, block = Freshness.STARTING, None, None
        if served is not None:
            block = served.snapshot.block
            age = max(
                self._clock() - served.snapshot.said_at,
                timedelta(seconds=self._monotonic() - served.fetched_at),
            )
            # In a fleet another process may be the one that meets an outage.
            is_overdue = age.total_seconds() > _OVERDUE * self._refresh_every
            is_stale = self._backoff.is_failing or is_overdue
            freshness = Freshness.STALE if is_stale else Freshness.FRESH
            if self._usable() is None:
                freshness = Freshness.EXPIRED
        return RegistryHealth(
            freshness=freshness,
            mode="snapshot",
            size=len(served.registrations) if served is not None else 0,
            age=age,
            failing_since=self._backoff.since,
            last_error=self._backoff.last_error,
            source=self._backoff.source,
            block=block,
            block_age=None if block is None else max(self._clock() - block.time, timedelta(0)),
        )

    def _usable(self) -> _Served | None:
        served = self._served
        return served if served is not None and self._is_usable(served) else None

    def _is_usable(self, served: _Served) -> bool:
        return (
            self._monotonic() < served.usable_until_monotonic
            and self._clock() < served.usable_until
            and not self._lacks_neurons(served.snapshot)
        )

    def _lacks_neurons(self, snapshot: SubnetSnapshot) -> bool:
        return snapshot.neurons is None and self._needs_neurons()

    def _explain(self) -> str:
        if self._backoff.last_error is not None:
            return self._backoff.last_error
        if self._served is not None:
            if self._lacks_neurons(self._served.snapshot):
                return "the neurons that a policy needs are not known yet"
            return "what is known of registered keys is too old to be used"
        return "nothing is known of registered keys yet"

    # Fetching, alone or for a fleet.

    async def _fetch(self) -> None:
        fetched_at = self._monotonic()
        try:
            snapshot, rejected = await self._fetch_snapshot()
        except BulkNotOffered:
            if self._usable() is not None:
                # It was offered a while ago. What is known serves better than a lookup of each.
                raise
            self._backoff.succeeded()
            self._served = None
            self._fallback.begin()
            return
        if rejected != self._rejected and self._rejected_throttle.allow(rejected):
            self._rejected = rejected
            _log.warning("registry_entries_rejected", count=rejected)
        served = self._usable()
        if served is not None and snapshot.is_behind(served.snapshot):
            # A source knows what it said itself; here, what other processes saw counts as well.
            raise RegistryUnavailable("the source is behind what is known: it says an older block")
        if self._is_believed(snapshot, fetched_at):
            fetched = self._prepared(snapshot, fetched_at)
            # Saved first: once this worker grants by it, no other one denies for want of it.
            await self._save(fetched)
            served = self._usable()
            # Another process may have had a later answer meanwhile.
            if served is None or served.fetched_at <= fetched_at:
                self._serve(fetched)
        self._refresher.note_answer()

    async def _fetch_for_all(self, shared: SharedSnapshots) -> None:
        """Fetches under the lease, unless another process brings news first."""
        # News are news, however old: who saved them is alive.
        served = self._served

        async def find_any_news() -> bool:
            return await self._adopt_news() or self._served is not served

        if not await shared.wait_for_lease(find_news=find_any_news, is_urgent=self._is_urgent):
            return
        # The holder before this process may have saved something in the last moment.
        if not await self._adopt_news():
            async with shared.lease_kept(ends_at=partial(self._lease_ends_at, self._monotonic())):
                await self._fetch()

    def _is_urgent(self) -> bool:
        # In an outage no caller waits, and the holder of the lease is as likely to end it.
        return self._usable() is None and not self._backoff.is_failing

    def _lease_ends_at(self, began: float) -> float:
        """When the next fetch of any process may begin, after one that began at a moment."""
        # An answer that was quarantined here is settled here.
        confirm_at = self._quarantine.confirm_at
        return (began if confirm_at is None else confirm_at) + EARLY_SECONDS

    def _next_due(self, began: float) -> float:
        if self._quarantine.confirm_at is not None:
            return self._quarantine.confirm_at
        served = self._usable()
        if served is None:
            return began + self._refresh_every
        return refresh_due(
            fetched_at=served.fetched_at,
            began=began,
            every=self._refresh_every,
            is_ours=served.is_ours,
        )

    async def _save(self, served: _Served | None) -> None:
        if self._shared is not None and served is not None and self._is_usable(served):
            await self._shared.save(
                served.snapshot,
                fetched_at=served.fetched_at,
                keep_for=timedelta(seconds=served.usable_until_monotonic - self._monotonic()),
            )

    # Taking in what was fetched, here or by another process.

    def _is_believed(self, snapshot: SubnetSnapshot, fetched_at: float) -> bool:
        """Says whether an answer is to be served as it is; quarantines it where it is not."""
        served = self._usable()
        current = None if served is None else served.snapshot
        verdict = self._quarantine.examine(snapshot, fetched_at=fetched_at, current=current)
        if served is None or verdict in {Verdict.PLAUSIBLE, Verdict.CONFIRMED}:
            if verdict is Verdict.CONFIRMED and self._confirmation_throttle.allow(fetched_at):
                _log.warning("suspicious_snapshot_confirmed", size=len(snapshot.keys))
            return True
        if verdict is Verdict.SUSPICIOUS and self._suspicion_throttle.allow(fetched_at):
            _log.warning(
                "suspicious_snapshot",
                kind=str(self._quarantine.suspicion),
                size=len(snapshot.keys),
                size_before=len(served.snapshot.keys),
                neurons=len(snapshot.neurons or ()),
                neurons_before=len(served.snapshot.neurons or ()),
                confirm_seconds=CONFIRM_SECONDS,
            )
        if self._quarantine.suspicion is Suspicion.LOST:
            # What it says counts at once. What it leaves out counts when that is confirmed.
            updated = served.snapshot.updated_by(snapshot)
            self._serve(self._prepared(updated, served.fetched_at, is_ours=served.is_ours))
        return False

    async def _catch_up(self, shared: SharedSnapshots) -> bool:
        """Takes in what another worker saved before this was called, together with all who wait.

        So once a worker granted by its news, no other one denies for want of them. Returns False
        where the store takes longer than a caller may wait.
        """
        if not shared.is_behind():
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while shared.is_behind():
                    # The look that is under way may have begun too early: then there is another.
                    if self._catching_up is None or self._catching_up.done():
                        self._catching_up = asyncio.create_task(
                            self._adopt_news(), name="registry-catching-up"
                        )
                    await asyncio.wait({self._catching_up})
                return True
        return False

    async def _adopt_news(self) -> bool:
        """Takes in what another process saved, where that is newer than what is known here.

        Says whether it is so new that no fetch is due.
        """
        if self._shared is None:
            return False
        stored = await self._shared.fetch_news()
        if stored is None:
            if self._shared.is_empty:
                # A store that was started anew: others, and a process that starts now, may need
                # what is known here.
                await self._save(self._usable())
            return False
        age = stored.age.total_seconds()
        # A snapshot without neurons was saved under another policy, or an old one.
        if stored.age >= self._max_age or self._lacks_neurons(stored.snapshot):
            return False
        fetched_at = self._monotonic() - age
        served = self._usable()
        if served is not None and (
            fetched_at <= served.fetched_at or stored.snapshot.is_behind(served.snapshot)
        ):
            return False
        # The process that saved it has examined it.
        self._quarantine.clear()
        self._serve(self._prepared(stored.snapshot, fetched_at, is_ours=False))
        if age < self._refresh_every:
            self._backoff.succeeded()
        return age < self._refresh_every * (1 - JITTER)

    def _prepared(
        self, snapshot: SubnetSnapshot, fetched_at: float, *, is_ours: bool = True
    ) -> _Served:
        usable_until = snapshot.said_at + self._max_age
        neurons = snapshot.neurons or {}
        return _Served(
            snapshot=snapshot,
            registrations={
                hotkey.account_id: Registration(
                    public_key=key, expires_at=usable_until, neuron=neurons.get(hotkey)
                )
                for hotkey, key in snapshot.keys.items()
            },
            usable_until=usable_until,
            usable_until_monotonic=fetched_at + self._max_age.total_seconds(),
            fetched_at=fetched_at,
            is_ours=is_ours,
        )

    def _serve(self, served: _Served) -> None:
        """Makes a snapshot the one that requests see, in one assignment."""
        self._served = served
        self._fallback.end()
        self._refresher.announce()
