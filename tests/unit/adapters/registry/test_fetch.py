from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from nexus_auth.adapters.clock import SYSTEM_CLOCKS
from nexus_auth.adapters.registry.fetch import FETCH_SECONDS, Timing, fetch_snapshot
from nexus_auth.domain.errors import BulkNotOffered, RegistryUnavailable
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.snapshot import Block, SubnetSnapshot
from tests.builders import NOW, a_hotkey
from tests.unit.adapters.registry.sources import (
    FakeClocks,
    FakeSource,
    keys_of,
    neurons_of,
    until_idle,
)

pytestmark = pytest.mark.virtual_time


async def fetch(
    source: FakeSource, clocks: FakeClocks, *, needs_neurons: bool = False, **settings: Any
) -> tuple[SubnetSnapshot, int]:
    """Fetches from a source of both."""
    return await fetch_snapshot(
        **{
            "source": source,
            "neuron_source": source,
            "needs_neurons": lambda: needs_neurons,
            "clock": clocks.wall,
            **settings,
        }
    )


async def test_snapshot_is_of_the_moment_in_which_its_fetch_began(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """An answer that took its time is not younger for it."""
    source.open.clear()
    fetching = asyncio.create_task(fetch(source, clocks))
    await until_idle()
    clocks.advance(9)
    source.open.set()
    snapshot, rejected = await fetching
    assert (snapshot.said_at, rejected) == (NOW, 0)
    assert snapshot.keys == keys_of("alice", "carol")
    assert snapshot.neurons is None


async def test_nonsense_is_left_out_and_counted(source: FakeSource, clocks: FakeClocks) -> None:
    """What the source noticed, and keys that nothing can be signed with."""
    source.rejected = 2
    source.keys[a_hotkey("bob")] = bytes(32)
    snapshot, rejected = await fetch(source, clocks)
    assert snapshot.keys == keys_of("alice", "carol")
    assert rejected == 3


async def test_neurons_come_along_where_they_are_needed(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """Both in one snapshot, of one block where the source names one."""
    source.neurons = neurons_of("alice")
    source.block = Block(number=7, hash="0x" + "07" * 32, time=NOW)
    snapshot, _ = await fetch(source, clocks, needs_neurons=True)
    assert snapshot.neurons == source.neurons
    assert source.neurons_at == [snapshot.block] == [source.block]


async def test_neurons_that_fail_fail_the_whole_fetch(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """Facts that are used together were true together."""
    source.neuron_error = RegistryUnavailable("no neurons today")
    with pytest.raises(RegistryUnavailable, match="no neurons today"):
        await fetch(source, clocks, needs_neurons=True)


async def test_source_without_bulk_answer_says_so(source: FakeSource, clocks: FakeClocks) -> None:
    """That ends in a fallback, but where neurons are needed, which has no use for one."""
    source.offers_bulk = False
    with pytest.raises(BulkNotOffered):
        await fetch(source, clocks)
    with pytest.raises(RegistryUnavailable, match="one by one"):
        await fetch(source, clocks, needs_neurons=True)


async def test_source_that_does_not_end_by_itself_is_given_up(
    source: FakeSource, clocks: FakeClocks
) -> None:
    """Its own limits come first; this one holds if they do not."""
    source.open.clear()
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await fetch(source, clocks, needs_neurons=True)
    assert asyncio.get_running_loop().time() - began == pytest.approx(FETCH_SECONDS)
    assert len(asyncio.all_tasks()) == 1


async def test_nonsense_among_neurons_is_counted_as_well(clocks: FakeClocks) -> None:
    """One number for all that was left out of one answer."""

    class Source(FakeSource):
        async def fetch_neurons(
            self, *, at: Block | None = None
        ) -> tuple[Mapping[Hotkey, Neuron], int]:
            return neurons_of("alice"), 5

    source = Source(keys=keys_of("alice"), rejected=2)
    snapshot, rejected = await fetch(source, clocks, needs_neurons=True)
    assert snapshot.neurons == neurons_of("alice")
    assert rejected == 7


@pytest.mark.parametrize(
    ("max_age", "refresh_every", "is_possible"),
    [(0, 1, True), (9, 0.001, True), (-0.001, 1, False), (9, 0, False), (9, -1, False)],
)
def test_spans_that_make_no_sense_are_refused(
    max_age: float,
    refresh_every: float,
    is_possible: bool,  # noqa: FBT001 - a table
) -> None:
    """Keys without an age are asked for every time; a refresh without a pause never ends."""
    spans = {
        "max_age": timedelta(seconds=max_age),
        "refresh_every": timedelta(seconds=refresh_every),
    }
    if is_possible:
        assert Timing(**spans).clocks is SYSTEM_CLOCKS  # type: ignore[arg-type] # Two spans.
    else:
        with pytest.raises(ValueError, match="max_age"):
            Timing(**spans)  # type: ignore[arg-type] # As above.
