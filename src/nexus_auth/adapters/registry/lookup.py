"""Learns the key of each hotkey when it is asked for, and remembers it for a while."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

import structlog

from nexus_auth.adapters.clock import monotonic_seconds
from nexus_auth.adapters.registry.outage import Outage
from nexus_auth.adapters.registry.seldom import Seldom
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import RegistryAnswerInvalid, RegistryError, RegistryUnavailable
from nexus_auth.domain.health import Freshness, RegistryHealth
from nexus_auth.domain.ports import MonotonicClock, Registration

if TYPE_CHECKING:
    from datetime import datetime

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.ports import Clock, KeySource

MAX_KNOWN: Final = 16_384
"""Registered hotkeys remembered: far more than a subnet has."""

MAX_UNKNOWN: Final = 16_384
"""Unregistered hotkeys remembered; strangers push out strangers only."""

UNKNOWN_SECONDS: Final = 2.0
"""How long a hotkey counts as unregistered, and the least time between two questions for the
same hotkey."""

CONFIRM_SECONDS: Final = 5.0
"""After how long a key that is suddenly gone is asked for again before that is believed: Pylon
says "not found" as well when it could not read the chain."""

PATIENCE_SECONDS: Final = 1.7
"""How long a stranger may wait: he is to be answered within 2 s, also on a busy machine."""

PATIENCE_IN_OUTAGE_SECONDS: Final = 0.25
"""The same while the source is known to be down."""

FETCH_SECONDS: Final = 60.0
"""When a question is given up, whatever the source promised about ending by itself."""

MAX_QUESTIONS: Final = 16
"""Questions under way at the same time."""

MAX_FLIGHTS: Final = 1024
"""Questions under way or in the queue; beyond that callers are refused."""

STRANGERS_AT_ONCE: Final = 256
"""Questions for hotkeys never seen that may be put in one go: as many as a subnet has."""

STRANGERS_PER_SECOND: Final = 8.0
"""And how many a second after that, so that a flood of strangers does not become Pylon's."""

_FAILURES_IN_A_ROW: Final = 3
"""After how many failures the source counts as down: one hotkey's trouble is not everybody's."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Known:
    """A registered hotkey, and when (by the steady clock) what is to happen to it."""

    registration: Registration
    asked_at: float
    usable_until: float
    renew_at: float
    missing_since: float | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why there is no answer.

    Not kept as an exception: one that is raised again and again collects every traceback that it
    passed through.
    """

    kind: type[RegistryUnavailable | RegistryAnswerInvalid]
    text: str

    @classmethod
    def of(cls, error: RegistryError) -> Self:
        """Keeps what a caller is to be told of an error."""
        is_nonsense = isinstance(error, RegistryAnswerInvalid)
        return cls(RegistryAnswerInvalid if is_nonsense else RegistryUnavailable, str(error))


class _MayAsk:
    """Nothing speaks against putting the question."""


_Outcome = Registration | _Failure | None
"""What came of a question; None means that the hotkey is not registered."""


