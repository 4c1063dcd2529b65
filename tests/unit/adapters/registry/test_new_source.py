"""What a new source of keys needs: `KeySource`, and nothing of a registry."""

from __future__ import annotations

import pytest
import structlog.testing

from nexus_auth.adapters.registry.lookup import LookupRegistry
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.domain.errors import BulkNotOffered, RegistryUnavailable
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.ports import KeyMap
from tests.builders import a_hotkey
from tests.unit.adapters.registry.sources import FakeClocks, a_timing, key_of, keys_of

pytestmark = pytest.mark.virtual_time


class Chain:
    """A source as small as one can be: a name, and two fetches. Neurons are a port of their own."""

    name = "chain"

    def __init__(self, *, offers_bulk: bool = True) -> None:
        self._offers_bulk = offers_bulk
        self.is_away = False

    async def fetch_keys(self) -> KeyMap:
        self._reach()
        if not self._offers_bulk:
            raise BulkNotOffered("this source gives keys one by one")
        return KeyMap(keys=keys_of("alice"), rejected=0)

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        self._reach()
        return keys_of("alice").get(hotkey)

    def _reach(self) -> None:
        if self.is_away:
            raise RegistryUnavailable("the chain does not answer")


@pytest.mark.parametrize("kind", [SnapshotRegistry, LookupRegistry])
@pytest.mark.parametrize("offers_bulk", [True, False])
async def test_any_source_serves_any_registry(
    clocks: FakeClocks, kind: type[SnapshotRegistry | LookupRegistry], *, offers_bulk: bool
) -> None:
    """It answers, fails and recovers, and the log calls it by its own name."""
    source = Chain(offers_bulk=offers_bulk)
    registry = kind(source=source, timing=a_timing(clocks))

    async def find(name: str) -> bytes | None:
        found = await registry.lookup(a_hotkey(name), presented=key_of(name))
        return None if found is None else found.public_key

    with structlog.testing.capture_logs() as lines:
        source.is_away = True
        with pytest.raises(RegistryUnavailable, match="does not answer"):
            await find("alice")
        source.is_away = False
        clocks.advance(8)
        assert await find("alice") == key_of("alice")
        assert await find("bob") is None
    await registry.aclose()
    assert {line["source"] for line in lines if "source" in line} == {"chain"}
