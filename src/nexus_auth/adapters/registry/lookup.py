"""Fetches the key of each hotkey when it is first needed, and remembers it for a while.

For sources that cannot give all keys at once, and while a source cannot.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from nexus_auth.adapters.log_throttle import LogThrottle
from nexus_auth.adapters.registry.allowance import Allowance
from nexus_auth.adapters.registry.backoff import Backoff
from nexus_auth.adapters.registry.fetch import (
    CONFIRM_SECONDS,
    FETCH_SECONDS,
    PATIENCE_IN_OUTAGE_SECONDS,
    Timing,
)
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import RegistryAnswerInvalid, RegistryError, RegistryUnavailable
from nexus_auth.domain.health import Freshness, RegistryHealth
from nexus_auth.domain.ports import Registration

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.ports import KeySource, MonotonicClock, NeuronSource

MAX_KNOWN: Final = 16_384
"""Registered hotkeys remembered: far more than a subnet has."""

MAX_UNKNOWN: Final = 16_384
"""Unregistered hotkeys remembered, apart from the registered ones: they displace only each
other."""

UNKNOWN_SECONDS: Final = 2.0
"""How long a hotkey counts as unregistered, and the least time between two fetches for the same
hotkey."""

MAX_FETCHES: Final = 16
"""Fetches sent to the source at the same time."""

MAX_IN_FLIGHT: Final = 1024
"""Fetches sent or in the queue; beyond that callers are denied."""

UNKNOWN_AT_ONCE: Final = 256
"""How many hotkeys never seen before may be fetched at once: as many as a subnet has."""

UNKNOWN_PER_SECOND: Final = 8.0
"""How many a second after that, so that a flood of unknown hotkeys does not reach the source.
Hotkeys with a neuron on the subnet have an allowance of the same size for themselves."""

RECHECKS_AT_ONCE: Final = 16
"""How many known hotkeys may be fetched again at once because another key was presented."""

RECHECKS_PER_SECOND: Final = 8.0
"""How many a second after that, for all hotkeys together: a forged certificate costs nothing."""

NEURONS_SECONDS: Final = 60.0
"""The least time between two fetches of the neurons. There is none while few unknown hotkeys
come."""

_FAILURES_IN_A_ROW: Final = 3
"""After how many failures the source counts as down: a failure may concern one hotkey only."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    """A registered hotkey, and when (by the monotonic clock) something is to happen to it."""

    registration: Registration
    fetched_at: float
    usable_until: float
    renew_at: float
    missing_since: float | None = None


_Outcome = Registration | RegistryError | None
"""How a fetch ended; None means that the hotkey is not registered.

