"""Restarting while requests keep coming: nobody is to notice."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import count
from pathlib import Path

import pytest

from nexus_auth.entrypoints.service import DRAIN_SECONDS
from tests.integration.proxies.application import Application
from tests.integration.proxies.client import connect, http1_request, tls_context
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    running_proxy,
)
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import free_port, require_program, wait_until_ready
from tests.integration.rolling.load import running_load
from tests.integration.service.running import (
    RunningService,
    a_header,
    register,
    running_service,
)

CLIENTS = 8


@pytest.fixture(scope="module")
def pylon() -> Iterator[RunningPylon]:
    """A development Pylon that knows alice."""
    with running_pylon() as pylon:
        register(pylon, "alice")
        yield pylon


def a_request() -> bytes:
    """Alice's question, on a connection that she would like to keep."""
    return b"GET / HTTP/1.1\r\nHost: auth\r\nX-Client-Cert: %s\r\n\r\n" % a_header("alice")


def test_every_connection_is_told_before_it_ends(pylon: RunningPylon, tmp_path: Path) -> None:
    """SIGTERM under load: each request that was taken is answered, and the exit code is 0."""
    with (
        running_service(tmp_path, pylon.url) as service,
        running_load(service.connect, a_request(), clients=CLIENTS, ends_when_refused=True) as load,
    ):
        load.wait_for_more()
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(DRAIN_SECONDS) == 0
        assert time.monotonic() - began < DRAIN_SECONDS / 2
    assert load.problems == []
    assert load.goodbyes == load.refused == CLIENTS


def test_request_on_an_idle_connection_is_the_last_one(pylon: RunningPylon, tmp_path: Path) -> None:
    """What comes shortly after SIGTERM is answered, on used and on new connections alike."""
    with running_service(tmp_path, pylon.url) as service:
        used, new, silent = (service.connect() for _ in range(3))
        with used, new, silent:
            used.sendall(a_request())
            assert b"Connection: close" not in used.recv(65536)
            service.process.send_signal(signal.SIGTERM)
            wait_until_ready(lambda: not _can_connect(service), what="the drain")
            time.sleep(0.2)
            for connection in (used, new):
                connection.sendall(a_request())
                answer = connection.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert b"\r\nConnection: close\r\n" in answer
                assert connection.recv(100) == b""
            assert silent.recv(100) == b""
        assert service.process.wait() == 0


def _can_connect(service: RunningService) -> bool:
    try:
        service.connect().close()
    except OSError:
        return False
    return True


def test_replicas_behind_nginx_are_replaced_unnoticed(pylon: RunningPylon) -> None:
    """Two of them, one after the other, and not one request is refused or lost."""
    require_program("nginx", PROGRAMS["nginx"])
    ports, generations = (free_port(), free_port()), count()
    with open_folder() as folder, ExitStack() as stack:

        def start(port: int) -> AbstractContextManager[RunningService]:
            place = folder / f"replica-{next(generations)}"
            place.mkdir()
            return running_service(
                place,
                pylon.url,
                NEXUS_AUTH_LISTEN_ADDR=f"127.0.0.1:{port}",
                # Every single request asks.
                NEXUS_AUTH_REUSE_SECONDS="0",
            )

        replicas = [stack.enter_context(start(port)) for port in ports]
        application = stack.enter_context(Application())
        proxy_port = stack.enter_context(
            running_proxy(
                "nginx",
                folder,
                app=application.address,
                auth=f"127.0.0.1:{ports[0]}",
                certificate=make_server_certificate(folder),
                edit=lambda text: text.replace(
                    f"server 127.0.0.1:{ports[0]} max_fails=0;",
                    "".join(f"server 127.0.0.1:{port} max_fails=0; " for port in ports),
                ),
            )
        )
        context = tls_context(make_people(folder)["alice"])

        def connection() -> socket.socket:
            return connect(proxy_port, context)

        with running_load(connection, http1_request(), clients=CLIENTS) as load:
            for number, port in enumerate(ports):
                load.wait_for_more()
                replicas[number].process.send_signal(signal.SIGTERM)
                assert replicas[number].process.wait() == 0
                load.wait_for_more()
                replicas[number] = stack.enter_context(start(port))
            load.wait_for_more()
        assert load.problems == []
        assert load.refused == 0
        for replica in replicas:
            assert replica.lines("decision"), "the new replicas are asked as well"


def test_killed_worker_is_missed_by_its_own_connections_only(
    pylon: RunningPylon, tmp_path: Path
) -> None:
    """After kill -9 the others go on, whoever connects anew is granted, and it is replaced."""
    with running_service(tmp_path, pylon.url, NEXUS_AUTH_WORKERS="2") as service:
        wait_until_ready(lambda: len(service.lines("listening")) == 2, what="both workers")
        victim = service.lines("listening")[0]["pid"]
        with running_load(service.connect, a_request(), clients=CLIENTS) as load:
            load.wait_for_more()
            os.kill(victim, signal.SIGKILL)
            wait_until_ready(lambda: len(service.lines("listening")) == 3, what="another one")
            load.wait_for_more()
        assert len(load.problems) <= CLIENTS, load.problems
        assert all("of a connection" in problem for problem in load.problems), load.problems
        assert set(load.statuses) == {200}
        assert load.refused == 0
