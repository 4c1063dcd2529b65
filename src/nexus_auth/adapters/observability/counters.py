"""Counts one worker's decisions and fetches. Cheap where the requests are, bounded everywhere."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from nexus_auth.adapters.observability.facts import CODES, DENIED, GRANTED, OUTCOMES, client_request
from nexus_auth.adapters.observability.report import (
    CALLERS_KEPT,
    DECISION_BOUNDS,
    DENIALS_KEPT,
    MINUTES_KEPT,
    REQUEST_BOUNDS,
    CallerSeen,
    CertificateSeen,
    DenialSeen,
    Histogram,
    Report,
)
from nexus_auth.domain.decision import Decision, Granted
from nexus_auth.domain.errors import CAUSES, RegistryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nexus_auth.domain.health import RegistryHealth
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron
    from nexus_auth.domain.ports import Clock, Headers, KeyMap, KeySource, NeuronSource
    from nexus_auth.domain.snapshot import Block

T = TypeVar("T")

_MAX_TEXT: Final = 200
"""The length of details and URIs that the status page shows."""

_KNOWN_STATUSES: Final = (
    *(200, 201, 204, 301, 302, 307, 308, 400, 401, 403, 404, 405, 408, 409, 422, 429),
    *(500, 502, 503, 504),
)
# None: no whole answer came.
_LABELS: Final = {None: "none"} | {status: str(status) for status in _KNOWN_STATUSES}
_OTHER_STATUS: Final = "other"
"""Any status that is not known here: the other side must not be able to choose our labels."""
STATUSES: Final = (*_LABELS.values(), _OTHER_STATUS)

NO_CAUSE: Final = "none"
FETCH_OUTCOMES: Final = (NO_CAUSE, *CAUSES)
"""Why a fetch got no answer; `none` where it got one. A closed set."""


class Counters:
    """A `DecisionObserver` that counts. Takes no locks: it belongs to one event loop.

    A request costs a few additions; `tick` brings minutes and callers up to date once a second.
    """

    __slots__ = (
        *("_clock", "_counted_by_tick", "_granted_counts", "_granted_seconds", "_recent"),
        *("callers", "chain", "codes", "denials", "fetches", "malformed", "minutes", "pylon"),
        "seconds",
    )

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.codes: dict[str, int] = dict.fromkeys(CODES, 0)
        self.seconds = {outcome: Histogram.empty(DECISION_BOUNDS) for outcome in OUTCOMES}
        self.fetches: dict[str, int] = {}
        self.malformed = 0
        self.pylon: dict[str, Histogram] = {}
        self.chain: dict[str, Histogram] = {}
        self.minutes: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self.denials: deque[DenialSeen] = deque(maxlen=DENIALS_KEPT)
        self.callers: OrderedDict[str, CallerSeen] = OrderedDict()
        self._granted_seconds = self.seconds[GRANTED]
        self._granted_counts = self._granted_seconds.counts
        self._recent: dict[str, int] = {}
        self._counted_by_tick = (0, 0)

    def decided(
        self, decision: Decision, *, seconds: float, method: bytes, target: bytes, headers: Headers
    ) -> None:
        """See `DecisionObserver`."""
        if isinstance(decision, Granted):
            # The busiest lines of this package. How many there were follows from the histogram.
            self._granted_counts[bisect_left(DECISION_BOUNDS, seconds)] += 1
            self._granted_seconds.total += seconds
            recent, address = self._recent, decision.hotkey.address
            recent[address] = recent.get(address, 0) + 1
            return
        self.codes[decision.reason.value] += 1
        self.seconds[DENIED].add(seconds)
        request = client_request(method, target, headers)
        self.denials.append(
            DenialSeen(
                at=self._clock().timestamp(),
                code=decision.reason.value,
                detail=decision.detail[:_MAX_TEXT],
                hotkey=None if decision.hotkey is None else decision.hotkey.address,
                method=request["method"],
                uri=request["uri"][:_MAX_TEXT],
            )
        )

    def count_malformed(self) -> None:
        """Counts a request that is no HTTP, and got no decision."""
        self.malformed += 1

    def count_fetch(self, cause: str) -> None:
        """Counts how a fetch of the registry ended: one of `FETCH_OUTCOMES`."""
        self.fetches[cause] = self.fetches.get(cause, 0) + 1

    def count_pylon_request(self, status: int | None, seconds: float) -> None:
        """Counts a request to Pylon; the status is None where no whole answer came."""
        _count_request(self.pylon, status, seconds)

    def count_chain_request(self, status: int | None, seconds: float) -> None:
        """Counts a request to a node of the chain; the status is None as for Pylon."""
        _count_request(self.chain, status, seconds)

    def tick(self) -> None:
        """Brings minutes and callers up to date. To be called every second, and before reading."""
        now = self._clock().timestamp()
        granted = self.codes[GRANTED] = self._granted_seconds.observations
        denied = sum(self.codes.values()) - granted
        before, self._counted_by_tick = self._counted_by_tick, (granted, denied)
        if before != (granted, denied):
            self._add_minute(int(now // 60), (granted - before[0], denied - before[1]))
        recent, self._recent = self._recent, {}
        for address, times in recent.items():
            self._add_caller(CallerSeen(address, now, times))

    def _add_minute(self, minute: int, more: tuple[int, int]) -> None:
        granted, denied = self.minutes.get(minute, (0, 0))
        self.minutes[minute] = (granted + more[0], denied + more[1])
        while len(self.minutes) > MINUTES_KEPT:
            self.minutes.popitem(last=False)

    def _add_caller(self, seen: CallerSeen) -> None:
        before = self.callers.pop(seen.hotkey, None)
        if before is not None:
            seen = seen._replace(times=before.times + seen.times)
        self.callers[seen.hotkey] = seen
        while len(self.callers) > CALLERS_KEPT:
            self.callers.popitem(last=False)

    def continue_from(self, predecessor: Report) -> None:
        """Continues another worker's counts, so that no counter ever goes back.

        To be called before anything is counted.
        """
        self.codes.update(predecessor.codes)
        for outcome, histogram in predecessor.seconds.items():
            self.seconds[outcome].absorb(histogram)
        self.fetches.update(predecessor.fetches)
        self.malformed = predecessor.malformed
        self.pylon.update(predecessor.pylon)
        self.chain.update(predecessor.chain)
        self.minutes.update(predecessor.minutes)
        self.callers.update((each.hotkey, each) for each in predecessor.callers)
        self.denials.extend(predecessor.denials)
        granted = self.codes[GRANTED]
        self._counted_by_tick = (granted, sum(self.codes.values()) - granted)

    def report(
        self,
        *,
        registry: RegistryHealth,
        certificates: tuple[CertificateSeen, ...],
        remembered: int,
    ) -> Report:
        """What was counted up to the last tick, and what registry and verifier say."""
        return Report(
            at=self._clock().timestamp(),
            codes=self.codes,
            seconds=self.seconds,
            fetches=self.fetches,
            malformed=self.malformed,
            pylon=self.pylon,
            chain=self.chain,
            minutes=self.minutes,
            registry=registry,
            remembered=remembered,
            denials=tuple(self.denials),
            callers=tuple(self.callers.values()),
            certificates=certificates,
        )


def _count_request(table: dict[str, Histogram], status: int | None, seconds: float) -> None:
    label = _LABELS.get(status, _OTHER_STATUS)
    if label not in table:
        table[label] = Histogram.empty(REQUEST_BOUNDS)
    table[label].add(seconds)


class ObservedSource:
    """A `KeySource` and `NeuronSource` that notifies of how another one's fetches end."""

    def __init__(
        self, *, source: KeySource, neuron_source: NeuronSource, notify: Callable[[str], None]
    ) -> None:
        """Wraps sources, which their creator closes.

        `notify` is called with one of `FETCH_OUTCOMES` after every fetch, and must not raise.
        """
        self._source = source
        self._neuron_source = neuron_source
        self._notify = notify

    @property
    def name(self) -> str:
        """See `KeySource.name`."""
        return self._source.name

    async def fetch_keys(self) -> KeyMap:
        """See `KeySource.fetch_keys`."""
        return await self._observed(self._source.fetch_keys())

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """See `KeySource.fetch_key`."""
        return await self._observed(self._source.fetch_key(hotkey))

    async def fetch_neurons(
        self, *, at: Block | None = None
    ) -> tuple[Mapping[Hotkey, Neuron], int]:
        """See `NeuronSource.fetch_neurons`."""
        return await self._observed(self._neuron_source.fetch_neurons(at=at))

    async def _observed(self, fetch: Awaitable[T]) -> T:
        try:
            answer = await fetch
        except RegistryError as exc:
            self._notify(exc.cause)
            raise
        except BaseException:
            self._notify(RegistryError.cause)
            raise
        self._notify(NO_CAUSE)
        return answer