An error is remembered as one that was never raised: it holds no traceback, and no frames.
"""


class LookupRegistry:
    """A `KeyRegistry` that fetches the key of each hotkey on its own.

    Keys in use are renewed in the background when they are due. A `max_age` of zero remembers
    nothing, fetches every time, and lets only callers that come while a fetch is in flight share
    its answer. Safe for concurrent use within one event loop. The sources stay their creator's to
    close.

    Certificates cost nothing to forge, so three allowances bound what callers can cause: for known
    hotkeys with another key, for unknown ones that have a neuron on the subnet, and for the others.
    Without a `neuron_source`, or while it has no answer, every unknown hotkey is one of the others.
    """

    def __init__(
        self, *, source: KeySource, timing: Timing, neuron_source: NeuronSource | None = None
    ) -> None:
        self._source = source
        self._clock = timing.clocks.wall
        self._monotonic = timing.clocks.monotonic
        self._max_age = timing.max_age
        self._refresh_every = timing.refresh_every.total_seconds()
        self._patience = timing.patience.total_seconds()
        self._known: OrderedDict[Hotkey, _Known] = OrderedDict()
        # Hotkeys that were fetched in vain: how the fetch ended, and until when that counts.
        self._unknown: OrderedDict[Hotkey, tuple[RegistryError | None, float]] = OrderedDict()
        # Fetches in flight, and when they began.
        self._in_flight: dict[Hotkey, tuple[asyncio.Task[_Outcome], float]] = {}
        # Two queues, so that unknown hotkeys cannot delay the renewal of known ones.
        self._slots = asyncio.Semaphore(MAX_FETCHES)
        self._slots_for_unknown = asyncio.Semaphore(MAX_FETCHES)
        self._neurons = _Neurons(neuron_source, self._monotonic)
        allow = partial(Allowance, monotonic=self._monotonic, distance=UNKNOWN_SECONDS)
        self._rechecks = allow(RECHECKS_AT_ONCE, RECHECKS_PER_SECOND)
        self._with_neuron = allow(UNKNOWN_AT_ONCE, UNKNOWN_PER_SECOND)
        self._others = allow(UNKNOWN_AT_ONCE, UNKNOWN_PER_SECOND)
        self._invalid_throttle = LogThrottle(self._monotonic)
        self._backoff = Backoff(
            source=source.name, clocks=timing.clocks, threshold=_FAILURES_IN_A_ROW
        )

    async def start(self) -> None:
        """Does nothing: the first fetch begins when the first caller comes."""

    async def aclose(self) -> None:
        """Ends the fetches in flight."""
        await asyncio.gather(*self.close(), return_exceptions=True)

    def close(self) -> list[asyncio.Task[Any]]:
        """Cancels the fetches in flight, and returns them: their ends are to come."""
        in_flight: list[asyncio.Task[Any]] = [task for task, _ in self._in_flight.values()]
        in_flight += self._neurons.in_flight
        for task in in_flight:
            task.cancel()
        return in_flight

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """See `KeyRegistry.peek`. Has a key in use renewed in the background when it is due.

        A key that was not used, and so not renewed, for a long time is not at hand: it may have
        been replaced since. It is while the source is down, and until a moment after.
        """
        known = self._usable(hotkey)
        if known is None:
            return None
        # Nothing could be renewed during an outage: that counts from its end.
        overdue = self._monotonic() - max(known.renew_at, self._backoff.ended_at)
        if overdue < 0 or self._backoff.is_waiting:
            return known.registration
        if overdue >= self._refresh_every and not self._backoff.is_failing:
            return None
        if hotkey not in self._in_flight and len(self._in_flight) < MAX_IN_FLIGHT:
            self._begin_fetch(hotkey)
        return known.registration

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        """See `KeyRegistry.lookup`.

        Raises `RegistryUnavailable` as well when so many unknown hotkeys come that not all of them
        can be fetched. A known hotkey that cannot be fetched again yet keeps the known key.
        """
        known = self.peek(hotkey)
        if known is not None and known.public_key == presented:
            return known
        outcome = await self._find_out(hotkey)
        if not isinstance(outcome, Registration):
            # No answer, or a "not found" that is not believed yet: what is known still counts.
            still_known = self._usable(hotkey)
            if still_known is not None:
                return still_known.registration
        if isinstance(outcome, RegistryError):
            # A copy: one that is raised again and again collects every traceback on its way.
            raise type(outcome)(str(outcome))
        return outcome

    def health(self) -> RegistryHealth:
        """Says how good what is known is. Before the first fetch, that is fresh."""
        freshness = Freshness.FRESH
        if self._backoff.is_failing:
            some = any(self._usable(hotkey) is not None for hotkey in self._known)
            freshness = Freshness.STALE if some else Freshness.EXPIRED
        return RegistryHealth(
            freshness=freshness,
            mode="lookup",
            size=len(self._known),
            age=None,
            failing_since=self._backoff.since,
            last_error=self._backoff.last_error,
            source=self._backoff.source,
        )

    def _usable(self, hotkey: Hotkey) -> _Known | None:
        known = self._known.get(hotkey)
        if (
            known is None
            or self._monotonic() >= known.usable_until
            or self._clock() >= known.registration.expires_at
        ):
            return None
        return known

    async def _find_out(self, hotkey: Hotkey) -> _Outcome:
        """Waits for the fetch in flight, or for a new one where that may begin."""
        in_flight = self._in_flight.get(hotkey)
        if in_flight is None:
            known = self._usable(hotkey)
            if known is not None and not self._may_recheck(known):
                return known.registration
            ended, counts_until = self._unknown.get(hotkey, (None, float("-inf")))
            if self._monotonic() < counts_until:
                return ended
            if self._backoff.is_waiting:
                return self._down()
            if len(self._in_flight) >= MAX_IN_FLIGHT or not self._take_allowance(hotkey):
                return RegistryUnavailable("too many unknown hotkeys at once")
            in_flight = self._begin_fetch(hotkey)
        task, began = in_flight
        patience = PATIENCE_IN_OUTAGE_SECONDS if self._backoff.is_failing else self._patience
        left = began + patience - self._monotonic()
        if left > 0:
            # Does not cancel the fetch, which others wait for as well.
            await asyncio.wait({task}, timeout=left)
        if not task.done() or task.cancelled():
            return RegistryUnavailable("the source has not answered yet")
        return task.result()

    def _down(self) -> RegistryUnavailable:
        return RegistryUnavailable(self._backoff.last_error or "the source is down")

    def _may_recheck(self, known: _Known) -> bool:
        """Whether a known hotkey may be fetched again, for a key other than the known one."""
        now = self._monotonic()
        idle = now - known.fetched_at
        if idle < UNKNOWN_SECONDS or self._backoff.is_waiting:
            return False
        # One that is due is fetched in any case.
        return now >= known.renew_at or self._rechecks.take(idle=idle, among=len(self._known))

    def _take_allowance(self, hotkey: Hotkey) -> bool:
        """Lets through so many unknown hotkeys at once, and so many a second."""
        if not self._max_age or hotkey in self._known:
            return True
        if hotkey in self._neurons.hotkeys:
            _, counted_until = self._unknown.get(hotkey, (None, float("-inf")))
            idle = self._monotonic() - counted_until + UNKNOWN_SECONDS
            return self._with_neuron.take(idle=idle, among=len(self._neurons.hotkeys))
        is_taken = self._others.take()
        if self._others.is_short:
            self._neurons.refresh()
        return is_taken

    # Fetching.

    def _begin_fetch(self, hotkey: Hotkey) -> tuple[asyncio.Task[_Outcome], float]:
        began = self._monotonic()
        task = asyncio.create_task(self._run_fetch(hotkey), name="registry-lookup")
        self._in_flight[hotkey] = task, began
        return task, began

    async def _run_fetch(self, hotkey: Hotkey) -> _Outcome:
        """Runs one fetch, and remembers how it ended. Raises nothing."""
        try:
            return await self._fetch(hotkey)
        except RegistryAnswerInvalid as exc:
            # Nonsense about one hotkey says nothing about the others.
            if self._invalid_throttle.allow(str(exc)):
                _log.warning("lookup_answer_rejected", hotkey=hotkey.address, problem=str(exc))
            return self._failed(hotkey, RegistryAnswerInvalid(str(exc)))
        except RegistryError as exc:
            error: Exception = exc
        except TimeoutError:
            error = RegistryUnavailable("the source did not answer in time")
        except Exception as exc:  # noqa: BLE001 - the edge of a task that may never be awaited.
            _log.exception("lookup_crashed")
            error = RegistryUnavailable(f"the lookup crashed: {type(exc).__name__}")
        finally:
            del self._in_flight[hotkey]
        self._backoff.failed(error)
        return self._failed(hotkey, RegistryUnavailable(str(error)))

    async def _fetch(self, hotkey: Hotkey) -> _Outcome:
        comes_first = hotkey in self._known or hotkey in self._neurons.hotkeys
        slots = self._slots if comes_first else self._slots_for_unknown
        async with slots, asyncio.timeout(FETCH_SECONDS):
            if self._backoff.is_waiting:
                # It went down while this fetch was in the queue.
                return self._failed(hotkey, self._down())
            # Taken after the time in the queue: when the request is sent.
            fetched_at, said_at = self._monotonic(), self._clock()
            key = await self._source.fetch_key(hotkey)
        self._backoff.succeeded()
        if key is None:
            self._missing(hotkey, fetched_at)
            return None
        if not is_usable_public_key(key):
            raise RegistryAnswerInvalid("the registered key cannot be one")
        return self._found(hotkey, key, said_at, fetched_at)

    # Remembering.

    def _found(
        self, hotkey: Hotkey, key: bytes, said_at: datetime, fetched_at: float
    ) -> Registration:
        registration = Registration(public_key=key, expires_at=said_at + self._max_age)
        if self._max_age:
            self._unknown.pop(hotkey, None)
            known = _Known(
                registration=registration,
                fetched_at=fetched_at,
                usable_until=fetched_at + self._max_age.total_seconds(),
                renew_at=fetched_at + self._refresh_every,
            )
            _remember(self._known, hotkey, known, limit=MAX_KNOWN)
        return registration

    def _missing(self, hotkey: Hotkey, fetched_at: float) -> None:
        known = self._usable(hotkey)
        if known is not None:
            if known.missing_since is None:
                known.missing_since = fetched_at
            if fetched_at < known.missing_since + CONFIRM_SECONDS:
                known.fetched_at = fetched_at
                known.renew_at = known.missing_since + CONFIRM_SECONDS
                return
        self._known.pop(hotkey, None)
        self._remember_unknown(hotkey, None)

    def _failed(self, hotkey: Hotkey, failure: RegistryError) -> RegistryError:
        now = self._monotonic()
        known = self._known.get(hotkey)
        if known is not None:
            known.fetched_at = now
            known.renew_at = max(known.renew_at, now + UNKNOWN_SECONDS)
        self._remember_unknown(hotkey, failure)
        return failure

    def _remember_unknown(self, hotkey: Hotkey, failure: RegistryError | None) -> None:
        if self._max_age:
            ended = failure, self._monotonic() + UNKNOWN_SECONDS
            _remember(self._unknown, hotkey, ended, limit=MAX_UNKNOWN)


class _Neurons:
    """Which hotkeys have a neuron on the subnet, where the source can tell."""

    def __init__(self, source: NeuronSource | None, monotonic: MonotonicClock) -> None:
        self.hotkeys: frozenset[Hotkey] = frozenset()
        self._source = source
        self._monotonic = monotonic
        self._due = float("-inf")
        self._task: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> list[asyncio.Task[None]]:
        """The fetch in flight, where there is one."""
        return [] if self._task is None or self._task.done() else [self._task]

    def refresh(self) -> None:
        """Begins to fetch them, where that is due."""
        if self._source is not None and self._monotonic() >= self._due and not self.in_flight:
            self._due = self._monotonic() + NEURONS_SECONDS
            self._task = asyncio.create_task(self._fetch(self._source), name="registry-neurons")

    async def _fetch(self, source: NeuronSource) -> None:
        """Fetches them; what is known stays where that fails. Raises nothing."""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                neurons, _ = await source.fetch_neurons()
        except (RegistryError, TimeoutError):
            return  # This source has none, or none now. Its other fetches say what is wrong.
        except Exception:  # noqa: BLE001 - the edge of a task that nothing awaits.
            _log.exception("lookup_crashed")
            return
        self.hotkeys = frozenset(islice(neurons, MAX_KNOWN))


def _remember(table: OrderedDict[Hotkey, T], hotkey: Hotkey, value: T, *, limit: int) -> None:
    """Puts an entry at the end; the one that was put there longest ago makes room."""
    table[hotkey] = value
    table.move_to_end(hotkey)
    if len(table) > limit:
        table.popitem(last=False)


class LookupFallback:
    """Holds the registry that stands in for a snapshot, while there is one; builds and closes it.

    Where `max_age` is zero, it stands in from the beginning. A lookup of each hotkey is of no use
    while a policy needs neurons: they come with all keys at once.
    """

    def __init__(
        self,
        *,
        source: KeySource,
        timing: Timing,
        neuron_source: NeuronSource | None,
        needs_neurons: Callable[[], bool],
    ) -> None:
        self._build = partial(
            LookupRegistry, source=source, timing=timing, neuron_source=neuron_source
        )
        self._needs_neurons = needs_neurons
        self._registry = None if timing.max_age else self._build()

    @property
    def registry(self) -> LookupRegistry | None:
        """The registry to use where there is no snapshot; None where it is of no use."""
        return None if self._needs_neurons() else self._registry

    def begin(self) -> None:
        """Stands in from now on."""
        if self._registry is None:
            _log.warning("bulk_not_offered", instead="asking for each hotkey")
            self._registry = self._build()

    def end(self) -> None:
        """Ends it: there is a snapshot. Does not wait until fetches in flight have ended."""
        registry, self._registry = self._registry, None
        if registry is not None:
            _log.info("bulk_offered_again")
            registry.close()

    async def aclose(self) -> None:
        """Ends the fetches in flight. What is known stays usable."""
        if self._registry is not None:
            await self._registry.aclose()
