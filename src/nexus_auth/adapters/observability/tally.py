"""Counts one worker's decisions and questions. Cheap where the requests are, bounded everywhere."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from nexus_auth.adapters.observability.decision_log import client_request
from nexus_auth.adapters.observability.histogram import DECISION_BOUNDS, PYLON_BOUNDS, Histogram
from nexus_auth.adapters.observability.report import (
    CALLERS_KEPT,
    CODES,
    DENIALS_KEPT,
    DENIED,
    GRANTED,
    MINUTES_KEPT,
    OUTCOMES,
    CallerSeen,
    CertificateSeen,
    DenialSeen,
    Report,
)
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.hotkey import Hotkey

if TYPE_CHECKING:
    from nexus_auth.domain.health import RegistryHealth
    from nexus_auth.domain.ports import Clock

_MAX_DETAIL: Final = 200
_MAX_URI: Final = 200

_KNOWN_STATUSES: Final = frozenset(
    {200, 201, 204, 301, 302, 307, 308, 400, 401, 403, 404, 405, 408, 409, 422, 429}
    | {500, 502, 503, 504}
)
NO_STATUS: Final = "none"
"""In place of a status: Pylon did not answer, or broke off."""
OTHER_STATUS: Final = "other"
"""Any status that Pylon has no business answering with; it must not choose our labels."""
STATUSES: Final = (NO_STATUS, *(str(status) for status in sorted(_KNOWN_STATUSES)), OTHER_STATUS)


class Tally:
    """A `DecisionObserver` that counts. Takes no locks: it belongs to one event loop.

    What a request costs is a few additions; dates and rings are brought up to date by `tick`, once
    a second.
    """

    __slots__ = (
        *("_clock", "_granted_counts", "_granted_seconds", "_lately", "_told"),
        *("callers", "codes", "denials", "minutes", "pylon", "questions", "seconds"),
    )

    def __init__(self, *, clock: Clock) -> None:
        """Starts at nothing.

        Args:
            clock: Tells the time (aware, UTC).
        """
        self._clock = clock
        self.codes: dict[str, int] = dict.fromkeys(CODES, 0)
        self.seconds = {outcome: Histogram.empty(DECISION_BOUNDS) for outcome in OUTCOMES}
        self.questions: dict[str, int] = {}
        self.pylon: dict[str, Histogram] = {}
        self.minutes: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self.denials: deque[DenialSeen] = deque(maxlen=DENIALS_KEPT)
        self.callers: OrderedDict[str, CallerSeen] = OrderedDict()
        self._granted_seconds = self.seconds[GRANTED]
        self._granted_counts = self._granted_seconds.counts
        self._lately: dict[bytes, int] = {}
        self._told = (0, 0)

    def decided(
        self,
        decision: Decision,
        *,
        seconds: float,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        """See `DecisionObserver`."""
        if isinstance(decision, Granted):
            # The busiest lines of this package. How many there were follows from the histogram.
            self._granted_counts[bisect_left(DECISION_BOUNDS, seconds)] += 1
            self._granted_seconds.total += seconds
            lately, account_id = self._lately, decision.hotkey.account_id
            lately[account_id] = lately.get(account_id, 0) + 1
        else:
            self._denied(decision, seconds, method, target, headers)

    def _denied(
        self,
        denied: Denied,
        seconds: float,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        self.codes[denied.reason.value] += 1
        self.seconds[DENIED].add(seconds)
        request = client_request(method, target, headers)
        self.denials.append(
            DenialSeen(
                at=self._clock().timestamp(),
                code=denied.reason.value,
                detail=denied.detail[:_MAX_DETAIL],
                hotkey=None if denied.hotkey is None else denied.hotkey.address,
                method=request["method"],
                uri=request["uri"][:_MAX_URI],
            )
        )

    def asked(self, cause: str) -> None:
        """Takes note of how a question of the registry ended: one of `source.CAUSES`."""
        self.questions[cause] = self.questions.get(cause, 0) + 1

    def answered(self, status: int | None, seconds: float) -> None:
        """Takes note of a request to Pylon; None where no whole answer came."""
        if status is None:
            label = NO_STATUS
        else:
            label = str(status) if status in _KNOWN_STATUSES else OTHER_STATUS
        if label not in self.pylon:
            self.pylon[label] = Histogram.empty(PYLON_BOUNDS)
        self.pylon[label].add(seconds)

    def tick(self) -> None:
        """Brings what has a date up to date. To be called every second, and before reading."""
        now = self._clock().timestamp()
        granted = self.codes[GRANTED] = self._granted_seconds.observations
        denied = sum(self.codes.values()) - granted
        more = (granted - self._told[0], denied - self._told[1])
        self._told = (granted, denied)
        if any(more):
            self.add_minute(int(now // 60), more)
        lately, self._lately = self._lately, {}
        for account_id, times in lately.items():
            self.add_caller(CallerSeen(hotkey=Hotkey(account_id).address, at=now, times=times))

    def add_minute(self, minute: int, more: tuple[int, int]) -> None:
        """Adds grants and denials to a minute since the epoch; forgets what is older than kept."""
        granted, denied = self.minutes.get(minute, (0, 0))
        self.minutes[minute] = (granted + more[0], denied + more[1])
        while len(self.minutes) > MINUTES_KEPT:
            self.minutes.popitem(last=False)

    def add_caller(self, seen: CallerSeen) -> None:
        """Adds visits of a caller; forgets the one that was not seen for longest."""
        before = self.callers.pop(seen.hotkey, None)
        times = seen.times + (0 if before is None else before.times)
        self.callers[seen.hotkey] = CallerSeen(hotkey=seen.hotkey, at=seen.at, times=times)
        while len(self.callers) > CALLERS_KEPT:
            self.callers.popitem(last=False)

    def go_on_from(self, predecessor: Report) -> None:
        """Continues another worker's counts, so that no counter ever goes back.

        To be called before anything was counted.
        """
        self.codes.update(predecessor.codes)
        for outcome, histogram in predecessor.seconds.items():
            self.seconds[outcome].absorb(histogram)
        self.questions.update(predecessor.questions)
        self.pylon.update(predecessor.pylon)
        for minute, counts in predecessor.minutes.items():
            self.add_minute(minute, counts)
        for caller in predecessor.callers:
            self.add_caller(caller)
        self.denials.extend(predecessor.denials)
        granted = self.codes[GRANTED]
        self._told = (granted, sum(self.codes.values()) - granted)

    def report(
        self,
        *,
        worker: int,
        registry: RegistryHealth,
        remembered: int,
        certificates: tuple[CertificateSeen, ...],
    ) -> Report:
        """What was counted so far, as of the last tick, and what others know."""
        return Report(
            worker=worker,
            at=self._clock().timestamp(),
            codes=self.codes,
            seconds=self.seconds,
            questions=self.questions,
            pylon=self.pylon,
            minutes=self.minutes,
            registry=registry,
            remembered=remembered,
            denials=tuple(self.denials),
            callers=tuple(self.callers.values()),
            certificates=certificates,
        )
