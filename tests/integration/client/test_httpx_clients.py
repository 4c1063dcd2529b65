"""The clients of httpx against a server that a test holds in its hands: every kind alike."""

from __future__ import annotations

import os
import select
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from nexus_auth import CredentialsError, Hotkey, Registration, RegistryUnavailable
from nexus_auth.client import (
    Caller,
    HotkeyNotRegistered,
    RequestRefused,
    ServerKeyMismatch,
    ServerKeyUnknown,
    ServerNotProven,
    SyncCaller,
)
from nexus_auth.domain.server import fingerprint_of
from nexus_auth.testing import InMemoryRegistry, Subnet, hotkey_named
from tests.integration.client.programs import KINDS, Call, running_client
from tests.integration.client.server import (
    Connection,
    TlsServer,
    redirect_to,
    running_server,
    save_pair,
)
from tests.integration.real import wait_until_ready

HANDSHAKE, ALERT, CHANGE_CIPHER_SPEC, APPLICATION_DATA = 22, 21, 20, 23
"""Types of TLS records, RFC 8446 §5.1. Everything encrypted counts as application data."""


class World:
    """A subnet with a miner that is served, and a validator with a pair on disk."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.subnet = Subnet()
        self.miner = self.subnet.register("miner")
        self.validator = self.subnet.register("validator")
        self.certificates = directory / "certs"
        save_pair(self.certificates, self.validator)

    def client(self, registry: Any = None, **options: Any) -> AbstractContextManager[Call]:
        """A client of this kind that knows the subnet."""
        caller = Caller(
            registry=self.subnet.registry if registry is None else registry,
            certificates=self.certificates,
        )
        return running_client(self.kind, lambda: nullcontext(caller), **options)


@pytest.fixture(params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A subnet of its own for each test."""
    return World(request.param, tmp_path)


@pytest.fixture
def server(world: World) -> Iterator[TlsServer]:
    """The miner's server, which asks for the validator's certificate."""
    with running_server(world.miner, trusts=(world.validator,)) as running:
        yield running


def wait_closed(connection: Connection) -> None:
    """Waits until a client has closed a connection."""
    wait_until_ready(lambda: not connection.is_open, what="the end of a connection")


def test_request_goes_out_with_the_pair(world: World, server: TlsServer) -> None:
    """Named per request; several requests use one connection."""
    with world.client() as call:
        for _ in range(3):
            answer = call(f"{server.url}/x?y", hotkey=world.miner.hotkey.address)
            assert (answer.status_code, answer.text) == (200, "well")
    (connection,) = server.connections
    assert connection.client == world.validator.der
    assert [head.split("\r\n")[0] for head in connection.requests] == ["GET /x?y HTTP/1.1"] * 3
    assert f"Host: {server.host}" in connection.requests[0].split("\r\n")


def test_without_certificates_no_pair_is_shown(world: World, server: TlsServer) -> None:
    """A caller may be nameless."""
    caller = Caller(registry=world.subnet.registry)
    with running_client(world.kind, lambda: nullcontext(caller)) as call:
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
    assert [each.client for each in server.connections] == [None]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_hotkey_of_a_host(world: World, host: str) -> None:
    """Named per host, IPv6 literals in brackets; another port is another host."""
    with (
        running_server(world.miner, host=host) as server,
        world.client(hotkeys={server.host: world.miner.hotkey.address}) as call,
    ):
        assert call(f"{server.url}/").status_code == 200
        with pytest.raises(RequestRefused, match="names no hotkey"):
            call(f"{server.url[:-1]}/")


def test_hotkey_of_the_request_counts_before_that_of_the_host(
    world: World, server: TlsServer
) -> None:
    """And it is never the other one that is reached."""
    with (
        world.client(hotkeys={server.host: world.miner.hotkey}) as call,
        pytest.raises(ServerKeyMismatch),
    ):
        call(server.url, hotkey=world.validator.hotkey)
    assert server.requests == []


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("scheme", "named"), [("https", ""), ("http", "miner"), ("http", "")])
def test_request_that_proves_nothing_opens_nothing(
    world: World, server: TlsServer, scheme: str, named: str, method: str
) -> None:
    """Without a hotkey, and without TLS: refused, in httpx's terms as well."""
    hotkey = hotkey_named(named) if named else None
    with world.client() as call, pytest.raises(RequestRefused) as caught:
        call(f"{scheme}://{server.host}/", hotkey=hotkey, method=method)
    assert isinstance(caught.value, httpx.UnsupportedProtocol)
    assert caught.value.request.method == method
    assert server.connections == []


