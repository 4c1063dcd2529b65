"""What one worker of a service has learned, the others know before they deny."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nexus_auth.adapters.registry.refresh import EARLY_SECONDS
from tests.integration.faults.test_floods import Knocker
from tests.integration.pylon.running import running_pylon
from tests.integration.real import wait_until_ready
from tests.integration.service.running import (
    RunningService,
    a_header,
    register,
    running_service,
)

NEWCOMERS = 10
CONNECTIONS = 16
"""So many that both workers have some of them."""
STRANGERS = 8
"""So many that a worker begins a fetch as soon as it may, and others wait for it in between."""
REQUESTS = 40
"""Of each caller after the first grant: more than the second until a worker looks by itself."""
PAUSE_SECONDS = 0.03


@asynccontextmanager
async def connections(service: RunningService, number: int) -> AsyncIterator[list[Knocker]]:
    """Opens so many."""
    knockers = [
        Knocker(*await asyncio.open_connection("127.0.0.1", service.port)) for _ in range(number)
    ]
    try:
        yield knockers
    finally:
        for knocker in knockers:
            knocker.close()


@asynccontextmanager
async def strangers_knocking(service: RunningService) -> AsyncIterator[None]:
    """Strangers come over many connections until the block ends."""
    certificates = itertools.cycle([a_header(f"stranger {n}") for n in range(50)])

    async def knock(knocker: Knocker) -> None:
        while True:
            assert (await knocker.ask(next(certificates)))[0] == 403
            await asyncio.sleep(PAUSE_SECONDS)

    async with connections(service, STRANGERS) as knockers:
        tasks = [asyncio.create_task(knock(each)) for each in knockers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def denials_after_first_grant(knockers: list[Knocker], certificate: bytes) -> int:
    """Shows a certificate over all connections at once, until each has had its number of answers.

    Counts the denials of requests that were made after the first grant had come.
    """
    is_granted = False
    denials = 0

    async def call(knocker: Knocker) -> None:
        nonlocal is_granted, denials
        left = REQUESTS
        while left:
            counts = is_granted
            status, _ = await knocker.ask(certificate)
            is_granted = is_granted or status == 200
            denials += counts and status != 200
            left -= counts
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(call(each) for each in knockers))
    return denials


@pytest.mark.timeout(120)
async def test_no_denial_follows_the_first_grant_of_a_newcomer_whichever_worker_answers(
    tmp_path: Path,
) -> None:
    """Also among strangers, who use up what a worker may fetch."""
    denied = 0
    with running_pylon() as pylon:
        register(pylon, "alice")
        with running_service(tmp_path, pylon.url, NEXUS_AUTH_WORKERS="2") as service:
            wait_until_ready(lambda: len(service.lines("listening")) == 2, what="both workers")
            async with (
                connections(service, CONNECTIONS) as knockers,
                strangers_knocking(service),
            ):
                for number in range(NEWCOMERS):
                    name = f"newcomer {number}"
                    # At different moments between two fetches.
                    await asyncio.sleep(number * 0.37 % EARLY_SECONDS)
                    register(pylon, name)
                    denied += await denials_after_first_grant(knockers, a_header(name))
    assert denied == 0
