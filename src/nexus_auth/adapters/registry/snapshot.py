"""Knows every registered key of a subnet, learned in one request every so often."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

import structlog

from nexus_auth.adapters.clock import monotonic_seconds
from nexus_auth.adapters.registry.lookup import LookupRegistry
from nexus_auth.adapters.registry.outage import Outage
from nexus_auth.adapters.registry.seldom import Seldom
from nexus_auth.domain.errors import BulkNotOffered, RegistryError, RegistryUnavailable
from nexus_auth.domain.health import Freshness, RegistryHealth
from nexus_auth.domain.ports import MonotonicClock, Registration
from nexus_auth.domain.snapshot import SubnetSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from nexus_auth.adapters.registry.sharing import SharedSnapshots
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron
    from nexus_auth.domain.ports import Clock, KeyMap, KeySource, NeuronSource

EARLY_SECONDS: Final = 2.0
"""Requests to the source are at least this far apart, whoever knocks."""

PATIENCE_SECONDS: Final = 1.7
"""How long a stranger may wait for news, counted from when the question was put: he is to be
answered within 2 s, also on a machine that has other things to do."""

PATIENCE_IN_OUTAGE_SECONDS: Final = 0.25
"""The same while the source is known to be down. A source that has recovered answers sooner."""

CONFIRM_SECONDS: Final = 5.0
"""After how long a suspicious answer is checked by asking again."""

TURN_PATIENCE_SECONDS: Final = 30.0
"""How long to wait for another process that holds the turn to ask, and gives no news, before
asking all the same. It died long before that; this is for a turn that can never end."""

TURN_PATIENCE_AT_FIRST_SECONDS: Final = 1.0
"""The same while nothing is known yet that could be used, and the holder of the turn shows no sign
of life: callers are waiting, and he may be the process which this one replaces. One that lives
claims his turn again within this time, and has the answer sooner than who asks now."""

TURN_POLL_SECONDS: Final = 0.1
"""How often to look for news, and for the end of the turn, meanwhile."""

WATCH_SECONDS: Final = 1.0
"""How often to look for news that other processes saved: so much later a new key counts here."""

FETCH_SECONDS: Final = 60.0
"""When a question is given up, whatever the source promised about ending by itself."""

MAX_WAITING: Final = 32
"""How many strangers may wait for the next early refresh; the others are answered at once from
what is known. Callers whose hotkey is known get twice that: they have rotated, or pretend to."""

_JITTER: Final = 0.05
"""Refreshes come up to this part early, so that replicas started together drift apart."""

_SLEEP_SLACK_SECONDS: Final = 0.01
"""A sleep may end this much before its time, by another clock."""

_OVERDUE: Final = 3
"""After how many missed refreshes what is known counts as stale, whatever the reason."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """A snapshot in the form that requests need."""

    snapshot: SubnetSnapshot
    registrations: dict[Hotkey, Registration]
    usable_until: datetime
    usable_until_steady: float
    asked_at_steady: float
    is_ours: bool


def _never() -> bool:
    return False


class SnapshotRegistry:
    """A `KeyRegistry` that holds all keys of a subnet in memory.

    Between `start` and `aclose` it renews them by itself; without `start` it does so only when
    `lookup` is called. What it knows may be used for `max_age` after the source said it, by the
    wall clock and by a steady clock, whichever comes first: a clock that is set back makes
    nothing younger. Safe for concurrent use within one event loop.

    Where somebody needs neurons, they come with the keys: one moment, one age, all or nothing.

    With `shared`, processes take turns in asking and tell each other what they heard.

    Where the source cannot tell all keys at once it asks for each hotkey (`LookupRegistry`), and
    tries again every `refresh_every`; so it does always where `max_age` is zero.
    """

    def __init__(
        self,
        *,
        source: KeySource,
        clock: Clock,
        max_age: timedelta,
        refresh_every: timedelta,
        early_every: timedelta = timedelta(seconds=EARLY_SECONDS),
        confirm_after: timedelta = timedelta(seconds=CONFIRM_SECONDS),
        patience: timedelta = timedelta(seconds=PATIENCE_SECONDS),
        steady: MonotonicClock = monotonic_seconds,
        shared: SharedSnapshots | None = None,
        neuron_source: NeuronSource | None = None,
        needs_neurons: Callable[[], bool] = _never,
    ) -> None:
        """Wires the registry; the source stays its creator's to close.

        Args:
            source: Whom to ask.
            clock: Tells the time (aware, UTC).
            max_age: How long keys may be used without news; zero asks every time.
            refresh_every: How often they are renewed.
            early_every: The least time between two requests to the source.
            confirm_after: After how long a suspicious answer is checked by asking again.
            patience: How long `lookup` may wait.
            steady: Measures spans.
            shared: What other processes know, where there are any; closed by `aclose`.
            neuron_source: Whom to ask for neurons; often the same as `source`.
            needs_neurons: Whether somebody looks at neurons now. Then a snapshot without them is
                of no use, and neither is asking for each hotkey.
        """
        if max_age < timedelta(0) or refresh_every <= timedelta(0):
            raise ValueError("max_age is not negative, refresh_every is positive")
        self._source = source
        self._clock = clock
        self._steady = steady
        self._max_age = max_age
        self._refresh_every = refresh_every.total_seconds()
        self._early_every = early_every.total_seconds()
        self._confirm_after = confirm_after.total_seconds()
        self._patience = patience.total_seconds()
        self._shared = shared
        self._neuron_source = neuron_source
        self._needs_neurons = needs_neurons
        self._served: _Served | None = None
        self._outage = Outage(source="pylon", clock=clock, steady=steady, log=_log)
        # A suspicious answer that waits to be confirmed, and when it was asked for.
        self._doubted: tuple[SubnetSnapshot, float] | None = None
        self._rejected = 0
        self._rejected_told = Seldom(steady)
        self._doubt_told = Seldom(steady)
        self._confirmation_told = Seldom(steady)
        # Stands in where the source has no bulk answer.
        self._each: LookupRegistry | None = None
        if not max_age:
            self._each = self._each_hotkey()
        # One question at a time; whoever needs the answer waits for the same task.
        self._flight: asyncio.Task[None] | None = None
        self._flight_began = float("-inf")
        self._is_answered = False
        # Resolved whenever there is something to look at anew.
        self._news: asyncio.Future[None] | None = None
        self._waiting = 0
        self._due = float("-inf")
        self._due_changed = asyncio.Event()
        self._watch_every = math.inf if shared is None else WATCH_SECONDS
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Begins to renew keys in the background.

        Takes in what the store knows; does not wait for the source.
        """
        if self._keeper is None and self._max_age:
            await self._adopt_news()
            if self._served is not None:
                self._plan(float("-inf"))
            self._keeper = asyncio.create_task(self._keep_fresh(), name="registry-keeper")
            # The first question is under way before the first caller can come.
            if self._flight is None and self._due <= self._steady():
                self._ask(is_early=False)

    async def aclose(self) -> None:
        """Ends what runs in the background. What is known stays usable."""
        tasks = [task for task in (self._keeper, self._flight) if task is not None]
        self._keeper = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._each is not None:
            await self._each.aclose()
        if self._shared is not None:
            await self._shared.aclose()

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """See `KeyRegistry.peek`. One look into a dictionary and two at clocks."""
        # `_usable`, written out: this is on the path of every request.
        served = self._served
        if (
            served is not None
            and self._steady() < served.usable_until_steady
            and self._clock() < served.usable_until
            and (served.snapshot.neurons is not None or not self._needs_neurons())
        ):
            return served.registrations.get(hotkey)
        return None if self._each is None or self._needs_neurons() else self._each.peek(hotkey)

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        """See `KeyRegistry.lookup`.

        Never waits while the source is known to be down, nor for longer than `patience`. Where a
        snapshot may be used, it is the answer, whether or not it could be renewed.
        """
        known = self.peek(hotkey)
        if known is not None and known.public_key == presented:
            return known
        if self._each is None or self._needs_neurons() or self._usable() is not None:
            await self._wait_for_news(hotkey, presented, is_known=known is not None)
        served = self._usable()
        if served is not None:
            return served.registrations.get(hotkey)
        if self._each is not None and not self._needs_neurons():
            return await self._each.lookup(hotkey, presented=presented)
        raise RegistryUnavailable(self._explain())

    async def refresh(self) -> None:
        """Asks the source now, or waits for the answer that is under way. Raises nothing."""
        flight = self._flight or self._ask(is_early=True)
        await asyncio.wait({flight})

    def health(self) -> RegistryHealth:
        """Says how good what is known is."""
        if self._each is not None and self._served is None and not self._needs_neurons():
            return self._each.health()
        served = self._served
        age: timedelta | None = None
        if served is not None:
            age = max(
                self._clock() - served.snapshot.said_at,
                timedelta(seconds=self._steady() - served.asked_at_steady),
            )
        if served is None:
            freshness = Freshness.STARTING
        elif self._usable() is None:
            freshness = Freshness.EXPIRED
        else:
            # In a fleet another process may be the one that hears of an outage.
            is_overdue = age is not None and age.total_seconds() > _OVERDUE * self._refresh_every
            freshness = Freshness.STALE if self._outage.is_on or is_overdue else Freshness.FRESH
        return RegistryHealth(
            freshness=freshness,
            mode="snapshot",
            size=len(served.registrations) if served is not None else 0,
            age=age,
            failing_since=self._outage.since,
            last_error=self._outage.last_error,
        )

    def _usable(self) -> _Served | None:
        served = self._served
        if (
            served is None
            or self._steady() >= served.usable_until_steady
            or self._clock() >= served.usable_until
            or self._lacks_neurons(served.snapshot)
        ):
            return None
        return served

    def _lacks_neurons(self, snapshot: SubnetSnapshot) -> bool:
        return snapshot.neurons is None and self._needs_neurons()

    def _explain(self) -> str:
        if self._outage.last_error is not None:
            return self._outage.last_error
        if self._served is not None:
            if self._lacks_neurons(self._served.snapshot):
                return "the neurons that a policy needs are not known yet"
            return "what is known of registered keys is too old to be used"
        return "nothing is known of registered keys yet"

    # Waiting for news.

    async def _wait_for_news(self, hotkey: Hotkey, presented: bytes, *, is_known: bool) -> None:
        """Waits for the answer to a question under way, or for one that may be put now or soon."""
        patience_ends = self._steady() + self._patience
        flight = self._flight
        # Once a question has its answer, what follows (telling the others) brings no news.
        if flight is None or self._is_answered:
            if self._outage.is_waiting:
                return
            delay = self._flight_began + self._early_every - self._steady()
            if delay > 0:
                limit = 2 * MAX_WAITING if is_known else MAX_WAITING
                is_worthwhile = self._steady() + delay < patience_ends and not self._outage.is_on
                if not is_worthwhile or self._waiting >= limit:
                    return
                self._waiting += 1
                try:
                    await asyncio.sleep(delay)
                finally:
                    self._waiting -= 1
            # Others woke at the same time; the first of them asks.
            flight = self._flight
            if flight is None:
                if self._steady() < self._flight_began + self._early_every - _SLEEP_SLACK_SECONDS:
                    return
                flight = self._ask(is_early=True)
        # Counted from the question, not from the caller: a source that has been silent for that
        # long holds up nobody else.
        patience = PATIENCE_IN_OUTAGE_SECONDS if self._outage.is_on else self._patience
        patience_ends = min(patience_ends, self._flight_began + patience)
        while self._flight is flight and (left := patience_ends - self._steady()) > 0:
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            # Cancels nothing that others wait for as well.
            await asyncio.wait({self._news}, timeout=left)
            found = self.peek(hotkey)
            if found is not None and found.public_key == presented:
                return

    def _announce(self) -> None:
        """Lets everybody who waits look again."""
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)

    # Asking.

    def _ask(self, *, is_early: bool) -> asyncio.Task[None]:
        self._flight_began = self._steady()
        self._is_answered = False
        flight = asyncio.create_task(self._fly(is_early=is_early), name="registry-refresh")
        self._flight = flight
        return flight

    async def _fly(self, *, is_early: bool) -> None:
        """Puts one question and takes in whatever comes of it. Raises nothing."""
        began = self._flight_began
        try:
            await self._renew(is_early=is_early)
        except TimeoutError:
            self._outage.failed(RegistryUnavailable("the source did not answer in time"))
        except RegistryError as exc:
            self._outage.failed(exc)
        except Exception as exc:  # noqa: BLE001 - the edge of a task that nobody awaits.
            # A defect, ours or the source's: it must neither end the renewing nor go unseen.
            _log.exception("refresh_crashed")
            self._outage.failed(exc)
        finally:
            self._flight = None
            self._plan(began)
            self._announce()

    async def _renew(self, *, is_early: bool) -> None:
        """Gets news from the source, or from another process that asked it."""
        shared = self._shared
        if shared is None:
            await self._question()
            return
        if await self._adopt_news() and not is_early:
            return
        began = last_sign = self._steady()
        while not await shared.acquire_lease():
            # In an outage nobody waits for us, and who holds the turn is as likely to end it.
            is_urgent = self._usable() is None and not self._outage.is_on
            if is_urgent and await shared.is_turn_renewed():
                last_sign = self._steady()
            now = self._steady()
            is_overdue = is_urgent and now >= last_sign + TURN_PATIENCE_AT_FIRST_SECONDS
            if is_overdue or now >= began + TURN_PATIENCE_SECONDS:
                break
            await asyncio.sleep(TURN_POLL_SECONDS)
            served = self._served
            # Any news will do, however long they took: who holds the turn lives, and asks.
            if await self._adopt_news() or self._served is not served:
                return
        # Whoever had the turn before us may have saved something in the last moment.
        if not await self._adopt_news():
            await self._question_in_turn(shared)

    async def _question_in_turn(self, shared: SharedSnapshots) -> None:
        began = self._steady()
        try:
            async with shared.keeping_the_turn():
                await self._question()
        finally:
            # Nobody asks again too soon, and those who wait see the news before the turn ends.
            # A doubt is ours to settle.
            ends = began + self._early_every
            if self._doubted is not None:
                ends = self._doubted[1] + self._confirm_after + self._early_every
            left = max(ends - self._steady(), 2 * TURN_POLL_SECONDS)
            await shared.acquire_lease(timedelta(seconds=left))

    async def _question(self) -> None:
        began, said_at = self._steady(), self._clock()
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                answer, neurons, rejected = await self._fetch()
        except BulkNotOffered:
            if self._needs_neurons():
                raise RegistryUnavailable(
                    "a policy needs neurons, which go with all keys at once; the source offers "
                    "keys one by one only"
                ) from None
            if self._usable() is not None:
                # It was offered a while ago. What we know serves better than asking for each.
                raise
            self._ask_for_each()
            return
        snapshot = SubnetSnapshot(keys=answer.keys, neurons=neurons, said_at=said_at)
        self._tell_rejected(answer.rejected + len(answer.keys) - len(snapshot.keys) + rejected)
        self._outage.succeeded()
        self._is_answered = True
        if self._weigh(snapshot, began):
            await self._tell_others()

    async def _fetch(self) -> tuple[KeyMap, Mapping[Hotkey, Neuron] | None, int]:
        """Asks for all keys and, where somebody needs them, for all neurons at the same time.

        Returns:
            The keys, the neurons, and how many neurons were nonsense. It is all or nothing: facts
            that are used together were true together.
        """
        if not self._needs_neurons():
            return await self._source.fetch_keys(), None, 0
        if self._neuron_source is None:
            raise RegistryUnavailable("a policy needs neurons, and nobody can be asked for them")
        asking = asyncio.create_task(self._neuron_source.fetch_neurons(), name="registry-neurons")
        try:
            keys = await self._source.fetch_keys()
            neurons, rejected = await asking
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        return keys, neurons, rejected

    async def _tell_others(self) -> None:
        served = self._usable()
        if self._shared is not None and served is not None:
            await self._shared.save(
                served.snapshot,
                asked_at=served.asked_at_steady,
                keep_for=timedelta(seconds=served.usable_until_steady - self._steady()),
            )

    async def _adopt_news(self) -> bool:
        """Takes in what another process saved, where that is newer than what is known here."""
        if self._shared is None:
            return False
        stored = await self._shared.fetch_news()
        if stored is None:
            if self._shared.is_empty:
                # A Redis that was started anew: others, and who starts now, may need what we know.
                await self._tell_others()
            return False
        if (
            stored.age >= self._max_age
            or self._lacks_neurons(stored.snapshot)  # Its writer has another policy, or an old one.
        ):
            return False
        asked_at = self._steady() - stored.age.total_seconds()
        served = self._usable()
        if served is not None and asked_at <= served.asked_at_steady:
            return False
        # Its writer has weighed it.
        self._doubted = None
        self._serve(stored.snapshot, asked_at, is_ours=False)
        if stored.age.total_seconds() < self._refresh_every:
            self._outage.succeeded()
        return stored.age.total_seconds() < self._refresh_every * (1 - _JITTER)

    def _weigh(self, snapshot: SubnetSnapshot, began: float) -> bool:
        """Takes a new snapshot for the truth, or doubts it until it is said a second time."""
        served = self._usable()
        if served is None or not snapshot.is_suspicious_after(served.snapshot):
            self._doubted = None
            self._serve(snapshot, began)
            return True
        if self._doubted is not None:
            doubted, doubted_at = self._doubted
            if not snapshot.is_suspicious_after(doubted):
                if began - doubted_at >= self._confirm_after * (1 - _JITTER):
                    if self._confirmation_told.is_due(began):
                        _log.warning("suspicious_snapshot_confirmed", size=len(snapshot.keys))
                    self._doubted = None
                    self._serve(snapshot, began)
                    return True
                # The same again, but too soon to count.
                began = doubted_at
        elif self._doubt_told.is_due(began):
            _log.warning(
                "suspicious_snapshot",
                size=len(snapshot.keys),
                size_before=len(served.snapshot.keys),
                neurons=len(snapshot.neurons or ()),
                neurons_before=len(served.snapshot.neurons or ()),
                confirm_seconds=self._confirm_after,
            )
        self._doubted = (snapshot, began)
        self._serve(
            served.snapshot.updated_by(snapshot), served.asked_at_steady, is_ours=served.is_ours
        )
        return False

    def _serve(self, snapshot: SubnetSnapshot, asked_at: float, *, is_ours: bool = True) -> None:
        """Makes a snapshot the one that requests see, in one assignment."""
        usable_until = snapshot.said_at + self._max_age
        neurons = snapshot.neurons or {}
        self._served = _Served(
            snapshot=snapshot,
            registrations={
                hotkey: Registration(
                    public_key=key, expires_at=usable_until, neuron=neurons.get(hotkey)
                )
                for hotkey, key in snapshot.keys.items()
            },
            usable_until=usable_until,
            usable_until_steady=asked_at + self._max_age.total_seconds(),
            asked_at_steady=asked_at,
            is_ours=is_ours,
        )
        self._stop_asking_for_each()
        self._announce()

    def _tell_rejected(self, rejected: int) -> None:
        if rejected != self._rejected and self._rejected_told.is_due(rejected):
            self._rejected = rejected
            _log.warning("registry_entries_rejected", count=rejected)

    # Where the source has no bulk answer.

    def _each_hotkey(self) -> LookupRegistry:
        return LookupRegistry(
            source=self._source,
            clock=self._clock,
            max_age=self._max_age,
            refresh_every=timedelta(seconds=self._refresh_every),
            patience=timedelta(seconds=self._patience),
            steady=self._steady,
        )

    def _ask_for_each(self) -> None:
        self._outage.succeeded()
        self._served = None
        if self._each is None:
            _log.warning("bulk_not_offered", instead="asking for each hotkey")
            self._each = self._each_hotkey()

    def _stop_asking_for_each(self) -> None:
        each, self._each = self._each, None
        if each is not None:
            _log.info("bulk_offered_again")
            each.close()

    # Renewing in the background.

    def _plan(self, began: float) -> None:
        """Says when the source is to be asked next, after a question put at `began`."""
        served = self._usable()
        if self._outage.is_on:
            self._due = self._outage.next_try
        elif self._doubted is not None:
            self._due = self._doubted[1] + self._confirm_after
        elif served is None:
            self._due = began + self._refresh_every
        else:
            # Whoever asked last asks next; the others stand by. Not for secrets: they need only
            # differ.
            early, late = (1 - _JITTER, 1.0) if served.is_ours else (1.0, 1 + 2 * _JITTER)
            due = served.asked_at_steady + self._refresh_every * random.uniform(early, late)  # noqa: S311
            self._due = max(due, began + self._early_every)
        self._due_changed.set()

    async def _keep_fresh(self) -> None:
        while True:
            try:
                await self._wait_and_ask()
            except Exception:  # noqa: BLE001 - the edge of a task that nobody awaits.
                # A defect; the renewing goes on, and does not write the log full.
                _log.exception("keeper_crashed")
                await asyncio.sleep(self._early_every)

    async def _wait_and_ask(self) -> None:
        """Waits until the source is to be asked, and asks; or takes in news, or waits again."""
        if self._flight is not None:
            await asyncio.wait({self._flight})
        self._due_changed.clear()
        delay = self._due - self._steady()
        if delay > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(delay, self._watch_every)):
                    await self._due_changed.wait()
            if self._shared is not None and self._flight is None and await self._adopt_news():
                self._plan(float("-inf"))
        elif self._flight is None:
            self._ask(is_early=False)