def assert_nothing_was_sent(connection: Connection) -> None:
    """A ClientHello, an alert perhaps, and nothing encrypted but that alert."""
    wait_closed(connection)
    assert connection.client is None
    assert connection.requests == []
    types = connection.sent_records
    assert types[0] == HANDSHAKE
    assert types.count(HANDSHAKE) == 1
    assert APPLICATION_DATA not in types


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_impostor_is_sent_nothing(world: World, method: str) -> None:
    """The right address and name, the wrong key: no byte of a request, no client certificate."""
    impostor = world.subnet.impostor(world.miner)
    with (
        running_server(impostor, trusts=(world.validator,)) as server,
        world.client() as call,
    ):
        with pytest.raises(ServerKeyMismatch) as caught:
            call(server.url, hotkey=world.miner.hotkey, method=method, content=b"secret")
        error = caught.value
        assert isinstance(error, httpx.ConnectError)
        assert str(error.request.url) == server.url
        assert error.hotkey == world.miner.hotkey.address
        assert error.expected == fingerprint_of(world.miner.public_key)
        assert error.found == fingerprint_of(impostor.public_key)
        assert error.named is None
        for each in server.connections:
            assert_nothing_was_sent(each)


def test_certificate_of_another_hotkey_is_refused(world: World) -> None:
    """A hotkey that registers another's key does not get that one's server."""
    world.subnet.registry.register(world.validator.hotkey, world.miner.public_key)
    with running_server(world.miner) as server, world.client() as call:
        with pytest.raises(ServerKeyMismatch) as caught:
            call(server.url, hotkey=world.validator.hotkey)
        assert caught.value.named == world.miner.hotkey.address
        assert server.requests == []


def test_hotkeys_at_one_address_share_no_connection(world: World, server: TlsServer) -> None:
    """An address may change hands: what is proven for one hotkey says nothing of another."""
    other = world.subnet.register("other")
    with world.client() as call:
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        with pytest.raises(ServerKeyMismatch):
            call(server.url, hotkey=other.hotkey)
        server.show(other)
        assert call(server.url, hotkey=other.hotkey).status_code == 200
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
    assert [len(each.requests) for each in server.connections if each.requests] == [2, 1]


@pytest.mark.parametrize("limit", [1, 5])
def test_limits_count_all_hotkeys(world: World, server: TlsServer, limit: int) -> None:
    """Idle connections of one hotkey give way to those of another."""
    hotkeys = [world.subnet.register(f"miner {number}") for number in range(4)]
    with world.client(limits=httpx.Limits(max_connections=limit)) as call:
        for each in hotkeys:
            server.show(each)
            assert call(server.url, hotkey=each.hotkey).status_code == 200
        wait_until_ready(
            lambda: sum(each.is_open for each in server.connections) == min(limit, 4),
            what="the connections within the limit",
        )


# Rotation, and the like.


def test_rotated_key_is_called_on_a_new_connection(world: World, server: TlsServer) -> None:
    """The connection of the old key is closed, and serves no other request."""
    with world.client() as call:
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        server.show(world.subnet.rotate(world.miner))
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        wait_closed(server.connections[0])
    assert [len(each.requests) for each in server.connections] == [1, 1]


def test_server_that_keeps_the_old_key_is_not_called(world: World, server: TlsServer) -> None:
    """Although there is an open connection to it."""
    with world.client() as call:
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        world.subnet.rotate(world.miner)
        with pytest.raises(ServerKeyMismatch):
            call(server.url, hotkey=world.miner.hotkey)
        wait_closed(server.connections[0])
    assert len(server.requests) == 1


