"""Strangers in numbers, over real sockets."""

from __future__ import annotations

import asyncio
import statistics
import time
import tracemalloc

import pytest

from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.pylon.api import OpenAccessApi
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.adapters.registry.snapshot import EARLY_SECONDS, SnapshotRegistry
from nexus_auth.domain.ports import Registration
from tests.builders import a_hotkey
from tests.integration.faults.faulty_pylon import NETUID, FaultyPylon
from tests.unit.adapters.registry.sources import MAX_AGE, REFRESH_EVERY, key_of, keys_of

ALICE = a_hotkey("alice")
SECONDS = 4
"""Harder than the ten seconds of the promise, and quicker."""
STRANGERS = 10_000


def registry_over(client: PylonClient) -> SnapshotRegistry:
    """A registry with the limits of the service."""
    return SnapshotRegistry(
        source=client, clock=utc_now, max_age=MAX_AGE, refresh_every=REFRESH_EVERY
    )


@pytest.mark.timeout(40)
async def test_ten_thousand_strangers_cost_one_request_per_interval() -> None:
    """Pylon notices little, known callers nothing, and no memory is kept for strangers."""
    strangers = [a_hotkey(f"stranger {n}") for n in range(STRANGERS)]
    answered: list[float] = []
    async with (
        FaultyPylon(keys_of("alice")) as pylon,
        PylonClient(endpoint=pylon.endpoint, api=OpenAccessApi(netuid=NETUID)) as client,
        registry_over(client) as registry,
    ):
        await registry.refresh()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        began = time.monotonic()
        pending: set[asyncio.Task[Registration | None]] = set()
        for number, stranger in enumerate(strangers):
            task = asyncio.create_task(registry.lookup(stranger, presented=bytes(32)))
            pending.add(task)
            task.add_done_callback(pending.discard)
            if number % 50 == 0:
                asked = time.monotonic()
                assert registry.peek(ALICE) is not None
                answered.append(time.monotonic() - asked)
                behind = number / STRANGERS * SECONDS - (asked - began)
                await asyncio.sleep(max(0.0, behind))
        await asyncio.gather(*pending)
        spent = time.monotonic() - began
        after, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(pylon.requests) <= 2 + spent / EARLY_SECONDS
    # Not the slowest: the machine may have had something else to do.
    assert statistics.quantiles(answered, n=20)[-1] < 0.005
    assert after - before < 1_000_000
    assert peak - before < 10_000_000


@pytest.mark.parametrize("when", ["started", "not started"])
async def test_five_hundred_first_callers_cost_one_request(when: str) -> None:
    """Whether or not the background refresh was faster."""
    async with (
        FaultyPylon(keys_of("alice")) as pylon,
        PylonClient(endpoint=pylon.endpoint, api=OpenAccessApi(netuid=NETUID)) as client,
    ):
        registry = registry_over(client)
        if when == "started":
            await registry.start()
        callers = (registry.lookup(ALICE, presented=key_of("alice")) for _ in range(500))
        assert all(await asyncio.gather(*callers))
        await registry.aclose()
    assert len(pylon.requests) == 1
