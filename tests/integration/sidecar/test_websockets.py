"""WebSockets through the sidecar, with the package `websockets` at both ends."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.builders import a_hotkey
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import tls_context
from tests.integration.proxies.stack import (
    make_people,
    make_server_certificate,
    open_folder,
    running_proxy,
)
from tests.integration.real import free_port, wait_until_ready
from tests.integration.sidecar.running import RunningSidecar, identity_files, running_sidecar

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[RunningSidecar, list[list[str]]]]:
    """A sidecar before a WebSocket server, which keeps every hotkey of each handshake."""
    hotkeys: list[list[str]] = []

    def echo(connection: ServerConnection) -> None:
        assert connection.request is not None
        hotkeys.append(connection.request.headers.get_all("X-Hotkey"))
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        try:
            with (
                TemporaryDirectory(prefix="nexus-auth-") as folder,
                running_sidecar(Path(folder), f"127.0.0.1:{port}", until_granted=False) as sidecar,
            ):
                # Not an upgrade: the server says so, which only a granted caller hears.
                granted = lambda: sidecar.status() == 426  # noqa: E731 - short
                wait_until_ready(granted, what="a grant", process=sidecar.process)
                yield sidecar, hotkeys
        finally:
            server.shutdown()
            thread.join(10)


def test_messages_go_both_ways_under_the_callers_own_hotkey(
    running: tuple[RunningSidecar, list[list[str]]],
) -> None:
    """Text, bytes and pings; a forged hotkey in the handshake is removed."""
    sidecar, hotkeys = running
    hotkeys.clear()
    with connect(
        f"wss://127.0.0.1:{sidecar.port}/",
        ssl=tls_context(sidecar.people["alice"]),
        additional_headers={"X-Hotkey": a_hotkey("bob").address},
        proxy=None,
    ) as socket_:
        for message in ("hello", b"\0" * 300_000, "again"):
            socket_.send(message)
            assert socket_.recv(20) == message
        assert socket_.ping().wait(20)
    assert hotkeys == [[a_hotkey("alice").address]]


@pytest.mark.parametrize("who", ["nobody", "carol", "mallory as alice"])
def test_a_denied_caller_gets_403_and_no_websocket(
    running: tuple[RunningSidecar, list[list[str]]], who: str
) -> None:
    """The handshake does not reach the application."""
    sidecar, hotkeys = running
    hotkeys.clear()
    with pytest.raises(InvalidStatus) as caught:
        connect(
            f"wss://127.0.0.1:{sidecar.port}/", ssl=tls_context(sidecar.people[who]), proxy=None
        )
    assert caught.value.response.status_code == 403
    assert "X-Nexus-Auth-Reason" in caught.value.response.headers
    assert hotkeys == []


@pytest.mark.parametrize("mode", [ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED])
def test_pythons_ssl_refuses_a_client_certificate_without_an_authority(
    tmp_path: Path, mode: ssl.VerifyMode
) -> None:
    """Why an application cannot do it by itself; without asking, it sees no certificate at all."""
    certificate, _ = _handshake(tmp_path, ssl.CERT_NONE)
    assert certificate is None
    certificate, error = _handshake(tmp_path, mode)
    assert certificate is None
    assert isinstance(error, ssl.SSLCertVerificationError)


def _handshake(folder: Path, mode: ssl.VerifyMode) -> tuple[bytes | None, BaseException | None]:
    """What a server of `ssl` sees of a caller that shows a certificate, and what it raises."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_server_certificate(folder))
    context.verify_mode = mode
    alice = make_people(folder)["alice"]
    identity_files(alice)
    here, there = socket.socketpair()
    found: list[tuple[bytes | None, BaseException | None]] = []

    def serve_one() -> None:
        with here:
            try:
                with context.wrap_socket(here, server_side=True) as connection:
                    found.append((connection.getpeercert(binary_form=True), None))
            except OSError as exc:
                found.append((None, exc))

    thread = threading.Thread(target=serve_one)
    thread.start()
    with there:
        try:
            with tls_context(alice).wrap_socket(there) as connection:
                connection.recv(1)
        except OSError:
            pass  # the refusal, as the caller sees it
    thread.join(20)
    return found[0]


def test_a_silent_websocket_ends_and_pings_keep_it_open(tmp_path: Path) -> None:
    """After 300 s, says the page; here two, of the same configuration."""
    alice = make_people(tmp_path)["alice"]

    def edited(text: str) -> str:
        # Once for streams, once for connections.
        return text.replace(" 300s", " 2s")

    def silent(connection: ServerConnection) -> None:
        for _ in connection:
            pass

    with open_folder() as folder, serve(silent, "127.0.0.1", 0, ping_interval=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        auth_port = free_port()
        try:
            with (
                AuthService("envoy", auth_port, reuse_seconds=0, knows=("alice",)),
                running_proxy(
                    "envoy",
                    folder,
                    app=f"127.0.0.1:{server.socket.getsockname()[1]}",
                    auth=f"127.0.0.1:{auth_port}",
                    certificate=make_server_certificate(folder),
                    edit=edited,
                ) as port,
            ):
                url, context = f"wss://127.0.0.1:{port}/", tls_context(alice)
                lively = connect(url, ssl=context, proxy=None, ping_interval=0.2)
                quiet = connect(url, ssl=context, proxy=None, ping_interval=None)
                with lively, quiet:
                    with pytest.raises(ConnectionClosed):
                        quiet.recv(30)
                    assert lively.ping().wait(20)
        finally:
            server.shutdown()
            thread.join(10)