class LookupRegistry:
    """A `KeyRegistry` that asks for each hotkey on its own.

    Keys in use are renewed in the background every `refresh_every` and may be used without news
    for `max_age`; a `max_age` of zero remembers nothing, asks every time, and lets only callers
    that come while a question is under way share its answer. Safe for concurrent use within one
    event loop.
    """

    def __init__(
        self,
        *,
        source: KeySource,
        clock: Clock,
        max_age: timedelta,
        refresh_every: timedelta,
        patience: timedelta = timedelta(seconds=PATIENCE_SECONDS),
        confirm_after: timedelta = timedelta(seconds=CONFIRM_SECONDS),
        unknown_for: timedelta = timedelta(seconds=UNKNOWN_SECONDS),
        steady: MonotonicClock = monotonic_seconds,
    ) -> None:
        """Wires the registry; the source stays its creator's to close.

        Args:
            source: Whom to ask.
            clock: Tells the time (aware, UTC).
            max_age: How long a key may be used without news; zero asks every time.
            refresh_every: How often a key in use is renewed.
            patience: How long `lookup` may wait.
            confirm_after: After how long a key that is suddenly gone is asked for again.
            unknown_for: How long a hotkey counts as unregistered.
            steady: Measures spans.
        """
        if max_age < timedelta(0) or refresh_every <= timedelta(0):
            raise ValueError("max_age is not negative, refresh_every is positive")
        self._source = source
        self._clock = clock
        self._steady = steady
        self._max_age = max_age
        self._refresh_every = refresh_every.total_seconds()
        self._patience = patience.total_seconds()
        self._confirm_after = confirm_after.total_seconds()
        self._unknown_for = unknown_for.total_seconds()
        self._known: OrderedDict[Hotkey, _Known] = OrderedDict()
        # Hotkeys that were asked for in vain: what came of it, and until when that counts.
        self._unknown: OrderedDict[Hotkey, tuple[_Failure | None, float]] = OrderedDict()
        # Questions under way, and since when.
        self._flights: dict[Hotkey, tuple[asyncio.Task[_Outcome], float]] = {}
        # Two queues, so that strangers cannot keep the keys of callers from being renewed.
        self._slots = asyncio.Semaphore(MAX_QUESTIONS)
        self._slots_for_strangers = asyncio.Semaphore(MAX_QUESTIONS)
        self._allowance = float(STRANGERS_AT_ONCE)
        self._allowance_at = steady()
        self._nonsense_told = Seldom(steady)
        self._outage = Outage(
            source="pylon", clock=clock, steady=steady, log=_log, threshold=_FAILURES_IN_A_ROW
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Does nothing: the first question is put when the first caller comes."""

    async def aclose(self) -> None:
        """Ends the questions under way."""
        flights = [flight for flight, _ in self._flights.values()]
        self.close()
        await asyncio.gather(*flights, return_exceptions=True)

    def close(self) -> None:
        """Gives up the questions under way, without waiting until they have ended."""
        for flight, _ in self._flights.values():
            flight.cancel()

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """See `KeyRegistry.peek`. Has a key in use renewed in the background when it is due.

        A key that nobody used for so long that it was not renewed is not at hand, unless the
        source is down, or was until a moment ago: it may have been replaced since.
        """
        known = self._usable(hotkey)
        if known is None:
            return None
        # Nothing could be renewed during an outage: that counts from its end.
        overdue = self._steady() - max(known.renew_at, self._outage.ended_at)
        if overdue < 0 or self._outage.is_waiting:
            return known.registration
        if overdue >= self._refresh_every and not self._outage.is_on:
            return None
        if hotkey not in self._flights and len(self._flights) < MAX_FLIGHTS:
            self._ask(hotkey)
        return known.registration

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        """See `KeyRegistry.lookup`.

        Raises `RegistryUnavailable` as well when so many strangers come that not all of them can
        be asked for.
        """
        known = self.peek(hotkey)
        if known is not None and known.public_key == presented:
            return known
        return self._conclude(hotkey, await self._find_out(hotkey))

    def health(self) -> RegistryHealth:
        """Says how good what is known is. Before the first question, that is fresh."""
        freshness = Freshness.FRESH
        if self._outage.is_on:
            some = any(self._usable(hotkey) is not None for hotkey in self._known)
            freshness = Freshness.STALE if some else Freshness.EXPIRED
        return RegistryHealth(
            freshness=freshness,
            mode="lookup",
            size=len(self._known),
            age=None,
            failing_since=self._outage.since,
            last_error=self._outage.last_error,
        )

    def _usable(self, hotkey: Hotkey) -> _Known | None:
        known = self._known.get(hotkey)
        if (
            known is None
            or self._steady() >= known.usable_until
            or self._clock() >= known.registration.expires_at
        ):
            return None
        return known

    def _conclude(self, hotkey: Hotkey, outcome: _Outcome) -> Registration | None:
        if isinstance(outcome, Registration):
            return outcome
        # No answer, or a "not found" that is not believed yet: what is known still counts.
        known = self._usable(hotkey)
        if known is not None:
            return known.registration
        if outcome is None:
            return None
        raise outcome.kind(outcome.text)

    async def _find_out(self, hotkey: Hotkey) -> _Outcome:
        flying = self._flights.get(hotkey)
        if flying is None:
            refusal = self._reason_not_to_ask(hotkey)
            if not isinstance(refusal, _MayAsk):
                return refusal
            flying = self._ask(hotkey)
        flight, began = flying
        patience = PATIENCE_IN_OUTAGE_SECONDS if self._outage.is_on else self._patience
        left = began + patience - self._steady()
        if left > 0:
            # Does not cancel the flight, which others wait for as well.
            await asyncio.wait({flight}, timeout=left)
        if not flight.done() or flight.cancelled():
            return _Failure(RegistryUnavailable, "the source has not answered yet")
        return flight.result()

    def _reason_not_to_ask(self, hotkey: Hotkey) -> _Outcome | _MayAsk:
        now = self._steady()
        known = self._usable(hotkey)
        if known is not None and now < known.asked_at + self._unknown_for:
            return known.registration
        answered = self._unknown.get(hotkey)
        if answered is not None and now < answered[1]:
            return answered[0]
        if self._outage.is_waiting:
            return self._down()
        if len(self._flights) >= MAX_FLIGHTS or not self._take_allowance(hotkey):
            return _Failure(RegistryUnavailable, "too many unknown hotkeys at once")
        return _MayAsk()

    def _down(self) -> _Failure:
        return _Failure(RegistryUnavailable, self._outage.last_error or "the source is down")

    def _take_allowance(self, hotkey: Hotkey) -> bool:
        """Lets through so many strangers at once and so many a second."""
        if not self._max_age or hotkey in self._known:
            return True
        now = self._steady()
        earned = (now - self._allowance_at) * STRANGERS_PER_SECOND
        self._allowance = min(float(STRANGERS_AT_ONCE), self._allowance + earned)
        self._allowance_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    # Asking.

    def _ask(self, hotkey: Hotkey) -> tuple[asyncio.Task[_Outcome], float]:
        began = self._steady()
        flight = asyncio.create_task(self._fly(hotkey), name="registry-lookup")
        self._flights[hotkey] = flight, began
        return flight, began

    async def _fly(self, hotkey: Hotkey) -> _Outcome:
        """Puts one question and takes in whatever comes of it. Raises nothing."""
        try:
            return await self._question(hotkey)
        except RegistryAnswerInvalid as exc:
            # Nonsense about one hotkey says nothing about the others.
            if self._nonsense_told.is_due(str(exc)):
                _log.warning("lookup_answer_rejected", hotkey=hotkey.address, problem=str(exc))
            return self._failed(hotkey, _Failure.of(exc))
        except RegistryError as exc:
            error: Exception = exc
        except TimeoutError:
            error = RegistryUnavailable("the source did not answer in time")
        except Exception as exc:  # noqa: BLE001 - the edge of a task that nobody may await.
            _log.exception("lookup_crashed")
            error = RegistryUnavailable(f"the lookup crashed: {type(exc).__name__}")
        finally:
            del self._flights[hotkey]
        self._outage.failed(error)
        return self._failed(hotkey, _Failure(RegistryUnavailable, str(error)))

    async def _question(self, hotkey: Hotkey) -> _Outcome:
        slots = self._slots if hotkey in self._known else self._slots_for_strangers
        async with slots, asyncio.timeout(FETCH_SECONDS):
            if self._outage.is_waiting:
                # It went down while this question was in the queue.
                return self._failed(hotkey, self._down())
            # Taken after the time in the queue: when the question is put.
            began, said_at = self._steady(), self._clock()
            key = await self._source.fetch_key(hotkey)
        self._outage.succeeded()
        if key is None:
            self._missing(hotkey, began)
            return None
        if not is_usable_public_key(key):
            raise RegistryAnswerInvalid("the registered key cannot be one")
        return self._found(hotkey, key, said_at, began)

    def _found(self, hotkey: Hotkey, key: bytes, said_at: datetime, began: float) -> Registration:
        registration = Registration(public_key=key, expires_at=said_at + self._max_age)
        if self._max_age:
            self._unknown.pop(hotkey, None)
            self._known[hotkey] = _Known(
                registration=registration,
                asked_at=began,
                usable_until=began + self._max_age.total_seconds(),
                renew_at=began + self._refresh_every,
            )
            self._known.move_to_end(hotkey)
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return registration

    def _missing(self, hotkey: Hotkey, began: float) -> None:
        known = self._usable(hotkey)
        if known is not None:
            if known.missing_since is None:
                known.missing_since = began
            if began < known.missing_since + self._confirm_after:
                known.asked_at = began
                known.renew_at = known.missing_since + self._confirm_after
                return
        self._known.pop(hotkey, None)
        self._remember_unknown(hotkey, None)

    def _failed(self, hotkey: Hotkey, failure: _Failure) -> _Failure:
        now = self._steady()
        known = self._known.get(hotkey)
        if known is not None:
            known.asked_at = now
            known.renew_at = max(known.renew_at, now + self._unknown_for)
        self._remember_unknown(hotkey, failure)
        return failure

    def _remember_unknown(self, hotkey: Hotkey, failure: _Failure | None) -> None:
        if self._max_age:
            self._unknown[hotkey] = failure, self._steady() + self._unknown_for
            self._unknown.move_to_end(hotkey)
            if len(self._unknown) > MAX_UNKNOWN:
                self._unknown.popitem(last=False)
