from __future__ import annotations

import socket
import socketserver
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.cli import main
from tests.builders import a_hotkey
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import Identity, ask, connect, http1_request, tls_context
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    running_proxy,
    started_proxy,
)
from tests.integration.real import free_port, require_program, wait_until_ready

Pair = tuple[Path, Path]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that Envoy can enter; without Envoy the test is skipped."""
    require_program("envoy", PROGRAMS["envoy"])
    with open_folder() as opened:
        yield opened


@contextmanager
def auth_service(place: int | Path = 0) -> Iterator[AuthService]:
    """The real one, which knows alice and bob."""
    with AuthService("envoy", place, reuse_seconds=0, knows=("alice", "bob")) as auth:
        yield auth


def a_pair(folder: Path, name: str) -> Pair:
    """A server certificate and its key in a folder of their own."""
    own = folder / name
    own.mkdir()
    return make_server_certificate(own)


def served(port: int) -> bytes:
    """The certificate that the proxy serves, DER; empty where there is no handshake."""
    try:
        with connect(port, tls_context(Identity())) as connection:
            return connection.getpeercert(binary_form=True) or b""
    except OSError:
        return b""


def serves(port: int, certificate: bytes) -> bool:
    """Tells whether this certificate is served."""
    return served(port) == certificate


def der(certificate: Path) -> bytes:
    """The certificate of a PEM file."""
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


def replaced(new: Pair, place: Pair, part: int) -> None:
    """Renames one file of a pair over the one that is served."""
    new[part].replace(place[part])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["certificate first", "key first"])
@pytest.mark.parametrize("folders", [1, 2])
def test_a_renewed_pair_is_served_when_both_files_are_there(
    folder: Path, order: tuple[int, int], folders: int
) -> None:
    """Between the two renames the old pair is served; after them the new one, every time."""
    certificate, key = a_pair(folder, "served")
    if folders > 1:
        (folder / "private").mkdir()
        key = key.rename(folder / "private" / "server.key")
    with running_proxy(
        "envoy", folder, app="127.0.0.1:9", auth="127.0.0.1:9", certificate=(certificate, key)
    ) as port:
        wait_until_ready(lambda: served(port) == der(certificate), what="the first pair")
        for number in range(3):
            old, new = der(certificate), a_pair(folder, f"new{number}")
            expected = der(new[0])
            replaced(new, (certificate, key), order[0])
            assert served(port) == old
            replaced(new, (certificate, key), order[1])
            wait_until_ready(partial(serves, port, expected), what="the new pair")


def test_a_pair_behind_a_link_that_turns_is_served(folder: Path) -> None:
    """Kubernetes puts a new folder beside the old one and renames a link over `..data`."""
    first, second = a_pair(folder, "..1"), a_pair(folder, "..2")
    (folder / "..data").symlink_to("..1")
    for name in ("server.crt", "server.key"):
        (folder / name).symlink_to(f"..data/{name}")
    with running_proxy(
        "envoy",
        folder,
        app="127.0.0.1:9",
        auth="127.0.0.1:9",
        certificate=(folder / "server.crt", folder / "server.key"),
    ) as port:
        wait_until_ready(lambda: served(port) == der(first[0]), what="the first pair")
        (folder / "..data_tmp").symlink_to("..2")
        (folder / "..data_tmp").rename(folder / "..data")
        wait_until_ready(lambda: served(port) == der(second[0]), what="the second pair")


def test_a_pair_that_cannot_be_used_is_found_before_the_start(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Envoy's own check fails, though a file that it watches names the pair that is served."""
    certificate, other = a_pair(folder, "a")[0], a_pair(folder, "b")[1]
    command = ["proxy-config", "envoy", "-tls-cert", str(certificate), "-tls-key", str(other)]
    assert main([*command, "-check"]) == exit_codes.FAILED
    assert "KEY_VALUES_MISMATCH" in capsys.readouterr().err


