"""Three replicas with two workers each ask Pylon as often as one process does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.builders import a_hotkey
from tests.integration.faults.faulty_pylon import NETUID, FaultyPylon, Reply, as_json
from tests.integration.real import Process, free_port
from tests.integration.redis.server import redis_url, running_redis
from tests.unit.adapters.registry.sources import key_of, keys_of

WORKERS = 6
REFRESH_SECONDS = 3.0
ROOT = Path(__file__).parents[3]
OLD, NEW = key_of("alice").hex(), key_of("alice's new").hex()


@contextlib.contextmanager
def running_fleet(pylon: FaultyPylon, location: str, folder: Path) -> Iterator[list[Process]]:
    """Starts the processes of a fleet."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                Process(
                    [
                        *(sys.executable, "-m", "tests.integration.fleet.replica"),
                        *(pylon.endpoint, location, str(REFRESH_SECONDS)),
                    ],
                    log_file=folder / f"worker-{number}.log",
                    directory=ROOT,
                    # Nothing is to be tidied up, and Ctrl-C would print a traceback.
                    stop_signal=signal.SIGKILL,
                )
            )
            for number in range(WORKERS)
        ]


def said(worker: Process) -> list[str]:
    """The keys of alice that a worker knew, one after the other; without log lines."""
    lines = worker.output.splitlines()
    return [line for line in lines if line == "nothing" or len(line) == len(OLD)]


def knows(worker: Process, key: str) -> bool:
    """Whether this is what a worker knows now."""
    return said(worker)[-1:] == [key]


async def until(condition: Callable[[], bool], workers: list[Process], seconds: float) -> None:
    """Waits for something, and shows what the workers wrote when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("\n".join(f"{n}: {worker.output}" for n, worker in enumerate(workers)))
        await asyncio.sleep(0.05)


def all_know(workers: list[Process], key: str) -> Callable[[], bool]:
    """Whether every worker knows this key."""
    return lambda: all(knows(worker, key) for worker in workers)


@contextlib.contextmanager
def store_location(kind: str, folder: Path) -> Iterator[tuple[str, Process | None]]:
    """A store of each kind, and its server where it has one."""
    if kind == "redis":
        with running_redis(folder) as (process, port):
            yield redis_url(port), process
    else:
        yield f"file:{folder}/store/snapshot.json", None


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", ["redis", "file"])
async def test_fleet_asks_pylon_as_often_as_one_process(kind: str, tmp_path: Path) -> None:
    """Through kill -9, a rotation, and a store that goes away: nobody is forgotten."""
    async with FaultyPylon(keys_of("alice", "bob")) as pylon:
        with (
            store_location(kind, tmp_path) as (location, redis),
            running_fleet(pylon, location, tmp_path) as workers,
        ):
            await until(all_know(workers, OLD), workers, 20)
            first, began = len(pylon.requests), time.monotonic()
            # The interpreters start one after the other; who starts late finds the record.
            assert first <= 3

            await asyncio.sleep(2 * REFRESH_SECONDS)
            spent = time.monotonic() - began
            asked = len(pylon.requests) - first
            assert 1 <= asked <= 1 + spent / (REFRESH_SECONDS * 0.95)

            pylon.keys[a_hotkey("alice")] = key_of("alice's new")
            for victim in workers[:3]:
                victim.send_signal(signal.SIGKILL)
            living = workers[3:]
            # One interval and a bit, a turn that nobody ends, and a look at the store.
            await until(all_know(living, NEW), living, REFRESH_SECONDS * 1.1 + 2 + 1.5)

            if redis is not None:
                redis.send_signal(signal.SIGSTOP)
                pylon.keys[a_hotkey("alice")] = key_of("alice")
                await until(all_know(living, OLD), living, REFRESH_SECONDS * 1.1 + 3)
                redis.send_signal(signal.SIGCONT)
            for worker in living:
                # Known once, known ever since.
                assert said(worker)[0] in {"nothing", OLD}
                assert "nothing" not in said(worker)[1:]
                assert "crashed" not in worker.output


@pytest.mark.timeout(90)
async def test_replicas_with_several_workers_ask_a_slow_pylon_as_one_process_does(
    tmp_path: Path,
) -> None:
    """From the very first request on, though its answer takes longer than a second."""
    environment = {
        "PATH": os.environ["PATH"],
        "NEXUS_AUTH_ADMIN_ADDR": "off",
        "NEXUS_AUTH_WORKERS": "2",
        "NEXUS_AUTH_REFRESH_SECONDS": str(REFRESH_SECONDS),
        "NEXUS_AUTH_SNAPSHOT_STORE_SECRET": "shared by the fleet",
        "NEXUS_AUTH_LOG_FORMAT": "json",
        "NEXUS_PYLON_NETUID": str(NETUID),
    }
    async with FaultyPylon(keys_of("alice", "bob")) as pylon:
        body = as_json(pylon.entries()).body
        pylon.behaviour = lambda _: Reply(body=body, pause=1.5 / len(body))
        with contextlib.ExitStack() as stack:
            _, redis_port = stack.enter_context(running_redis(tmp_path))
            replicas = [
                stack.enter_context(
                    Process(
                        [sys.executable, "-m", "nexus_auth", "run"],
                        log_file=tmp_path / f"replica-{number}.log",
                        environment={
                            **environment,
                            "NEXUS_AUTH_LISTEN_ADDR": f"127.0.0.1:{free_port()}",
                            "NEXUS_AUTH_SNAPSHOT_STORE": redis_url(redis_port),
                            "NEXUS_PYLON_ENDPOINT": pylon.endpoint,
                        },
                        directory=tmp_path,
                    )
                )
                for number in range(3)
            ]
            await until(lambda: bool(pylon.requests), replicas, 20)
            began = time.monotonic()
            await until(
                lambda: all(each.output.count('"listening"') == 2 for each in replicas),
                replicas,
                20,
            )
            await asyncio.sleep(3 * REFRESH_SECONDS)
            spent = time.monotonic() - began
            assert 3 <= len(pylon.requests) <= 1 + spent / (REFRESH_SECONDS * 0.95)


@pytest.mark.timeout(60)
async def test_workers_of_one_service_share_their_refreshes(tmp_path: Path) -> None:
    """Without any store configured, and nothing is left behind when the service ends."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "TMPDIR": str(temporary),
        "NEXUS_AUTH_LISTEN_ADDR": f"127.0.0.1:{port}",
        "NEXUS_AUTH_ADMIN_ADDR": "off",
        "NEXUS_AUTH_WORKERS": "4",
        "NEXUS_AUTH_REFRESH_SECONDS": "2",
        "NEXUS_PYLON_NETUID": str(NETUID),
    }
    async with FaultyPylon(keys_of("alice")) as pylon:
        with Process(
            [sys.executable, "-m", "nexus_auth", "run"],
            log_file=tmp_path / "service.log",
            environment={**environment, "NEXUS_PYLON_ENDPOINT": pylon.endpoint},
            directory=tmp_path,
        ) as service:
            await until(lambda: bool(pylon.requests), [service], 20)
            await asyncio.sleep(2)
            first, began = len(pylon.requests), time.monotonic()
            await asyncio.sleep(5)
            asked = len(pylon.requests) - first
            assert 1 <= asked <= 1 + (time.monotonic() - began) / (2 * 0.95), service.output
    assert list(temporary.iterdir()) == []
