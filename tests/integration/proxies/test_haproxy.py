"""What holds for HAProxy alone."""

from __future__ import annotations

import os
import re
import shlex
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import (
    ask,
    ask_http2,
    connect,
    exchange,
    http1_request,
    tls_context,
)
from tests.integration.proxies.scenarios import BOB, extended_connect
from tests.integration.proxies.stack import (
    PROGRAMS,
    People,
    StartedProxy,
    make_people,
    make_server_certificate,
    open_folder,
    started_proxy,
)
from tests.integration.proxies.surroundings import NameServer
from tests.integration.real import require_program, resending, wait_until_ready


@contextmanager
def running_haproxy(
    *,
    auth: Callable[[AuthService], str] = lambda service: f"127.0.0.1:{service.port}",
    arguments: tuple[str, ...] = (),
    lines: str = "",
) -> Iterator[tuple[StartedProxy, People, AuthService, Application]]:
    """HAProxy between its callers and an application that tells what reached it.

    Args:
        auth: What `-auth` is.
        arguments: More arguments of `proxy-config`.
        lines: Lines before the section `global`; a section of its name is continued by it.
    """
    require_program("haproxy", PROGRAMS["haproxy"])
    with (
        open_folder() as folder,
        Application() as application,
        AuthService("haproxy", 0, reuse_seconds=0, knows=("alice", "bob")) as service,
    ):
        people = make_people(folder)
        with started_proxy(
            "haproxy",
            folder,
            app=application.address,
            auth=auth(service),
            certificate=make_server_certificate(folder),
            arguments=arguments,
            edit=lambda text: text.replace("\nglobal\n", f"\n{lines}global\n"),
        ) as proxy:
            yield proxy, people, service, application


@pytest.mark.parametrize(
    "privileges",
    [
        "",
        "    user haproxy\n    group haproxy\n",
        "    chroot /var/lib/haproxy\n",
        "    chroot /var/lib/haproxy\n    user haproxy\n    group haproxy\n",
    ],
    ids=["root", "user", "chroot", "user and chroot"],
)
def test_the_privileges_of_haproxy_refuse_nobody(privileges: str) -> None:
    """As a user of its own, in a folder of its own, it lets in the same callers."""
    if privileges and os.geteuid() != 0:
        pytest.skip("only root can give up privileges")
    lines = f"global\n{privileges}" if privileges else ""
    with running_haproxy(lines=lines) as (proxy, people, _, _):
        assert ask(proxy.port, people["alice"]).status == 200
        assert ask(proxy.port, people["carol"]).status == 403


@pytest.mark.parametrize("known", ["auth.example", "nexus-auth.invalid"])
def test_no_name_but_that_of_the_argument_is_looked_up(known: str) -> None:
    """HAProxy's own HTTP client looks up the Host header wherever it is not given an address.

    A name server that knows another name has no say in who is let in.
    """
    default_knows = {"nexus-auth.invalid": "127.0.0.1"}
    with (
        NameServer({known: "127.0.0.1"}, port=0) as ours,
        NameServer(default_knows, port=0) as default,
    ):
        with running_haproxy(
            auth=lambda service: f"auth.example:{service.port}",
            arguments=("-resolver", ours.address),
            # The section that HAProxy's own HTTP client uses.
            lines=f"resolvers default\n    nameserver ours {default.address}\n\n",
        ) as (proxy, people, _, _):
            if known == "auth.example":
                granted = lambda: ask(proxy.port, people["alice"]).status == 200  # noqa: E731
                wait_until_ready(granted, what="a grant")
                assert ask(proxy.port, people["carol"]).status == 403
            else:
                wait_until_ready(lambda: "auth.example" in ours.asked, what="a look-up")
                assert ask(proxy.port, people["alice"]).status == 503
                assert ask(proxy.port, people["alice"]).status == 503
        assert ours.asked == {"auth.example"}
        assert default.asked == set()


def test_a_caller_over_its_rate_holds_up_no_other() -> None:
    """Each caller has its own allowance, and a stranger uses up none of it."""
    with running_haproxy(arguments=("-rate", "5/m")) as (proxy, people, _, application):

        def statuses(who: str, times: int) -> list[int]:
            return [ask(proxy.port, people[who]).status for _ in range(times)]

        for stranger in ("nobody", "carol", "mallory as alice", "expired"):
            assert statuses(stranger, 6) == [403] * 6
        assert statuses("alice", 8) == [200] * 5 + [429] * 3
        assert statuses("carol", 1) == [403]
        assert statuses("bob", 6) == [200] * 5 + [429]
        assert len(application.records) == 10