def test_rotation_of_one_closes_the_connections_of_that_one_alone(
    world: World, server: TlsServer
) -> None:
    """A call of any hotkey closes what is outdated of every other."""
    other = world.subnet.register("other")
    with running_server(other) as second, world.client() as call:
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        assert call(second.url, hotkey=other.hotkey).status_code == 200
        world.subnet.rotate(world.miner)
        assert call(second.url, hotkey=other.hotkey).status_code == 200
        wait_closed(server.connections[0])
        assert [len(each.requests) for each in second.connections] == [2]


def _unregister(world: World) -> None:
    world.subnet.registry.unregister(world.miner.hotkey)


def _expire(world: World) -> None:
    world.subnet.registry.available = False


def _spoil_pair(world: World) -> None:
    (world.certificates / "client.key").write_bytes(b"spoilt")


@pytest.mark.parametrize(
    ("happens", "error"),
    [
        (_unregister, HotkeyNotRegistered),
        (_expire, RegistryUnavailable),
        (_spoil_pair, CredentialsError),
    ],
)
def test_connection_ends_with_what_it_was_opened_for(
    world: World, server: TlsServer, happens: Callable[[World], None], error: type[Exception]
) -> None:
    """No registration, no news for too long, no pair: no call on the open connection either."""
    with world.client() as call:
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        happens(world)
        with pytest.raises(error) as caught:
            call(server.url, hotkey=world.miner.hotkey)
        assert isinstance(caught.value, httpx.ConnectError)
        wait_closed(server.connections[0])
    assert len(server.requests) == 1


def test_new_pair_is_shown_on_a_new_connection(world: World, server: TlsServer) -> None:
    """`generate` has replaced the files; the old pair is shown to no server any more."""
    renewed = world.subnet.rotate(world.validator)
    with world.client() as call:
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        save_pair(world.certificates, renewed)
        server.show(world.miner, trusts=(renewed,))
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        wait_closed(server.connections[0])
    assert [each.client for each in server.connections] == [world.validator.der, renewed.der]


def test_server_that_refuses_the_pair_is_an_error_of_httpx(world: World, server: TlsServer) -> None:
    """In TLS 1.3 the refusal comes after the handshake, when the first answer is read."""
    server.show(world.miner, trusts=(world.subnet.stranger("other"),))
    with world.client() as call, pytest.raises(httpx.NetworkError):
        call(server.url, hotkey=world.miner.hotkey)
    assert server.requests == []


def test_request_in_flight_ends_on_the_old_connection(world: World, server: TlsServer) -> None:
    """What was sent is answered; the connection is closed then, and serves no other request."""
    with world.client() as call, ThreadPoolExecutor() as threads:
        slow = threads.submit(call, f"{server.url}/slow", hotkey=world.miner.hotkey)
        wait_until_ready(lambda: bool(server.requests), what="the slow request")
        server.show(world.subnet.rotate(world.miner))
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        assert server.connections[0].is_open
        server.resume.set()
        assert slow.result(10).text == "well"
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        wait_closed(server.connections[0])
    assert [len(each.requests) for each in server.connections] == [1, 2]


class LateRegistry(InMemoryRegistry):
    """Knows of a rotation only when it is asked for news, as a snapshot of a minute ago does."""

    def __init__(self) -> None:
        super().__init__()
        self.news: dict[Hotkey, bytes] = {}
        self.lookups = 0

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        self.lookups += 1
        for each, key in self.news.items():
            self.register(each, key)
        return await super().lookup(hotkey, presented=presented)


def test_news_are_asked_for_where_the_key_is_another(world: World, server: TlsServer) -> None:
    """A miner that has just rotated is reached; an impostor is not, and asked for once a call."""
    registry = LateRegistry()
    registry.register(world.miner.hotkey, world.miner.public_key)
    with world.client(registry) as call:
        assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        assert registry.lookups == 0
        # Its connections end with the old process.
        renewed = world.subnet.rotate(world.miner)
        server.show(renewed)
        registry.news[world.miner.hotkey] = renewed.public_key
        registry.register(world.miner.hotkey, world.validator.public_key)
        assert call(server.url, hotkey=world.miner.hotkey, content=b"x" * 9).status_code == 200
        assert registry.lookups == 1
        server.show(world.subnet.impostor(world.miner))
        registry.register(world.miner.hotkey, world.validator.public_key)
        registry.news.clear()
        with pytest.raises(ServerKeyMismatch):
            call(server.url, hotkey=world.miner.hotkey)
        assert registry.lookups == 2
    assert len(server.requests) == 2


