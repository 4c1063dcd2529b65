"""What the KeyRegistry port promises, held against every registry and the fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import pytest
import pytest_asyncio

from nexus_auth.adapters.registry.lookup import LookupRegistry
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.domain.errors import RegistryError, RegistryUnavailable
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.ports import KeyRegistry
from tests.builders import NOW, a_hotkey
from tests.fakes import FakeRegistry
from tests.integration.chain.node import Chain, RunningNode
from tests.unit.adapters.chain.networks import Network, a_source
from tests.unit.adapters.registry.sources import (
    MAX_AGE,
    FakeClocks,
    FakeSource,
    a_timing,
    key_of,
    keys_of,
)


class World(Protocol):
    """Whatever stands behind a registry."""

    def away(self) -> None:
        """From now on nothing answers."""

    def rotate(self, hotkey: Hotkey, key: bytes) -> None:
        """Another key is registered; enough time passes for it to be found."""


@dataclass
class SourceWorld:
    source: FakeSource
    clocks: FakeClocks

    def away(self) -> None:
        self.source.error = RegistryUnavailable("made to be away")

    def rotate(self, hotkey: Hotkey, key: bytes) -> None:
        self.source.keys[hotkey] = key
        self.clocks.advance(2)


@dataclass
class FakeWorld:
    registry: FakeRegistry

    def away(self) -> None:
        self.registry.available = False

    def rotate(self, hotkey: Hotkey, key: bytes) -> None:
        self.registry.keys[hotkey] = key


@dataclass
class ChainWorld:
    node: RunningNode
    clocks: FakeClocks

    def away(self) -> None:
        self.node.fail_with(503)

    def rotate(self, hotkey: Hotkey, key: bytes) -> None:
        self.node.chain.publish(hotkey, key)
        self.clocks.advance(2)
        self.node.advance()


Subject = tuple[KeyRegistry, World]


KINDS = (
    *("snapshot", "lookup", "snapshot of each", "fake"),
    *("snapshot of the chain", "lookup of the chain"),
)


@pytest_asyncio.fixture(params=KINDS)
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    """A registry that can find alice and carol, and the world behind it."""
    keys = keys_of("alice", "carol")
    if request.param == "fake":
        fake = FakeRegistry(keys, expires_at=NOW + MAX_AGE)
        yield fake, FakeWorld(fake)
        return
    clocks = FakeClocks()
    kind = LookupRegistry if request.param.startswith("lookup") else SnapshotRegistry
    if request.param.endswith("chain"):
        node = RunningNode(Chain(clock=clocks.wall))
        for hotkey, key in keys.items():
            node.chain.publish(hotkey, key)
        node.advance()
        async with a_source(Network(node=node), clocks.wall) as chain:
            registry = kind(source=chain, timing=a_timing(clocks))
            yield registry, ChainWorld(node, clocks)
            await registry.aclose()
        return
    source = FakeSource(keys, offers_bulk=request.param == "snapshot")
    registry = kind(source=source, timing=a_timing(clocks))
    yield registry, SourceWorld(source, clocks)
    await registry.aclose()


ALICE = a_hotkey("alice")


async def test_registered_hotkey_is_found_with_its_key(subject: Subject) -> None:
    """Lookup returns the key and until when it may be used; then peek returns the same."""
    registry, _ = subject
    found = await registry.lookup(ALICE, presented=key_of("alice"))
    assert found is not None
    assert found.public_key == key_of("alice")
    assert NOW < found.expires_at <= NOW + MAX_AGE
    assert registry.peek(ALICE) == found


async def test_registration_stays_the_same_object_until_there_is_news(subject: Subject) -> None:
    """A grant that was written once is found again by it, and so is every path that reuses one."""
    registry, world = subject
    await registry.lookup(ALICE, presented=key_of("alice"))
    first = registry.peek(ALICE)
    assert first is not None
    assert registry.peek(ALICE) is first
    world.rotate(ALICE, key_of("alice's new"))
    await registry.lookup(ALICE, presented=key_of("alice's new"))
    later = registry.peek(ALICE)
    assert later is not None
    assert later is not first
    assert registry.peek(ALICE) is later


async def test_unregistered_hotkey_is_not_found(subject: Subject) -> None:
    """None is an answer, no error."""
    registry, _ = subject
    stranger = a_hotkey("stranger")
    assert await registry.lookup(stranger, presented=key_of("stranger")) is None
    assert registry.peek(stranger) is None


async def test_key_that_the_caller_presents_is_never_the_answer(subject: Subject) -> None:
    """Another caller's certificate for alice's hotkey gets alice's key."""
    registry, _ = subject
    found = await registry.lookup(ALICE, presented=key_of("mallory"))
    assert found is not None
    assert found.public_key == key_of("alice")


async def test_rotated_key_is_found(subject: Subject) -> None:
    """A key other than the known one is looked for, and replaces it."""
    registry, world = subject
    await registry.lookup(ALICE, presented=key_of("alice"))
    world.rotate(ALICE, key_of("alice's new"))
    found = await registry.lookup(ALICE, presented=key_of("alice's new"))
    assert found is not None
    assert found.public_key == key_of("alice's new")
    assert registry.peek(ALICE) == found


async def test_source_that_does_not_answer_is_a_registry_error(subject: Subject) -> None:
    """Not knowing is never reported as "not registered", nor by another exception."""
    registry, world = subject
    world.away()
    with pytest.raises(RegistryError):
        await registry.lookup(ALICE, presented=key_of("alice"))


async def test_concurrent_calls_are_fine(subject: Subject) -> None:
    """Each caller gets the answer for its own hotkey."""
    registry, _ = subject
    names = ["alice", "carol", "stranger"] * 50
    found = await asyncio.gather(
        *(registry.lookup(a_hotkey(name), presented=key_of(name)) for name in names)
    )
    for name, registration in zip(names, found, strict=True):
        expected = None if name == "stranger" else key_of(name)
        assert getattr(registration, "public_key", None) == expected