def test_a_limit_holds_for_each_hotkey_and_strangers_take_nothing_of_it(folder: Path) -> None:
    """Only granted requests count: what a stranger sends is refused before it is counted."""
    people, allowed = make_people(folder), 5
    with (
        Application() as application,
        auth_service() as auth,
        running_proxy(
            "envoy",
            folder,
            app=application.address,
            auth=f"127.0.0.1:{auth.port}",
            certificate=make_server_certificate(folder),
            # In a minute, so that no slow machine gives a second allowance.
            arguments=("-rate", f"{allowed}/m"),
        ) as port,
    ):
        forged = http1_request(headers=[("X-Hotkey", a_hotkey("alice").address)])
        for _ in range(2 * allowed):
            for stranger in ("nobody", "carol", "mallory as alice"):
                assert ask(port, people[stranger], forged).status == 403
        for _ in range(allowed):
            assert ask(port, people["alice"]).status == 200
        # Another connection, another path and a forged hotkey are the same caller.
        other = http1_request(target="/other", headers=[("X-Hotkey", a_hotkey("bob").address)])
        assert ask(port, people["alice"], other).status == 429
        assert ask(port, people["bob"]).status == 200
        assert len(application.records) == allowed + 1


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        relay, client = self.server.relay, self.request
        relay.opened += 1
        if relay.losses > 0:
            relay.losses -= 1
            relay.lost.append(client.recv(1 << 16))
            # A reset in place of an answer.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        with socket.create_connection(("127.0.0.1", relay.target)) as other:
            back = threading.Thread(target=_copy, args=(other, client), daemon=True)
            back.start()
            _copy(client, other)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    relay: Relay


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Relay:
    """Passes connections on to a port of 127.0.0.1; loses the first requests, if told to."""

    def __init__(self, target: int, *, host: str = "127.0.0.1", losses: int = 0) -> None:
        self.target, self.losses, self.opened = target, losses, 0
        self.lost: list[bytes] = []
        kind = type(
            "_", (_Server,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET}
        )
        self._server = kind((host, 0), _Handler)
        self._server.relay = self
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_a_service_on_one_address_of_a_name_answers_every_request(folder: Path) -> None:
    """A name has two addresses, both services listen on ::1 alone, and the other refuses."""
    people = make_people(folder)
    with (
        Application() as application,
        auth_service() as auth,
        Relay(port_of(application), host="::1") as app_relay,
        Relay(auth.port, host="::1") as auth_relay,
        started_proxy(
            "envoy",
            folder,
            app=f"two-addresses:{app_relay.port}",
            auth=f"two-addresses:{auth_relay.port}",
            certificate=make_server_certificate(folder),
            prefix=with_hosts(folder, "127.0.0.1 two-addresses\n::1 two-addresses\n"),
        ) as proxy,
    ):
        granted = lambda: ask(proxy.port, people["alice"]).status == 200  # noqa: E731 - short
        wait_until_ready(granted, what="a grant", process=proxy.process)
        assert [ask(proxy.port, people["alice"]).status for _ in range(20)] == [200] * 20
        assert ask(proxy.port, people["carol"]).status == 403


def with_hosts(folder: Path, text: str) -> tuple[str, ...]:
    """A command that starts another one with names of its own."""
    hosts = folder / "hosts"
    hosts.write_text(text)
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    prefix = ("unshare", "-m", "sh", "-c", script, "sh")
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a name for this test alone needs root and unshare")
    return prefix


def test_a_service_by_a_name_of_two_addresses_is_found_again_after_each_restart(
    folder: Path,
) -> None:
    """What was refused while it was away keeps no address from being asked afterwards."""
    people, place = make_people(folder), free_port()
    with (
        Application() as application,
        started_proxy(
            "envoy",
            folder,
            app=application.address,
            auth=f"two-addresses:{place}",
            certificate=make_server_certificate(folder),
            prefix=with_hosts(folder, "127.0.0.1 two-addresses\n::1 two-addresses\n"),
        ) as proxy,
    ):
        for _ in range(3):
            with auth_service(place):
                granted = lambda: ask(proxy.port, people["alice"]).status == 200  # noqa: E731
                wait_until_ready(granted, what="a grant", process=proxy.process)
                assert [ask(proxy.port, people["alice"]).status for _ in range(20)] == [200] * 20
            assert [ask(proxy.port, people["alice"]).status for _ in range(20)] == [403] * 20


def test_a_lost_auth_request_is_repeated_and_a_lost_post_is_not(folder: Path) -> None:
    """Asking again changes nothing; a POST may have arrived, whatever its sender asks for."""
    people = make_people(folder)
    with (
        Application() as application,
        auth_service() as auth,
        Relay(port_of(application), losses=1) as app_relay,
        Relay(auth.port, losses=1) as auth_relay,
        running_proxy(
            "envoy",
            folder,
            app=f"127.0.0.1:{app_relay.port}",
            auth=f"127.0.0.1:{auth_relay.port}",
            certificate=make_server_certificate(folder),
        ) as port,
    ):
        repeats = [("X-Envoy-Retry-On", "5xx,reset"), ("X-Envoy-Max-Retries", "5")]
        post = http1_request(method="POST", headers=repeats, body=b"once")
        assert ask(port, people["alice"], post).status == 503
        assert len(auth_relay.lost) == len(app_relay.lost) == 1
        assert application.records == []
        assert ask(port, people["alice"], post).status == 200
        auth_relay.losses = 1
        assert ask(port, people["carol"]).status == 403
        assert [record.line for record in application.records] == ["POST / HTTP/1.1"]


@pytest.mark.parametrize(("seconds", "opened"), [("600", 1), ("0", 3)])
def test_an_application_without_keep_alive_gets_a_connection_for_each_request(
    folder: Path, seconds: str, opened: int
) -> None:
    """What is never kept open cannot be closed by the other side just then."""
    people = make_people(folder)
    with (
        Application() as application,
        auth_service() as auth,
        Relay(port_of(application)) as relay,
        running_proxy(
            "envoy",
            folder,
            app=f"127.0.0.1:{relay.port}",
            auth=f"127.0.0.1:{auth.port}",
            certificate=make_server_certificate(folder),
            arguments=("-app-keepalive", seconds),
        ) as port,
    ):
        assert [ask(port, people["alice"]).status for _ in range(3)] == [200] * 3
        assert relay.opened == opened


def port_of(application: Application) -> int:
    """Where it listens on loopback."""
    return int(application.address.rpartition(":")[2])
