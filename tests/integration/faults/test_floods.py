"""Strangers in numbers, over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus_auth.adapters.pylon.api import OpenAccessApi
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.adapters.registry.fetch import Timing
from nexus_auth.adapters.registry.refresh import EARLY_SECONDS
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.reasons import DenialReason
from tests.builders import a_hotkey
from tests.integration.children import resident_bytes
from tests.integration.faults.faulty_pylon import NETUID, FaultyPylon
from tests.integration.pylon.running import running_pylon
from tests.integration.service.running import a_header, register, running_service
from tests.unit.adapters.registry.sources import MAX_AGE, REFRESH_EVERY, key_of, keys_of

ALICE = a_hotkey("alice")
SECONDS = 4
"""Harder than the ten seconds of the promise, and quicker."""
STRANGERS = 10_000
CONNECTIONS = 65
"""More than the 32 strangers who wait for news together, so that the others go on."""


def registry_over(client: PylonClient) -> SnapshotRegistry:
    """A registry with the limits of the service."""
    return SnapshotRegistry(
        source=client, timing=Timing(max_age=MAX_AGE, refresh_every=REFRESH_EVERY)
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


class Knocker:
    """One connection that is used again and again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, certificate: bytes) -> tuple[int, str]:
        """Shows a certificate; the status, and the reason of a denial or the hotkey of a grant."""
        self._writer.write(
            b"GET / HTTP/1.1\r\nHost: service\r\nX-Client-Cert: " + certificate + b"\r\n\r\n"
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("ascii").lower()
        lines = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
        await self._reader.readexactly(int(lines["content-length"]))
        told = lines.get("x-nexus-auth-reason") or lines["x-hotkey"]
        return int(head.split()[1]), told

    def close(self) -> None:
        """Ends the connection."""
        self._writer.close()


@pytest.mark.timeout(60)
async def test_ten_thousand_strangers_over_http_cost_one_request_per_interval(
    tmp_path: Path,
) -> None:
    """The same of the whole service: every stranger denied, nobody who is known, memory bounded."""
    # One key for all of them: nobody looks at it before its owner is registered.
    certificates = [a_header(f"stranger {n}", key_of="stranger") for n in range(STRANGERS)]
    known = a_header("alice")
    with running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(tmp_path, pylon.url) as service:
            knockers = [
                Knocker(*await asyncio.open_connection("127.0.0.1", service.port))
                for _ in range(CONNECTIONS)
            ]
            answers: Counter[tuple[int, str]] = Counter()

            async def knock(knocker: Knocker, queue: Iterator[bytes]) -> None:
                for certificate in queue:
                    answers[await knocker.ask(certificate)] += 1

            async def flood(part: slice) -> int:
                """Shows all of them, with somebody who is known in between."""
                queue = iter(certificates[part])
                knocking = [asyncio.create_task(knock(each, queue)) for each in knockers[1:]]
                while not all(task.done() for task in knocking):
                    assert await knockers[0].ask(known) == (200, ALICE.address.lower())
                await asyncio.gather(*knocking)
                return resident_bytes(service.process.pid)

            asked_before, began = len(pylon.requests), time.monotonic()
            # What is kept of certificates is bounded, and full after half of them.
            half = await flood(slice(STRANGERS // 2))
            whole = await flood(slice(STRANGERS // 2, None))
            spent = time.monotonic() - began
            asked = len(pylon.requests) - asked_before
            for knocker in knockers:
                knocker.close()
    assert answers == {(403, "not-registered"): STRANGERS}
    assert asked <= 2 + spent / EARLY_SECONDS
    assert whole - half < 10_000_000


@pytest.mark.timeout(60)
async def test_registered_callers_get_in_among_strangers_where_keys_come_one_by_one(
    tmp_path: Path,
) -> None:
    """The whole service in lookup mode, when strangers have used up what unknown callers have."""
    strangers = (a_header(f"stranger {n}", key_of="stranger") for n in itertools.count())
    miners = [f"miner {n}" for n in range(20)]
    with running_pylon() as pylon:
        register(pylon, *miners)
        for name in miners:
            pylon.store.set_neuron(a_hotkey(name))
        with running_service(tmp_path, pylon.url, NEXUS_AUTH_REGISTRY="lookup") as service:
            knocker = Knocker(*await asyncio.open_connection("127.0.0.1", service.port))
            while (await knocker.ask(next(strangers)))[1] != DenialReason.REGISTRY_UNAVAILABLE:
                pass
            # It was asked for when half of that was used up.
            while not any(request.path.endswith("/neurons") for request in pylon.requests):  # noqa: ASYNC110 - there is no event to wait for.
                await asyncio.sleep(0.01)
            outcomes = Counter[int]()
            for name in miners:
                outcomes[(await knocker.ask(a_header(name)))[0]] += 1
                for _ in range(10):
                    assert (await knocker.ask(next(strangers)))[0] == 403
            knocker.close()
    # The first of them may come before the answer about neurons has been read.
    assert outcomes[200] >= len(miners) - 1


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