def test_a_target_of_any_length_reaches_the_log_without_its_control_bytes() -> None:
    """What a client writes there denies nothing to it, and injects nothing."""
    long = "/" + "a" * 20_000
    with running_haproxy() as (proxy, people, service, _):
        assert ask(proxy.port, people["alice"], http1_request(target=long)).status == 200
        (facts,) = service.listener.facts
        assert str(facts["uri"]).startswith("/aaaa")
        for target in ("/a\tX-Hotkey:b", "/\x7f", "/\xe4", '/"%0d%0aX-Client-Cert:%20a', "/a\rb"):
            ask(proxy.port, people["carol"], http1_request(target=target))
            ask_http2(proxy.port, people["carol"], target=target)
        assert ask(proxy.port, people["carol"], http1_request(target="*")).status in {400, 403}
        for headers in service.listener.headers:
            names = [name.lower() for name, _ in headers]
            assert sorted(names) == sorted(set(names))
            assert names.count(b"x-client-cert") == 1
            assert b"x-hotkey" not in names
        uris = [str(facts["uri"]) for facts in service.listener.facts]
        assert all(re.fullmatch(r"[!-~]*", uri.split("… (")[0]) for uri in uris)


class _Silent(socketserver.StreamRequestHandler):
    server: _SilentServer

    def handle(self) -> None:
        data = b""
        while b"\r\n\r\n" not in data and (more := self.connection.recv(65536)):
            data += more
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        self.connection.settimeout(1)
        try:
            while more := self.connection.recv(65536):
                data += more
        except OSError:
            pass
        self.server.received.append(data)


class _SilentServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Silent)
        self.received: list[bytes] = []


@pytest.mark.parametrize("protocol", ["websocket", None])
def test_no_trailer_reaches_an_application_that_refuses_an_upgrade(protocol: str | None) -> None:
    """Not after a request over HTTP/2 that asks for WebSocket, and not after any other."""
    with _SilentServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        address = f"127.0.0.1:{server.server_address[1]}"
        try:
            with running_haproxy(arguments=("-app", address)) as (proxy, people, _, _):
                for body in (b"", b"hello"):
                    ask_http2(
                        proxy.port,
                        people["alice"],
                        method="POST",
                        pseudo=None if protocol is None else extended_connect(protocol),
                        body=body,
                        trailers=[("x-hotkey", BOB)],
                    )
        finally:
            server.shutdown()
            thread.join()
        assert not any(BOB.encode() in received for received in server.received)


def reload_command(proxy: StartedProxy) -> str:
    """The command in the head of the file."""
    text = (proxy.directory / "haproxy.cfg").read_text("utf-8")
    found = re.search(r'-after-change "(.*)"\)$', text, re.MULTILINE)
    assert found is not None
    return found[1]


def test_a_pair_that_does_not_match_leaves_the_old_one_in_place() -> None:
    """A reload that fails refuses nobody, and the next one that can succeeds."""
    with running_haproxy() as (proxy, people, _, _):
        alice, log = people["alice"], proxy.directory / "log"
        key = (proxy.directory / "tls.pem.key").readlink()
        good = key.read_bytes()
        # Before its first worker is there, the master takes no signal.
        wait_until_ready(lambda: "Loading success" in log.read_text(), what="the first worker")

        def reload(expected: str) -> None:
            seen, command = log.read_text().count(expected), shlex.split(reload_command(proxy))
            is_reloaded = resending(
                lambda: subprocess.run(command, check=True, timeout=30),
                until=lambda: log.read_text().count(expected) > seen,
            )
            wait_until_ready(is_reloaded, what="a reload")

        key.write_bytes(key_of_another_pair())
        reload("Loading failure")
        assert ask(proxy.port, alice).status == 200
        key.write_bytes(good)
        reload("Loading success")
        assert ask(proxy.port, alice).status == 200


@pytest.mark.parametrize(("caller", "status"), [("alice", 200), ("carol", 403)])
def test_request_that_came_before_a_reload_is_decided_after_it(caller: str, status: int) -> None:
    """The worker that is being replaced finishes what it has, as any other request."""
    with running_haproxy() as (proxy, people, _, _):
        log = proxy.directory / "log"
        wait_until_ready(lambda: "Loading success" in log.read_text(), what="the first worker")
        command, request = shlex.split(reload_command(proxy)), http1_request()
        with connect(proxy.port, tls_context(people[caller])) as connection:
            connection.sendall(request[:-2])
            is_replaced = resending(
                lambda: subprocess.run(command, check=True, timeout=30),
                until=lambda: "Proxy nexus_auth stopped" in log.read_text(),
            )
            wait_until_ready(is_replaced, what="the end of the first worker")
            assert exchange(connection, request[-2:]).status == status


def key_of_another_pair() -> bytes:
    """The key of another pair."""
    with open_folder() as folder:
        return make_server_certificate(folder)[1].read_bytes()
