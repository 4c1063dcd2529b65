from __future__ import annotations

import ssl
from datetime import timedelta

import pytest

from nexus_auth.adapters.tls.context import PinnedContext
from nexus_auth.adapters.tls.keys import ServerKeys
from nexus_auth.domain.errors import HotkeyNotRegistered, RegistryUnavailable, ServerKeyUnknown
from nexus_auth.domain.ports import Registration
from tests.builders import a_hotkey, a_key, public_bytes
from tests.fakes import FakeClock, FakeRegistry

MINER = a_hotkey("miner")
OLD, NEW = (public_bytes(a_key(name)) for name in ("old", "new"))


@pytest.fixture
def registry() -> FakeRegistry:
    """A registry that knows the miner."""
    return FakeRegistry({MINER: OLD})


@pytest.fixture
def keys(registry: FakeRegistry) -> ServerKeys:
    """Over that registry."""
    return ServerKeys(registry=registry, pair=None, clock=FakeClock())


async def test_key_at_hand_is_looked_up_nowhere(registry: FakeRegistry, keys: ServerKeys) -> None:
    """A call of a known hotkey waits for nothing."""
    assert (await keys.find(MINER)).public_key == OLD
    assert registry.lookups == []


async def test_key_that_is_not_at_hand_is_looked_up(
    registry: FakeRegistry, keys: ServerKeys
) -> None:
    """And errors come out as the registry's own."""
    registry.at_hand = False
    assert (await keys.find(MINER)).public_key == OLD
    with pytest.raises(HotkeyNotRegistered):
        await keys.find(a_hotkey("nobody"))
    registry.available = False
    with pytest.raises(RegistryUnavailable):
        await keys.find(MINER)


async def test_other_key_is_found_or_not(registry: FakeRegistry, keys: ServerKeys) -> None:
    """News of the same key, of none, or no news at all are no reason to try again."""
    known = await keys.find(MINER)
    assert not await keys.find_other(MINER, known)
    registry.keys[MINER] = NEW
    assert await keys.find_other(MINER, known)
    del registry.keys[MINER]
    assert not await keys.find_other(MINER, known)
    registry.available = False
    assert not await keys.find_other(MINER, known)


def expected_by(context: PinnedContext) -> Registration | None:
    """What a handshake of a context would compare with."""
    return context._expected()


async def test_context_follows_a_registry_that_has_keys_at_hand(
    registry: FakeRegistry, keys: ServerKeys
) -> None:
    """What it knew before counts no longer once the hotkey is gone."""
    context = await keys.context(MINER)
    registry.keys[MINER] = NEW
    assert expected_by(context) == registry.peek(MINER)
    del registry.keys[MINER]
    assert expected_by(context) is None


async def test_context_keeps_an_answer_of_a_registry_that_has_none_at_hand(
    registry: FakeRegistry, keys: ServerKeys
) -> None:
    """The context itself judges its age; what comes to hand later counts more."""
    registry.at_hand = False
    context = await keys.context(MINER)
    found = expected_by(context)
    assert found is not None
    assert found.public_key == OLD
    registry.at_hand = True
    registry.keys[MINER] = NEW
    assert expected_by(context) == registry.peek(MINER)


async def test_context_judges_age_by_the_clock_that_was_given(registry: FakeRegistry) -> None:
    """A registration that has expired proves no server."""
    clock = FakeClock()
    context = await ServerKeys(registry=registry, pair=None, clock=clock).context(MINER)
    registry.expires_at = clock.now - timedelta(seconds=1)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # any connection: its age comes first
    connection = server.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    with pytest.raises(ServerKeyUnknown):
        context.check(connection)
