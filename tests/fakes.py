"""Small fakes of the ports, held to the same contract tests as the real adapters."""

from __future__ import annotations

from datetime import datetime, timedelta

from nexus_auth.domain.errors import RegistryUnavailable
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.policy import Neuron
from nexus_auth.domain.ports import Registration
from tests.builders import NOW


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
        return Registration(
            public_key=key, expires_at=self.expires_at, neuron=self.neurons.get(hotkey)
        )
