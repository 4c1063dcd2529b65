"""Measures what grows with the number of registered hotkeys, and what a replica costs Redis.

    python -m bench.scaling            what docs/scaling.md shows, as Markdown tables

Everything runs in this process but Redis, which is started on a free loopback port.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import subprocess
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from statistics import median
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as CannotConnect

from bench.programs import find_program, free_port
from nexus_auth.adapters.clock import SYSTEM_CLOCKS
from nexus_auth.adapters.pylon.answers import parse_certificates
from nexus_auth.adapters.registry.fetch import Timing
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.ports import KeyMap
from nexus_auth.entrypoints.container import build_shared_snapshots
from nexus_auth.entrypoints.settings import Settings

SIZES: Final = (256, 1_000, 4_096)
REPLICAS: Final = 8
REFRESH_SECONDS: Final = 5.0
WATCHED_SECONDS: Final = 20.0


def an_answer(count: int) -> bytes:
    """Pylon's answer for a subnet with so many hotkeys. The same few keys, in turn, save time."""
    keys = [
        Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key().public_bytes_raw()
        for number in range(64)
    ]
    return json.dumps(
        {
            Hotkey(hashlib.sha256(str(number).encode()).digest()).address: {
                "algorithm": 1,
                "public_key": "0x" + keys[number % len(keys)].hex(),
            }
            for number in range(count)
        }
    ).encode()


def seconds(function: Callable[[], object], *, rounds: int) -> float:
    """The median of several calls."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return median(taken)


class Source:
    """A Pylon in this process, which parses its answer anew each time."""

    name = "bench"

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.asked = 0

    async def fetch_keys(self) -> KeyMap:
        """All keys."""
        self.asked += 1
        return await parse_certificates(self._body)

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """Never asked here."""
        raise NotImplementedError


async def measure_size(count: int) -> tuple[float, float, float, float]:
    """Kilobytes of the answer, milliseconds to take it in, bytes a hotkey, microseconds a look."""
    body = an_answer(count)
    parsed = []
    for _ in range(5):
        began = time.perf_counter()
        await parse_certificates(body)
        parsed.append(time.perf_counter() - began)
    registry = SnapshotRegistry(
        source=Source(body),
        timing=Timing(max_age=timedelta(minutes=15), refresh_every=timedelta(seconds=30)),
    )
    gc.collect()
    tracemalloc.start()
    await registry.refresh()
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    hotkeys = [Hotkey(hashlib.sha256(str(n).encode()).digest()) for n in range(min(count, 1000))]
    looking = seconds(lambda: [registry.peek(hotkey) for hotkey in hotkeys], rounds=21)
    return len(body) / 1000, median(parsed) * 1000, held / count, looking / len(hotkeys) * 1e6


async def measure_redis(count: int) -> dict[str, float]:
    """What one of several replicas makes Redis do in a second."""
    program, port = find_program("redis-server"), free_port()
    source = Source(an_answer(count))
    url = f"redis://127.0.0.1:{port}/0"
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(  # noqa: ASYNC220 - nobody else waits for this loop
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        client = Redis.from_url(url)
        try:
            while True:
                try:
                    await client.ping()
                    break
                except CannotConnect:
                    await asyncio.sleep(0.05)
            settings = Settings.load(
                environ={
                    "NEXUS_AUTH_SNAPSHOT_STORE": url,
                    "NEXUS_AUTH_SNAPSHOT_STORE_SECRET": "the secret of the benchmark",
                    "NEXUS_PYLON_NETUID": "1",
                }
            )
            registries = [
                SnapshotRegistry(
                    source=source,
                    timing=Timing(
                        max_age=timedelta(minutes=15),
                        refresh_every=timedelta(seconds=REFRESH_SECONDS),
                    ),
                    shared=build_shared_snapshots(settings, SYSTEM_CLOCKS),
                )
                for _ in range(REPLICAS)
            ]
            for registry in registries:
                await registry.start()
            await asyncio.sleep(REFRESH_SECONDS)
            before, asked = await _counters(client), source.asked
            await asyncio.sleep(WATCHED_SECONDS)
            after = await _counters(client)
            asked = source.asked - asked
            for registry in registries:
                await registry.aclose()
        finally:
            await client.aclose()
            server.terminate()
            server.wait()
    spent = {name: after[name] - before[name] for name in after}
    refreshes = WATCHED_SECONDS / REFRESH_SECONDS
    return {
        "questions a refresh": asked / refreshes,
        "commands a second": spent["commands"] / WATCHED_SECONDS / REPLICAS,
        "sent a refresh": spent["sent"] / refreshes / REPLICAS,
        "processor a second": spent["processor"] / WATCHED_SECONDS / REPLICAS,
    }


async def _counters(client: Any) -> dict[str, float]:
    stats, processor = await client.info("stats"), await client.info("cpu")
    return {
        "commands": stats["total_commands_processed"],
        "sent": stats["total_net_output_bytes"],
        "processor": processor["used_cpu_sys"] + processor["used_cpu_user"],
    }


async def main() -> None:
    """Prints both tables."""
    print("| hotkeys | Pylon's answer | time to read it | memory of a worker | one lookup |")
    print("|---:|---:|---:|---:|---:|")
    for count in SIZES:
        kilobytes, milliseconds, each, look = await measure_size(count)
        print(
            f"| {count:,} | {kilobytes:,.0f} KB | {milliseconds:,.0f} ms | "
            f"{each * count / 1e6:,.1f} MB ({each:,.0f} B each) | {look:.1f} µs |"
        )
    print(
        f"\n{REPLICAS} processes, a refresh every {REFRESH_SECONDS:g} s:\n\n"
        "| hotkeys | requests to Pylon in a refresh, all together "
        "| commands in a second, each process | Redis sends in a refresh, each process "
        "| Redis' processor in a second, each process |\n"
        "|---:|---:|---:|---:|---:|"
    )
    for count in SIZES[:2]:
        found = await measure_redis(count)
        print(
            f"| {count:,} | {found['questions a refresh']:.1f} "
            f"| {found['commands a second']:.1f} | {found['sent a refresh'] / 1000:,.0f} KB "
            f"| {found['processor a second'] * 1000:.2f} ms |"
        )


if __name__ == "__main__":
    asyncio.run(main())
