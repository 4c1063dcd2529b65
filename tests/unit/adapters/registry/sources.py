"""Sources of keys for the tests of registries."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache

from nexus_auth.adapters.clock import Clocks
from nexus_auth.adapters.registry.fetch import Timing
from nexus_auth.domain.errors import BulkNotOffered, StoreUnavailable
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.ports import KeyMap, MonotonicClock
from nexus_auth.domain.snapshot import Block
from tests.builders import NOW, a_hotkey, a_key, public_bytes
from tests.fakes import FakeClock
from tests.virtual_time import LoopClocks

MAX_AGE = timedelta(minutes=15)
REFRESH_EVERY = timedelta(seconds=30)


@dataclass
class FakeSource:
    """A source in memory: counts fetches, fails when `error` is set, answers while `open`."""

    keys: dict[Hotkey, bytes] = field(default_factory=dict)
    error: Exception | None = None
    offers_bulk: bool = True
    rejected: int = 0
    neurons: dict[Hotkey, Neuron] = field(default_factory=dict)
    neuron_error: Exception | None = None
    neurons_at: list[Block | None] = field(default_factory=list)
    block: Block | None = None
    neuron_fetches: int = 0
    bulk_fetches: int = 0
    fetches: Counter[Hotkey] = field(default_factory=Counter)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    name: str = "fake source"

    def __post_init__(self) -> None:
        self.open.set()

    async def fetch_keys(self) -> KeyMap:
        self.bulk_fetches += 1
        await self.open.wait()
        if not self.offers_bulk:
            raise BulkNotOffered("the fake source has no bulk answer")
        if self.error is not None:
            raise self.error
        return KeyMap(keys=dict(self.keys), rejected=self.rejected, block=self.block)

    async def fetch_neurons(
        self, *, at: Block | None = None
    ) -> tuple[Mapping[Hotkey, Neuron], int]:
        self.neuron_fetches += 1
        self.neurons_at.append(at)
        await self.open.wait()
        if self.neuron_error is not None:
            raise self.neuron_error
        return dict(self.neurons), 0

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        self.fetches[hotkey] += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return self.keys.get(hotkey)


@dataclass
class FakeStore:
    """A store in memory, away while `is_away`."""

    monotonic: Callable[[], float] = field(default_factory=lambda: LoopClocks().monotonic)
    record: bytes | None = None
    saved: int = 0
    is_away: bool = False
    lease: tuple[str, float] | None = None

    def _reach(self) -> None:
        if self.is_away:
            raise StoreUnavailable("the fake store was made to be away")

    async def version(self) -> str | None:
        self._reach()
        return str(self.saved) if self.record is not None else None

    async def load(self) -> bytes | None:
        self._reach()
        return self.record

    async def save(self, record: bytes, *, said_at: datetime, keep_for: timedelta) -> str | None:
        self._reach()
        self.record = record
        self.saved += 1
        return str(self.saved)

    async def acquire_lease(self, holder: str, span: timedelta) -> bool:
        self._reach()
        if self.lease is not None and self.lease[0] != holder and self.monotonic() < self.lease[1]:
            return False
        self.lease = holder, self.monotonic() + span.total_seconds()
        return True

    async def lease_remaining(self) -> timedelta | None:
        self._reach()
        left = 0.0 if self.lease is None else self.lease[1] - self.monotonic()
        return timedelta(seconds=left) if left > 0 else None

    async def aclose(self) -> None:
        self.is_away = True


def a_block(number: int) -> Block:
    """A block made half a minute before the tests begin."""
    return Block(number=number, hash=f"0x{number:064x}", time=NOW - timedelta(seconds=30))


class FakeClocks:
    """A wall clock and a monotonic clock that move together, or are made to disagree."""

    def __init__(self) -> None:
        self.wall = FakeClock()
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    @property
    def both(self) -> Clocks:
        return Clocks(self.wall, self.monotonic)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall.advance(seconds=seconds)


def a_timing(
    clocks: FakeClocks | LoopClocks,
    *,
    monotonic: MonotonicClock | None = None,
    **spans: timedelta,
) -> Timing:
    """What the settings say by default, by these clocks."""
    both = Clocks(clocks.wall, monotonic or clocks.monotonic)
    return Timing(**{"max_age": MAX_AGE, "refresh_every": REFRESH_EVERY, **spans}, clocks=both)


@lru_cache(maxsize=4096)
def key_of(name: str) -> bytes:
    """The public key that goes with a name."""
    return public_bytes(a_key(name))


def keys_of(*names: str) -> dict[Hotkey, bytes]:
    """The keys of a subnet with these participants."""
    return {a_hotkey(name): key_of(name) for name in names}


def neurons_of(*names: str, total: float = 1000.0) -> dict[Hotkey, Neuron]:
    """The neurons of a subnet with these participants."""
    return {
        a_hotkey(name): Neuron(
            uid=uid, validator_permit=True, active=True, alpha=0.0, tao=total, total=total
        )
        for uid, name in enumerate(names)
    }


async def until_idle() -> None:
    """Lets every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    """Waits until something holds, and fails when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for.
            await asyncio.sleep(0.005)
