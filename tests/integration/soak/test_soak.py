"""Traffic, while Pylon, Redis and workers of the service are killed, paused and restarted.

SOAK_SECONDS says for how long, SOAK_SEED repeats a run; the seed is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
import pytest

from nexus_auth.domain.hotkey import Hotkey
from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_pem
from tests.integration.children import resident_bytes
from tests.integration.faults.faults import FAULTS, end
from tests.integration.faults.faulty_pylon import NETUID, FaultyPylon
from tests.integration.real import Process, free_port
from tests.integration.redis.server import redis_url, running_redis

SECONDS: Final = float(os.environ.get("SOAK_SECONDS", "8"))
SEED: Final = int(os.environ.get("SOAK_SEED", "0")) or random.randrange(1, 2**32)

STEADY: Final = [f"steady {n}" for n in range(6)]
ROTATING: Final = [f"rotating {n}" for n in range(3)]

REFRESH_SECONDS: Final = 1
SETTLED_SECONDS: Final = 12.0
"""After how long with a healthy Pylon everybody must know a rotation: the longest back-off, a
refresh, a turn and a look at the store."""

MAY_GROW: Final = 30 * 1024 * 1024
"""What all processes of the service together may grow by, allocator and caches included."""

WHOLE_ANSWER_FAULTS: Final = FAULTS[:16]
"""Those in which Pylon says nothing wrong about anybody."""


@dataclass
class Caller:
    """Somebody with a hotkey, and the certificates he has had."""

    name: str
    header: str = ""
    old_header: str = ""
    rotated_at: float = float("-inf")

    @property
    def hotkey(self) -> Hotkey:
        return a_hotkey(self.name)


@dataclass
class Findings:
    """What was seen, and everything that must not be."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_known: float = 0.0
    slowest_stranger: float = 0.0


def header_of(name: str, key_name: str) -> str:
    """A certificate for one's hotkey around some key, as nginx sends it."""
    now = datetime.now(UTC)
    certificate = a_certificate(
        hotkey=a_hotkey(name),
        key=a_key(key_name),
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(days=1),
    )
    return quote(to_pem(certificate).decode(), safe="")


