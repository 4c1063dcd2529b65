"""Neurons travel with the keys: one snapshot, one age, all or nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import structlog.testing

from nexus_auth.adapters.registry.refresh import WATCH_SECONDS
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.adapters.store.record import RecordFormat
from nexus_auth.domain.errors import RegistryAnswerInvalid, RegistryUnavailable
from nexus_auth.domain.health import Freshness
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.snapshot import StoredSnapshot, SubnetSnapshot
from tests.builders import NOW, a_hotkey
from tests.unit.adapters.registry.sources import (
    MAX_AGE,
    FakeClocks,
    FakeSource,
    a_timing,
    key_of,
    keys_of,
    neurons_of,
    until_idle,
)

pytestmark = pytest.mark.virtual_time

ALICE = a_hotkey("alice")
BOB = a_hotkey("bob")
NAMES = ("alice", "carol", "dave", "erin")


class Need:
    """Whether some policy looks at neurons, which can change."""

    def __init__(self, *, now: bool = True) -> None:
        self.now = now

    def __call__(self) -> bool:
        return self.now


@pytest.fixture
def source() -> FakeSource:
    """A source that knows four hotkeys, all of them with a neuron."""
    return FakeSource(keys_of(*NAMES), neurons=neurons_of(*NAMES))


def a_registry(
    source: FakeSource, clocks: FakeClocks, needs: Need | None = None, **settings: Any
) -> SnapshotRegistry:
    """A registry over the source, not started."""
    return SnapshotRegistry(
        **{
            "source": source,
            "neuron_source": source,
            "needs_neurons": needs or Need(),
            "timing": a_timing(clocks),
            **settings,
        }
    )


def neuron_of(registry: SnapshotRegistry, name: str = "alice") -> Neuron | None:
    """What is known of a hotkey now."""
    found = registry.peek(a_hotkey(name))
    return None if found is None else found.neuron


async def test_neurons_come_with_the_keys(source: FakeSource, clocks: FakeClocks) -> None:
    """Both are fetched once a refresh, and are of the same age: that of the start."""
    del source.neurons[a_hotkey("carol")]
    registry = a_registry(source, clocks)
    source.open.clear()
    refreshing = asyncio.create_task(registry.refresh())
    await until_idle()
    assert (source.bulk_fetches, source.neuron_fetches) == (1, 0)
    clocks.advance(7)
    source.open.set()
    await refreshing
    found = registry.peek(ALICE)
    assert found is not None
    assert found.neuron == source.neurons[ALICE]
    assert found.expires_at == NOW + MAX_AGE
    assert registry.peek(a_hotkey("carol")) is not None
    assert neuron_of(registry, "carol") is None


async def test_neurons_that_no_policy_needs_are_not_fetched(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """They are fetched only where some rule looks at them."""
    registry = a_registry(source, clocks, Need(now=False))
    await registry.refresh()
    assert source.neuron_fetches == 0
    assert registry.peek(ALICE) is not None
    assert neuron_of(registry) is None


@pytest.mark.parametrize(
    "error", [RegistryUnavailable("no neurons today"), RegistryAnswerInvalid("no neurons today")]
)
async def test_without_neurons_the_whole_snapshot_grows_old(
    source: FakeSource, clocks: FakeClocks, error: Exception
) -> None:
    """What is known keeps serving for as long as it may, then every caller is denied."""
    registry = a_registry(source, clocks)
    await registry.refresh()
    source.neuron_error = error
    source.keys[BOB] = key_of("bob")
    clocks.advance(MAX_AGE.total_seconds() - 0.001)
    await registry.refresh()
    assert neuron_of(registry) is not None
    assert registry.peek(BOB) is None
    assert registry.health().freshness is Freshness.STALE
    clocks.advance(0.001)
    assert registry.peek(ALICE) is None
    assert registry.health().freshness is Freshness.EXPIRED
    with pytest.raises(RegistryUnavailable, match="no neurons today"):
        await registry.lookup(ALICE, presented=key_of("alice"))


async def test_keys_that_fail_end_the_fetch_of_neurons(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """Nothing is left running, and one cause is reported."""
    source.error = RegistryUnavailable("no keys today")
    source.neuron_error = RegistryUnavailable("no neurons today")
    registry = a_registry(source, clocks)
    await registry.refresh()
    assert registry.health().last_error == "no keys today"
    assert len(asyncio.all_tasks()) == 1


async def test_policy_that_begins_to_need_neurons_waits_for_them(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """Without the facts it is closed; a refresh brings them, and all who wait are served."""
    needs = Need(now=False)
    registry = a_registry(source, clocks, needs)
    await registry.refresh()
    needs.now = True
    assert registry.peek(ALICE) is None
    assert registry.health().freshness is Freshness.EXPIRED
    source.neuron_error = RegistryUnavailable("no neurons today")
    await registry.refresh()
    with pytest.raises(RegistryUnavailable, match="no neurons today"):
        await registry.lookup(ALICE, presented=key_of("alice"))
    source.neuron_error = None
    clocks.advance(60)
    found = await registry.lookup(ALICE, presented=key_of("alice"))
    assert found is not None
    assert found.neuron == source.neurons[ALICE]
    needs.now = False
    assert registry.peek(ALICE) is found


@pytest.mark.parametrize("gone", [NAMES, NAMES[:3]], ids=["empty", "more than half"])
async def test_suspicious_neurons_count_only_when_they_are_said_again(
    source: FakeSource, clocks: FakeClocks, gone: tuple[str, ...]
) -> None:
    """Neurons that vanish all at once are quarantined as keys are, and what is said counts."""
    registry = a_registry(source, clocks)
    await registry.refresh()
    for name in gone:
        del source.neurons[a_hotkey(name)]
    source.neurons.update(neurons_of("zoe", "erin", total=0.0) if gone != NAMES else {})
    clocks.advance(30)
    with structlog.testing.capture_logs() as lines:
        await registry.refresh()
    assert [line["event"] for line in lines] == ["suspicious_snapshot"]
    assert neuron_of(registry) is not None
    if gone != NAMES:
        # A right that was lost is lost at once.
        assert neuron_of(registry, "erin") == source.neurons[a_hotkey("erin")]
    clocks.advance(5)
    await registry.refresh()
    assert registry.peek(ALICE) is not None
    assert neuron_of(registry) is None


async def test_lines_say_what_an_answer_lost_and_when_that_counts(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """Where it is quarantined, where it is confirmed, and where entries are nonsense."""
    registry = a_registry(source, clocks)
    await registry.refresh()
    source.keys = keys_of("alice")
    source.neurons = neurons_of("alice", "carol")
    source.rejected = 7
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            clocks.advance(5)
            await registry.refresh()
    warning = {"log_level": "warning"}
    assert lines == [
        {**warning, "event": "registry_entries_rejected", "count": 7},
        {
            **warning,
            "event": "suspicious_snapshot",
            "kind": "lost",
            "size": 1,
            "size_before": 4,
            "neurons": 2,
            "neurons_before": 4,
            "confirm_seconds": 5.0,
        },
        {**warning, "event": "suspicious_snapshot_confirmed", "size": 1},
    ]


async def test_keys_one_by_one_are_of_no_use_to_a_policy_that_needs_neurons(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """Where keys come one by one there are no neurons with them: every caller is denied."""
    source.offers_bulk = False
    needs = Need()
    registry = a_registry(source, clocks, needs)
    await registry.refresh()
    with pytest.raises(RegistryUnavailable, match="one by one"):
        await registry.lookup(ALICE, presented=key_of("alice"))
    assert not registry.health().can_serve
    assert not source.fetches
    # As long as nothing needs them.
    needs.now = False
    clocks.advance(60)
    await registry.refresh()
    found = await registry.lookup(ALICE, presented=key_of("alice"))
    assert found is not None
    assert registry.peek(ALICE) is not None
    needs.now = True
    assert registry.peek(ALICE) is None
    clocks.advance(60)
    with pytest.raises(RegistryUnavailable):
        await registry.lookup(ALICE, presented=key_of("alice"))
    assert not registry.health().can_serve
    await registry.aclose()


async def test_registry_that_remembers_nothing_serves_no_policy_that_needs_neurons(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """All neurons for every caller would be too many requests."""
    registry = a_registry(source, clocks, timing=a_timing(clocks, max_age=timedelta(0)))
    assert registry.peek(ALICE) is None
    with pytest.raises(RegistryUnavailable):
        await registry.lookup(ALICE, presented=key_of("alice"))


async def test_registry_without_a_source_of_neurons_is_closed(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """It denies every caller, where a policy needs neurons."""
    registry = a_registry(source, clocks, neuron_source=None)
    await registry.refresh()
    with pytest.raises(RegistryUnavailable, match="no source of them"):
        await registry.lookup(ALICE, presented=key_of("alice"))


def a_snapshot_of(
    source: FakeSource, clocks: FakeClocks, *, has_neurons: bool = True
) -> SubnetSnapshot:
    """What another process would fetch now."""
    return SubnetSnapshot(
        keys=source.keys,
        neurons=source.neurons if has_neurons else None,
        said_at=clocks.wall(),
    )


class OneRecord:
    """What another process saved, through the very format of the stores."""

    def __init__(self, clocks: FakeClocks, snapshot: SubnetSnapshot) -> None:
        self._format = RecordFormat(scope="test", secret=b"secret", clocks=clocks.both)
        self.is_empty = False
        self._news: bytes | None = self._format.build(snapshot, fetched_at=clocks.monotonic())

    def is_behind(self) -> bool:
        return False

    async def fetch_news(self) -> StoredSnapshot | None:
        news, self._news = self._news, None
        return None if news is None else self._format.parse(news)

    async def acquire_lease(self, span: timedelta | None = None) -> bool:
        return False

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("has_neurons", [True, False])
async def test_record_is_adopted_only_with_the_neurons_that_are_needed(
    source: FakeSource, clocks: FakeClocks, *, has_neurons: bool
) -> None:
    """A record of a process with another policy is no news."""
    shared = OneRecord(clocks, a_snapshot_of(source, clocks, has_neurons=has_neurons))
    clocks.advance(10)
    registry = a_registry(source, clocks, shared=shared)
    await registry.start()
    assert (neuron_of(registry) is not None) == has_neurons
    assert (registry.peek(ALICE) is not None) == has_neurons
    await registry.aclose()


@pytest.mark.parametrize("has_neurons", [True, False])
async def test_record_without_neurons_displaces_no_snapshot_that_has_them(
    source: FakeSource, clocks: FakeClocks, *, has_neurons: bool
) -> None:
    """However new it is, also where it was saved by a process that needs none."""
    registry = a_registry(source, clocks, shared=OneRecord(clocks, a_snapshot_of(source, clocks)))
    await registry.start()
    known = registry.peek(ALICE)
    assert known is not None
    clocks.advance(1)
    source.keys |= keys_of("bob")
    newer = a_snapshot_of(source, clocks, has_neurons=has_neurons)
    registry._shared = OneRecord(clocks, newer)  # type: ignore[assignment] # in place of the first
    await asyncio.sleep(2 * WATCH_SECONDS)
    assert (registry.peek(BOB) is not None) == has_neurons
    assert (registry.peek(ALICE) is known) == (not has_neurons)
    assert neuron_of(registry) is not None
    await registry.aclose()
