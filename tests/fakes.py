"""Small fakes of the ports, held to the same contract tests as the real adapters."""

from __future__ import annotations

from datetime import datetime, timedelta

from nexus_auth.domain.errors import (
    IssuingError,
    IssuingRefused,
    RegistryError,
    RegistryUnavailable,
)
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron, Place
from nexus_auth.domain.ports import IssuedKeyPair, KeyMap, Registration
from nexus_auth.domain.prospect import Comparison
from tests.builders import NOW, a_key, public_bytes


class FakeClock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **span: float) -> None:
        """Moves on by so many `seconds`, `minutes`, ... (as `timedelta` takes them)."""
        self.now += timedelta(**span)


class FakeRegistry:
    """A registry in memory that counts how often it is asked."""

    def __init__(
        self,
        keys: dict[Hotkey, bytes] | None = None,
        *,
        expires_at: datetime = NOW + timedelta(minutes=15),
    ) -> None:
        self.keys = dict(keys or {})
        self.neurons: dict[Hotkey, Neuron] = {}
        self.expires_at = expires_at
        self.at_hand = True
        self.available = True
        self.lookups: list[Hotkey] = []
        self._given: dict[Hotkey, Registration] = {}

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """See `KeyRegistry.peek`; nothing is at hand while `at_hand` is False."""
        return self._registration(hotkey) if self.at_hand else None

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        """See `KeyRegistry.lookup`; raises while `available` is False."""
        self.lookups.append(hotkey)
        if not self.available:
            raise RegistryUnavailable("the fake registry was told to be away")
        return self._registration(hotkey)

    def _registration(self, hotkey: Hotkey) -> Registration | None:
        key = self.keys.get(hotkey)
        if key is None:
            return None
        registration = Registration(
            public_key=key, expires_at=self.expires_at, neuron=self.neurons.get(hotkey)
        )
        # The very same object while nothing has changed: some decisions are taken by identity.
        if self._given.get(hotkey) != registration:
            self._given[hotkey] = registration
        return self._given[hotkey]


class FakeIssuer:
    """An issuer whose chain is a dictionary; it speaks for one hotkey."""

    keeps_pairs = False

    def __init__(self, hotkey: Hotkey) -> None:
        self.hotkey = hotkey
        self.chain: dict[Hotkey, bytes] = {}
        self.made = 0
        self.asked = 0
        self.error: IssuingError | None = None

    async def generate(self, *, algorithm: int) -> IssuedKeyPair:
        """See `CertIssuer.generate`; raises `error` where there is one."""
        self.raise_if_told()
        if algorithm != 1:
            raise IssuingRefused("the fake issuer knows algorithm 1 alone")
        self.made += 1
        key = a_key(f"made by the fake issuer, number {self.made}")
        self.chain[self.hotkey] = public_bytes(key)
        return IssuedKeyPair(public_key=public_bytes(key), private_key=key.private_bytes_raw())

    async def published_key(self, hotkey: Hotkey) -> bytes | None:
        """See `CertIssuer.published_key`."""
        self.asked += 1
        self.raise_if_told()
        return self.chain.get(hotkey)

    async def fetch_keys(self) -> KeyMap:
        """All that is on the chain; see `KeySource.fetch_keys`."""
        return KeyMap(keys=dict(self.chain), rejected=0)

    async def compare(self, hotkey: Hotkey) -> Comparison:
        """The key of the hotkey that it speaks for, and that of another one."""
        self.asked += 1
        self.raise_if_told()
        return Comparison(own=self.chain.get(self.hotkey), named=self.chain.get(hotkey))

    def raise_if_told(self) -> None:
        """Fails while `error` is set."""
        if self.error is not None:
            raise self.error


class FakeChain:
    """A `KeySource` and a `PlaceSource` over dictionaries."""

    name = "chain"

    def __init__(self, places: dict[Hotkey, Place]) -> None:
        self.places = places
        self.keys: dict[Hotkey, bytes] = {}
        self.asked = 0
        self.error: RegistryError | None = None

    async def fetch_keys(self) -> KeyMap:
        """See `KeySource.fetch_keys`."""
        self._look()
        return KeyMap(keys=dict(self.keys), rejected=0)

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """See `KeySource.fetch_key`."""
        self._look()
        return self.keys.get(hotkey)

    async def fetch_place(self, hotkey: Hotkey) -> Place | None:
        """See `PlaceSource.fetch_place`."""
        self._look()
        return self.places.get(hotkey)

    def _look(self) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error