class Soak:
    """A service, what it depends on, and the people who call it."""

    def __init__(self, folder: Path, pylon: FaultyPylon, chance: random.Random) -> None:
        self.folder = folder
        self.pylon = pylon
        self.chance = chance
        self.findings = Findings()
        self.steady = [Caller(name, header_of(name, name)) for name in STEADY]
        self.rotating = [Caller(name, header_of(name, name)) for name in ROTATING]
        self.strangers = [header_of(f"stranger {n}", f"stranger {n}") for n in range(200)]
        self.impostors = [header_of(name, "mallory") for name in STEADY + ROTATING]
        self.healthy_since = time.monotonic()
        self.one_at_a_time = asyncio.Lock()
        self.began = self.healthy_since
        self.service_port = free_port()
        self.redis_port = free_port()
        self.is_cut_short = False

    def is_over(self) -> bool:
        """Whether nothing more is to be done."""
        return self.is_cut_short or time.monotonic() - self.began >= SECONDS

    def environment(self) -> dict[str, str]:
        """The settings of the service."""
        return {
            "PATH": os.environ["PATH"],
            "NEXUS_AUTH_LISTEN_ADDR": f"127.0.0.1:{self.service_port}",
            "NEXUS_AUTH_ADMIN_ADDR": "off",
            "NEXUS_AUTH_WORKERS": "2",
            "NEXUS_AUTH_REFRESH_SECONDS": str(REFRESH_SECONDS),
            "NEXUS_AUTH_CACHE_DURATION_MINS": "1",
            "NEXUS_AUTH_LOG_FORMAT": "json",
            "NEXUS_PYLON_ENDPOINT": self.pylon.endpoint,
            "NEXUS_PYLON_NETUID": str(NETUID),
            "NEXUS_AUTH_SNAPSHOT_STORE": redis_url(self.redis_port),
            "NEXUS_AUTH_SNAPSHOT_STORE_SECRET": "shared by the replicas",
        }

    # The people.

    async def ask(self, client: httpx.AsyncClient, header: str, what: str) -> int | None:
        """One request; None when the worker was killed under it."""
        began = time.monotonic()
        try:
            response = await client.get("/any/path", headers={"X-Client-Cert": header})
        except httpx.TransportError:
            self.findings.answers["broken connection"] += 1
            return None
        spent = time.monotonic() - began
        known = what == "steady"
        if known:
            self.findings.slowest_known = max(self.findings.slowest_known, spent)
        else:
            self.findings.slowest_stranger = max(self.findings.slowest_stranger, spent)
        status = response.status_code
        self.findings.answers[f"{what} {status}"] += 1
        if status not in {200, 403}:
            self.report(f"{what}: status {status}")
        if (status == 200) != ("x-hotkey" in response.headers):
            self.report(f"{what}: {status} with {response.headers}")
        return status

    def report(self, finding: str) -> None:
        """Takes note of something that must not be."""
        self.findings.wrong.append(f"{time.monotonic() - self.began:.2f} s: {finding}")

    async def steady_traffic(self, client: httpx.AsyncClient) -> None:
        """Callers whose key never changes are always let in."""
        for caller in itertools.cycle(self.steady):
            if self.is_over():
                return
            if await self.ask(client, caller.header, "steady") == 403:
                self.report(f"{caller.name} was denied")
            await asyncio.sleep(0.01)

    async def rotating_traffic(self, client: httpx.AsyncClient) -> None:
        """New keys get in when they can be known, old ones do not once they must be."""
        for caller in itertools.cycle(self.rotating):
            if self.is_over():
                return
            now = time.monotonic()
            settled = min(now - caller.rotated_at, now - self.healthy_since) > SETTLED_SECONDS
            if await self.ask(client, caller.header, "rotating") == 403 and settled:
                self.report(f"{caller.name} was denied with his new key")
            if caller.old_header:
                settled = settled and self.is_healthy
                if await self.ask(client, caller.old_header, "outdated") == 200 and settled:
                    self.report(f"{caller.name} was let in with his old key")
            await asyncio.sleep(0.02)

    async def hostile_traffic(self, client: httpx.AsyncClient) -> None:
        """Strangers and impostors are never let in."""
        while not self.is_over():
            for what, headers in (("stranger", self.strangers), ("impostor", self.impostors)):
                if await self.ask(client, self.chance.choice(headers), what) == 200:
                    self.report(f"a {what} was let in")
            await asyncio.sleep(0.01)

    async def rotate(self) -> None:
        """Somebody gets a new key now and then."""
        for number in itertools.count():
            await self.wait(self.chance.uniform(3, 9))
            if self.is_over():
                return
            caller = self.chance.choice(self.rotating)
            key_name = f"{caller.name} {number}"
            header = header_of(caller.name, key_name)
            self.pylon.keys[caller.hotkey] = public_bytes(a_key(key_name))
            caller.header, caller.old_header = header, caller.header
            caller.rotated_at = time.monotonic()

    # The trouble.

    async def wait(self, seconds: float) -> None:
        """Waits, but not beyond the end."""
        left = SECONDS - (time.monotonic() - self.began)
        await asyncio.sleep(max(0.0, min(seconds, left)))

    @property
    def is_healthy(self) -> bool:
        return self.pylon.behaviour is None and not self.pylon.is_resetting

    async def trouble_pylon(self) -> None:
        """Pylon misbehaves in some way, for a while."""
        while not self.is_over():
            # Now and then long enough for everybody to have heard of everything.
            calm = (
                SETTLED_SECONDS + 4 if self.chance.random() < 0.3 else self.chance.uniform(0.5, 4)
            )
            await self.wait(calm)
            if self.is_over():
                return
            fault = self.chance.choice(WHOLE_ANSWER_FAULTS)
            async with self.one_at_a_time:
                self.healthy_since = float("inf")
                await fault.begin(self.pylon)
                await self.wait(self.chance.uniform(0.2, 6))
                await end(self.pylon)
                self.healthy_since = time.monotonic()

    async def kill_workers(self, service: Process) -> None:
        """A worker is killed, while Pylon is well: a new one cannot know what nobody tells it."""
        while not self.is_over():
            await self.wait(self.chance.uniform(2, 12))
            async with self.one_at_a_time:
                if self.is_over():
                    return
                workers = children_of(service.pid)
                if workers:
                    os.kill(self.chance.choice(workers), signal.SIGKILL)
                    await self.wait(4)

    async def trouble_redis(self) -> None:
        """Redis is paused, or killed and started anew with nothing in it."""
        while not self.is_over():
            running = running_redis(self.folder, port=self.redis_port)
            # In a thread: starting and stopping a process takes its time.
            redis, _ = await asyncio.to_thread(running.__enter__)
            try:
                for _ in range(self.chance.randrange(3)):
                    await self.wait(self.chance.uniform(0.5, 5))
                    redis.send_signal(signal.SIGSTOP)
                    await self.wait(self.chance.uniform(0.2, 4))
                    redis.send_signal(signal.SIGCONT)
                await self.wait(self.chance.uniform(0.5, 5))
                redis.send_signal(signal.SIGKILL)
                await self.wait(self.chance.uniform(0.2, 2))
            finally:
                await asyncio.to_thread(running.__exit__, None, None, None)

    async def run(self, service: Process) -> list[int]:
        """Plays everything until the time is over; returns what the memory was like."""
        self.began = time.monotonic()
        memory: list[int] = []
        async with (
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{self.service_port}", timeout=10, trust_env=False
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            hostile = [self.hostile_traffic] * 6
            for traffic in (self.steady_traffic, self.rotating_traffic, *hostile):
                group.create_task(traffic(client))
            for trouble in (self.rotate, self.trouble_pylon, self.trouble_redis):
                group.create_task(trouble())
            group.create_task(self.kill_workers(service))
            while not self.is_over():
                await asyncio.sleep(0.5)
                memory.append(sum(map(resident_bytes, [service.pid, *children_of(service.pid)])))
                if not service.is_running:
                    self.report("the service ended")
                    self.is_cut_short = True
        return memory


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(number) for number in listed.split()]


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 90)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
async def test_traffic_is_decided_rightly_whatever_fails(tmp_path: Path) -> None:
    """No wrong grant, no wrong denial, no other status, and no memory lost."""
    print(f"\nSOAK_SEED={SEED} SOAK_SECONDS={SECONDS:g}")
    keys = {a_hotkey(name): public_bytes(a_key(name)) for name in STEADY + ROTATING}
    async with FaultyPylon(keys) as pylon:
        soak = Soak(tmp_path, pylon, random.Random(SEED))
        with Process(
            [sys.executable, "-m", "nexus_auth", "run"],
            log_file=tmp_path / "service.log",
            environment=soak.environment(),
            directory=tmp_path,
        ) as service:
            async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
                deadline = time.monotonic() + 15
                known = 0
                # Both workers must know the callers before trouble begins: ask repeatedly.
                while known < 20:
                    assert time.monotonic() < deadline, service.output
                    with contextlib.suppress(httpx.TransportError):
                        response = await client.get(
                            f"http://127.0.0.1:{soak.service_port}/",
                            headers={"X-Client-Cert": soak.steady[0].header, "Connection": "close"},
                        )
                        known = known + 1 if response.status_code == 200 else 0
                    await asyncio.sleep(0.02)
            memory = await soak.run(service)
            assert service.is_running, service.output
            lines = service.output.splitlines()
    findings = soak.findings
    print(
        f"{dict(findings.answers)}\nslowest: known {findings.slowest_known:.3f} s, stranger "
        f"{findings.slowest_stranger:.3f} s; Pylon was asked {len(pylon.requests)} times; memory "
        f"{memory[0] >> 20} MB at first, {memory[-1] >> 20} MB at last; {len(lines)} log lines"
    )
    assert not findings.wrong, f"SOAK_SEED={SEED}: {findings.wrong[:20]}"
    assert findings.answers["steady 200"] > 20 * SECONDS
    # Known callers wait for nobody, strangers for 2 s at most; the rest is for a machine that has
    # all this to do at once.
    assert findings.slowest_known < 1
    assert findings.slowest_stranger < 3
    warm = memory[len(memory) // 4]
    assert memory[-1] - warm < MAY_GROW, [used >> 20 for used in memory]
    crashes = [line for line in lines if "crashed" in line or "Traceback" in line]
    assert not crashes, crashes[:3]
