"""Strangers in numbers, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import resource
import socket
import statistics
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
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
from tests.integration.real import wait_until_ready
from tests.integration.service.running import a_header, register, request, running_service
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
    assert statistics.median(answered) < 0.05
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


MIB = 1024 * 1024

CROWD = 5000
"""More connections than a listener has."""

UNFINISHED = b"GET / HTTP/1.1\r\nHost: service\r\nX-Client-Cert: "
FLOODS = {
    "nothing": b"",
    "little heads": UNFINISHED.ljust(15_000, b"a"),
    "long heads": UNFINISHED.ljust(120_000, b"a"),
    "whole heads of many fields": UNFINISHED + b"a" + b"\r\na:b" * 97 + b"\r\n\r\n",
    "whole long heads": UNFINISHED.ljust(60_000, b"a") + b"\r\n\r\n",
    "empty lines": b"\r\n" * 50_000,
}


def memory_of(pid: int, line: str) -> int:
    """A figure of /proc/PID/status in bytes: VmRSS is what a process holds, VmHWM its peak."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return (
        int(next(each for each in status.splitlines() if each.startswith(line)).split()[1]) * 1024
    )


@contextlib.contextmanager
def flood(port: int, payload: bytes, meanwhile: Callable[[], None]) -> Iterator[None]:
    """Opens connections and sends each as much of this as is taken; nothing is read."""
    with contextlib.ExitStack() as stack:
        for number in range(CROWD):
            connection = socket.create_connection(("127.0.0.1", port), 30)
            stack.enter_context(connection)
            connection.settimeout(0)
            with contextlib.suppress(OSError):
                connection.send(payload)
            if number % 100 == 0:
                meanwhile()
        yield


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process, and those that it starts, open enough files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < CROWD + 1000:
        pytest.skip(f"needs {CROWD + 1000} open files; raise the hard limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (CROWD + 1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(
    ("kind", "peers"),
    [*((kind, "any") for kind in FLOODS), ("long heads", "strangers"), ("long heads", "admin")],
)
def test_flood_of_connections_takes_little_memory_and_gives_it_back(
    tmp_path: Path, kind: str, peers: str
) -> None:
    """A worker stays below 256 MiB, near which it never comes; known callers are granted."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        start = functools.partial(running_service, tmp_path, pylon.url, wait=False)
        named = peers == "strangers"
        with start(NEXUS_AUTH_TRUSTED_PROXIES="127.0.0.2") if named else start() as service:
            known, pid = a_header("alice"), service.process.pid
            port = service.admin_port if peers == "admin" else service.port
            source = ("127.0.0.2" if named else "127.0.0.1", 0)

            def connect() -> socket.socket:
                return socket.create_connection(("127.0.0.1", service.port), 30, source)

            def is_granted() -> bool:
                return request(connect(), "/", {"X-Client-Cert": known.decode()}).status == 200

            wait_until_ready(is_granted, what="the service", process=service.process)
            with connect() as kept:
                ask = b"GET / HTTP/1.1\r\nHost: service\r\nX-Client-Cert: " + known + b"\r\n\r\n"

                def meanwhile() -> None:
                    """A caller on a connection that is kept is granted, and a new one."""
                    kept.sendall(ask)
                    assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
                    assert is_granted()

                meanwhile()
                before = memory_of(pid, "VmRSS")
                with flood(port, FLOODS[kind], meanwhile):
                    meanwhile()
                assert memory_of(pid, "VmHWM") < 200 * MIB
                wait_until_ready(
                    lambda: memory_of(pid, "VmRSS") < before + 32 * MIB,
                    what=f"memory that is given back to {before}",
                )