class FailingRegistry(InMemoryRegistry):
    """Has nothing at hand, and answers so many times."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.answers = answers

    def peek(self, hotkey: Hotkey) -> Registration | None:
        return None

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        self.answers -= 1
        if self.answers < 0:
            raise RegistryUnavailable("away")
        return super().peek(hotkey)


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_registry_that_fails_on_the_way_is_named(
    world: World, server: TlsServer, answers: int
) -> None:
    """Before the connection, before the handshake, and in it (asynchronous code asks no more)."""
    registry = FailingRegistry(answers)
    registry.register(world.miner.hotkey, world.miner.public_key)
    with world.client(registry) as call:
        if answers == 2 and world.kind != "sync":
            assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
            return
        with pytest.raises(RegistryUnavailable, match="away"):
            call(server.url, hotkey=world.miner.hotkey)
    assert server.requests == []


# Redirects, cookies, and the environment.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_the_answer_by_default(world: World, server: TlsServer, status: int) -> None:
    """As httpx has it."""
    server.answers["/"] = redirect_to("/there", status=status)
    with world.client() as call:
        assert call(server.url, hotkey=world.miner.hotkey).status_code == status
    assert len(server.requests) == 1


def test_redirect_within_the_origin_is_followed_where_that_is_on(
    world: World, server: TlsServer
) -> None:
    """Relative or absolute, on the same connection."""
    server.answers |= {"/": redirect_to("/a"), "/a": redirect_to(f"{server.url}/b")}
    with world.client(follow_redirects=True) as call:
        answer = call(server.url, hotkey=world.miner.hotkey, method="POST", content=b"x")
    assert (answer.status_code, answer.url.path) == (200, "/b")
    assert [head.split(" ")[0] for head in server.requests] == ["POST"] * 3
    assert len(server.connections) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("named", ["", "miner"])
def test_redirect_to_another_origin_is_never_followed(
    world: World, server: TlsServer, status: int, named: str
) -> None:
    """Not even where the other host has a hotkey of its own, or the same one."""
    with running_server(world.miner, trusts=(world.validator,)) as other:
        hosts = {other.host: world.miner.hotkey, server.host: world.miner.hotkey}
        for location in (other.url, f"//{other.host}/", f"http://{server.host}/", "ftp://a/"):
            server.answers["/"] = redirect_to(location, status=status)
            with (
                world.client(
                    hotkeys=hosts,
                    follow_redirects=True,
                    headers={"Authorization": "Bearer secret"},
                    cookies={"name": "secret"},
                ) as call,
                pytest.raises(RequestRefused, match=r"https|redirect"),
            ):
                call(server.url, hotkey=hotkey_named(named) if named else None, method="POST")
        assert other.connections == []


def test_cookies_are_sent_and_never_kept(world: World, server: TlsServer) -> None:
    """They know no port and no hotkey: one miner's would go to its neighbour."""
    server.answers["/set"] = (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: theirs=1; Path=/\r\nContent-Length: 0\r\n\r\n"
    )
    with world.client(cookies={"ours": "2"}) as call:
        for path in ("/set", "/"):
            call(server.url + path, hotkey=world.miner.hotkey)
    for head in server.requests:
        assert "Cookie: ours=2" in head.split("\r\n")


def test_nothing_in_the_environment_counts(
    world: World, server: TlsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No proxy, no authority, no password, and no file of session keys."""
    netrc, keys = tmp_path / "netrc", tmp_path / "keys"
    netrc.write_text("machine 127.0.0.1 login a password secret\n", encoding="utf-8")
    netrc.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"127.0.0.1:{proxy.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            for spelling in (name, name.lower()):
                monkeypatch.setenv(spelling, f"http://{address}")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
        monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("HOME", str(tmp_path))
        netrc.rename(tmp_path / ".netrc")
        with world.client() as call:
            assert call(server.url, hotkey=world.miner.hotkey).status_code == 200
        assert select.select([proxy], [], [], 0)[0] == []
    assert "authorization" not in server.requests[0].lower()
    assert not keys.exists()


def test_server_that_says_nothing_ends_in_a_timeout(world: World) -> None:
    """A handshake is bounded by httpx's `timeout`."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        world.client(timeout=0.2) as call,
        pytest.raises(httpx.ConnectTimeout),
    ):
        call(f"https://127.0.0.1:{silent.getsockname()[1]}/", hotkey=world.miner.hotkey)


