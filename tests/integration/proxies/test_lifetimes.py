"""Connections and certificates end; a proxy that goes on must not lose a caller over it."""

from __future__ import annotations

import os
import re
import shlex
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from tests.builders import a_hotkey
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import ask
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    running_proxy,
    started_proxy,
)
from tests.integration.proxies.surroundings import PatientServer, with_files_of_etc
from tests.integration.real import require_program, resending, wait_until_ready

HOTKEY = f"X-Hotkey: {a_hotkey('alice').address}"
CLOSES_WITHIN_SECONDS = 40
"""Longer than any idle time that is asked for here, shorter than any proxy's default."""


# Traefik's idle time for the auth service cannot be set; it sends again what is lost there, see
# `test_a_question_that_is_lost_on_a_kept_connection_is_asked_again`.
KEEPS_IDLE_CONNECTIONS = {("traefik", "auth")}


@contextmanager
def granted_once(
    proxy: str, *, delay_seconds: float = 0.0, app_keepalive: str = "5"
) -> Iterator[tuple[PatientServer, PatientServer]]:
    """The auth service and the application of a caller who was granted; the proxy still runs.

    Some proxies open their port before they know their routes, and ask nothing then.
    """
    require_program(proxy, PROGRAMS[proxy])
    with (
        open_folder() as folder,
        PatientServer(HOTKEY, delay_seconds=delay_seconds) as auth,
        PatientServer() as app,
        running_proxy(
            proxy,
            folder,
            app=app.address,
            auth=auth.address,
            certificate=make_server_certificate(folder),
            arguments=("-app-keepalive", app_keepalive),
        ) as port,
    ):
        alice = make_people(folder)["alice"]
        wait_until_ready(lambda: ask(port, alice).status == 200, what=f"a grant through {proxy}")
        yield auth, app


@pytest.mark.parametrize(
    ("proxy", "leg"),
    [
        (proxy, leg)
        for proxy in PROGRAMS
        for leg in ("auth", "app")
        if (proxy, leg) not in KEEPS_IDLE_CONNECTIONS
    ],
)
def test_a_proxy_closes_an_idle_connection_by_itself(proxy: str, leg: str) -> None:
    """What is sent over a connection that the other side closes just then is lost."""
    with granted_once(proxy) as (auth, app):
        server = auth if leg == "auth" else app
        assert server.is_closed_by_peer(CLOSES_WITHIN_SECONDS)


@pytest.mark.parametrize("proxy", PROGRAMS)
def test_an_application_that_keeps_no_connection_open_gets_a_new_one_each_time(proxy: str) -> None:
    """`-app-keepalive 0`: nothing is sent over a connection that had a request before."""
    with granted_once(proxy, app_keepalive="0") as (_, app):
        assert app.is_closed_by_peer(CLOSES_WITHIN_SECONDS)


@pytest.mark.parametrize("proxy", PROGRAMS)
def test_an_answer_that_takes_a_while_is_waited_for(proxy: str) -> None:
    """The service looks a new caller up for as long as two seconds; it is asked once."""
    with granted_once(proxy, delay_seconds=1.5) as (auth, _):
        assert auth.requests() == 1


@pytest.mark.parametrize("leg", ["auth", "app"])
@pytest.mark.parametrize("proxy", PROGRAMS)
def test_what_restarts_is_found_by_the_next_request(proxy: str, leg: str) -> None:
    """`localhost` with two addresses, as in Debian, and a server on one of them: no pause."""
    require_program(proxy, PROGRAMS[proxy])
    with open_folder() as folder, ExitStack() as others:
        people = make_people(folder)

        def start_auth(port: int) -> AuthService:
            return AuthService(proxy, port, reuse_seconds=0, knows=("alice",))

        auth, app = start_auth(0), Application()
        running = ExitStack()
        for name, server in (("auth", auth), ("app", app)):
            (running if name == leg else others).enter_context(server)
        with (
            running,
            started_proxy(
                proxy,
                folder,
                app=f"localhost:{app.port}",
                auth=f"localhost:{auth.port}",
                certificate=make_server_certificate(folder),
                prefix=with_files_of_etc(folder, hosts="127.0.0.1 localhost\n::1 localhost\n"),
            ) as started,
        ):
            granted = lambda: ask(started.port, people["alice"]).status == 200  # noqa: E731
            wait_until_ready(granted, what=f"a grant through {proxy}")
            port = auth.port if leg == "auth" else app.port
            running.close()
            for _ in range(3):
                assert ask(started.port, people["alice"]).status in {0, 403, 500, 502, 503, 504}
            with start_auth(port) if leg == "auth" else Application(port=port):
                assert [ask(started.port, people["alice"]).status for _ in range(3)] == [200] * 3


def _shown_serial(port: int) -> int:
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=20)
    return x509.load_pem_x509_certificate(pem.encode("ascii")).serial_number


def _reload_command(directory: Path) -> str | None:
    """What the head of the configuration says is to be run after a renewal."""
    heads = [path.read_text() for path in directory.iterdir() if path.is_file()]
    found = [re.search(r"it reads the new one after:  (.+)", head) for head in heads]
    commands = {match[1] for match in found if match is not None}
    assert len(commands) <= 1
    return commands.pop() if commands else None


@pytest.mark.parametrize("proxy", PROGRAMS)
def test_a_renewed_pair_is_served_without_a_restart(proxy: str) -> None:
    """The command in the head of the configuration is enough, and no caller is refused over it."""
    require_program(proxy, PROGRAMS[proxy])
    with open_folder() as folder, Application() as app:
        people, pair = make_people(folder), make_server_certificate(folder)
        renewed = folder / "renewed"
        renewed.mkdir()
        with (
            AuthService(proxy, 0, reuse_seconds=0, knows=("alice",)) as auth,
            started_proxy(
                proxy,
                folder,
                app=app.address,
                auth=f"127.0.0.1:{auth.port}",
                certificate=pair,
            ) as started,
        ):

            def granted() -> bool:
                return ask(started.port, people["alice"]).status == 200

            wait_until_ready(granted, what=f"a grant through {proxy}")
            old = _shown_serial(started.port)
            # The key first, as `nexus-auth generate` does it; each by one rename.
            certificate, key = make_server_certificate(renewed)
            key.rename(pair[1])
            certificate.rename(pair[0])
            command = shlex.split(_reload_command(started.directory) or "true")
            path = [str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]
            environment = {"PATH": os.pathsep.join(path), "HOME": str(started.directory)}

            def reload() -> None:
                # Without a shell, as -after-change does it.
                subprocess.run(
                    command, check=True, timeout=60, cwd=started.directory, env=environment
                )

            def is_new_served() -> bool:
                assert granted()
                return _shown_serial(started.port) != old

            is_served = resending(reload, until=is_new_served)
            wait_until_ready(is_served, what="the new pair", timeout_seconds=60)
            assert started.process.is_running
            assert granted()


def test_the_tests_see_whether_a_server_is_there() -> None:
    """A port that was just given back refuses connections, so that a restart is one."""
    with Application() as app:
        port = app.port
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
