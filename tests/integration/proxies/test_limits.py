"""Many requests that take a while, at the same time: streams of a model, WebSockets, long polls."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import shutil
import ssl

import h2.config
import h2.connection
import h2.events
import pytest

from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import ask, tls_context
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    started_proxy,
)
from tests.integration.proxies.surroundings import GatheringServer, many_open_files
from tests.integration.real import require_program, wait_until_ready

CONNECTIONS, STREAMS = 12, 100
PATIENCE_SECONDS = 120


@pytest.mark.parametrize("proxy", PROGRAMS)
def test_many_slow_requests_are_served_under_the_usual_limit_of_open_files(proxy: str) -> None:
    """1,200 at once by one caller; systemd gives a soft limit of 1,024 and a higher hard one."""
    require_program(proxy, PROGRAMS[proxy])
    assert shutil.which("prlimit") is not None
    count = CONNECTIONS * STREAMS
    with (
        open_folder() as folder,
        many_open_files(4 * count),
        GatheringServer(count, patience_seconds=PATIENCE_SECONDS) as app,
        AuthService(proxy, 0, reuse_seconds=5, knows=("alice",)) as auth,
    ):
        people = make_people(folder)
        with started_proxy(
            proxy,
            folder,
            app=app.address,
            auth=f"127.0.0.1:{auth.port}",
            certificate=make_server_certificate(folder),
            prefix=["prlimit", "--nofile=1024:20000"],
        ) as started:
            denied = lambda: ask(started.port, people["carol"]).status == 403  # noqa: E731
            wait_until_ready(denied, what=f"a denial through {proxy}")
            context = tls_context(people["alice"], protocol="h2")

            async def all_at_once() -> collections.Counter[str]:
                outcomes: collections.Counter[str] = collections.Counter()
                async with asyncio.timeout(2 * PATIENCE_SECONDS), asyncio.TaskGroup() as group:
                    for _ in range(CONNECTIONS):
                        group.create_task(_send_streams(started.port, context, outcomes))
                return outcomes

            assert asyncio.run(all_at_once()) == {"200": count}


async def _send_streams(
    port: int, context: ssl.SSLContext, outcomes: collections.Counter[str]
) -> None:
    """Sends `STREAMS` requests over one HTTP/2 connection and counts what comes of them."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        port,
        ssl=context,
        server_hostname="localhost",
    )
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    state.initiate_connection()
    left = set[int]()
    for _ in range(STREAMS):
        stream = state.get_next_available_stream_id()
        left.add(stream)
        pseudo = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": "/"}
        state.send_headers(stream, list(pseudo.items()), end_stream=True)
    writer.write(state.data_to_send())
    while left:
        data = await reader.read(65536)
        if not data:
            outcomes["cut off"] += len(left)
            break
        for event in state.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                outcomes[dict(event.headers or [])[b":status"].decode()] += 1
                left.discard(event.stream_id or 0)
            elif isinstance(event, h2.events.StreamReset) and event.stream_id in left:
                outcomes["reset"] += 1
                left.discard(event.stream_id)
        writer.write(state.data_to_send())
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