def test_server_of_an_older_tls_is_not_called(world: World, server: TlsServer) -> None:
    """It would be sent the pair before it has proven anything."""
    server._context.maximum_version = ssl.TLSVersion.TLSv1_2
    with world.client() as call, pytest.raises(httpx.ConnectError):
        call(server.url, hotkey=world.miner.hotkey)
    assert [each.client for each in server.connections] == [None]


# Without an event loop.


def test_many_threads_share_a_client(tmp_path: Path) -> None:
    """While keys rotate; each answer is one of the hotkey that was called."""
    world = World("sync", tmp_path)
    other = world.subnet.register("other")
    with (
        running_server(world.miner) as first,
        running_server(other) as second,
        world.client() as call,
        ThreadPoolExecutor(8) as threads,
    ):
        first.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
        second.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsecnd"
        calls = []
        for number in range(120):
            if number % 40 == 20:
                second.show(world.subnet.rotate(other))
            target, hotkey = (first, world.miner.hotkey) if number % 2 else (second, other.hotkey)
            calls.append((number % 2, threads.submit(call, f"{target.url}/", hotkey=hotkey)))
        for is_first, each in calls:
            try:
                assert each.result(30).text == ("first" if is_first else "secnd")
            except ServerKeyMismatch:
                assert not is_first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_process_opens_connections_of_its_own(tmp_path: Path) -> None:
    """Two processes cannot share a TLS connection: both go on, each with its own."""
    world = World("sync", tmp_path)
    caller = Caller(registry=world.subnet.registry, certificates=world.certificates)
    with (
        running_server(world.miner) as server,
        SyncCaller(caller) as sync,
        sync.http_client(hotkeys={server.host: world.miner.hotkey}) as http,
    ):
        context = sync.tls_context(world.miner.hotkey)
        assert http.get(server.url).status_code == 200
        child = os.fork()
        if child == 0:  # pragma: no cover - runs in the child
            try:
                answered = http.get(server.url).status_code == 200
                with socket.create_connection(("127.0.0.1", server.port)) as raw:
                    context.wrap_socket(raw).close()
                os._exit(0 if answered else 1)
            except BaseException:  # noqa: BLE001 - nothing may return into the parent's test run
                sys.excepthook(*sys.exc_info())
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert http.get(server.url).status_code == 200
        assert [len(each.requests) for each in server.connections] == [2, 1, 0]


def test_context_without_an_event_loop_follows_the_registry(tmp_path: Path) -> None:
    """Each handshake looks the key up, and fails where that fails."""
    world = World("sync", tmp_path)
    caller = Caller(registry=world.subnet.registry, certificates=world.certificates)
    with (
        running_server(world.miner, trusts=(world.validator,)) as server,
        SyncCaller(caller) as sync,
    ):
        context = sync.tls_context(world.miner.hotkey)

        def shake() -> None:
            with socket.create_connection(("127.0.0.1", server.port)) as raw:
                context.wrap_socket(raw).close()

        shake()
        renewed = world.subnet.rotate(world.miner)
        with pytest.raises(ServerKeyMismatch):
            shake()
        server.show(renewed)
        shake()
        world.subnet.registry.available = False
        with pytest.raises(ServerNotProven) as unknown:
            shake()
        assert isinstance(unknown.value.__cause__, RegistryUnavailable)
        world.subnet.registry.available = True
        world.subnet.registry.unregister(world.miner.hotkey)
        with pytest.raises(ServerKeyUnknown, match="no key is registered for it") as caught:
            shake()
        assert isinstance(caught.value, ssl.SSLCertVerificationError)
