"""gRPC through the sidecar, with grpcio at both ends."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from examples.grpc_caller import grpc_target
from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.tls.context import PinnedContext
from nexus_auth.domain.ports import Registration
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.proxies.client import ask, ask_http2, http1_request
from tests.integration.proxies.scenarios import everything_forged
from tests.integration.proxies.stack import make_people, make_server_certificate
from tests.integration.real import wait_until_ready
from tests.integration.sidecar.running import RunningSidecar, identity_files, running_sidecar

pytestmark = pytest.mark.timeout(120)

ALICE, BOB = (a_hotkey(name).address for name in ("alice", "bob"))
METHODS = ("/t/one", "/t/down", "/t/up", "/t/both")
REQUEST = b"\0\0\0\0\x05hello"
"""One message on the wire: not compressed, five bytes."""


class Servicer:
    """Answers with what it gets; keeps the metadata of each call."""

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[str, str | bytes], ...]] = []

    def one(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._note(context)
        return request

    def down(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._note(context)
        yield from [request] * 3

    def up(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        self._note(context)
        return b"".join(requests)

    def both(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._note(context)
        yield from requests

    def _note(self, context: grpc.ServicerContext) -> None:
        self.seen.append(tuple((key, value) for key, value in context.invocation_metadata()))


@contextmanager
def grpc_server(servicer: Servicer) -> Iterator[int]:
    """A real grpcio server without TLS on loopback."""
    handlers: dict[str, Any] = {
        "one": grpc.unary_unary_rpc_method_handler(servicer.one),
        "down": grpc.unary_stream_rpc_method_handler(servicer.down),
        "up": grpc.stream_unary_rpc_method_handler(servicer.up),
        "both": grpc.stream_stream_rpc_method_handler(servicer.both),
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[RunningSidecar, Servicer]]:
    """A sidecar before a grpcio server."""
    servicer = Servicer()
    with (
        TemporaryDirectory(prefix="nexus-auth-") as folder,
        grpc_server(servicer) as port,
        running_sidecar(Path(folder), f"127.0.0.1:{port}", until_granted=False) as sidecar,
    ):
        is_granted = lambda: call_raw(sidecar, "alice")[0] == "0"  # noqa: E731 - short
        wait_until_ready(is_granted, what="a grant", process=sidecar.process)
        yield sidecar, servicer


def call_raw(
    sidecar: RunningSidecar, who: str, **more: Any
) -> tuple[str | None, str | None, bytes]:
    """One unary call over HTTP/2 by hand; its `grpc-status`, the reason of a denial, the body."""
    headers = [("content-type", "application/grpc"), *more.pop("headers", ())]
    headers += [] if any(name == "te" for name, _ in headers) else [("te", "trailers")]
    answer = ask_http2(
        sidecar.port,
        sidecar.people[who],
        method="POST",
        target="/t/one",
        headers=headers,
        body=REQUEST,
        **more,
    )
    # The test's client reads trailers for nothing; a message is the whole of a good answer.
    status = answer.header("grpc-status") or ("0" if answer.body == REQUEST else None)
    return status, answer.header("x-nexus-auth-reason"), answer.body


def context_of(
    sidecar: RunningSidecar, who: str, *, server_key: bytes | None = None
) -> ssl.SSLContext:
    """A context that shows the pair of somebody, to a server with this key or the sidecar's own."""
    served = CredentialsDirectory(sidecar.folder / "certs").load_private_key()
    key = server_key or Ed25519PrivateKey.from_private_bytes(served).public_key().public_bytes_raw()
    registration = Registration(public_key=key, expires_at=utc_now() + timedelta(hours=1))
    context = PinnedContext(hotkey=a_hotkey("miner"), expected=lambda: registration)
    if sidecar.people[who].certificate is not None:
        context.load_cert_chain(*identity_files(sidecar.people[who]))
    return context


@asynccontextmanager
async def channel_of(
    sidecar: RunningSidecar, context: ssl.SSLContext
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel as the example makes it."""
    async with (
        grpc_target(context, "127.0.0.1", sidecar.port) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        yield channel


async def _messages() -> AsyncIterator[bytes]:
    for number in range(3):
        yield b"%d" % number


async def test_grpcio_calls_grpcio_in_every_way(running: tuple[RunningSidecar, Servicer]) -> None:
    """Unary and streaming, both ways; each call carries the caller's own hotkey alone."""
    sidecar, servicer = running
    count = len(servicer.seen)
    metadata = (("x-hotkey", BOB), ("mine", "too"))
    async with channel_of(sidecar, context_of(sidecar, "alice")) as opened:
        channel: Any = opened  # without generated stubs, its types are nobody's
        assert await channel.unary_unary("/t/one")(b"hi", metadata=metadata) == b"hi"
        down = channel.unary_stream("/t/down")(b"hi", metadata=metadata)
        assert [each async for each in down] == [b"hi"] * 3
        assert await channel.stream_unary("/t/up")(_messages(), metadata=metadata) == b"012"
        both = channel.stream_stream("/t/both")(_messages(), metadata=metadata)
        assert [each async for each in both] == [b"0", b"1", b"2"]
    seen = servicer.seen[count:]
    assert len(seen) == len(METHODS)
    for each in seen:
        assert [value for key, value in each if key == "x-hotkey"] == [ALICE]
        assert ("mine", "too") in each
        assert not any("certificate" in key or "client-cert" in key for key, _ in each)


@pytest.mark.parametrize(
    ("who", "reason"),
    [("nobody", "no-certificate"), ("carol", "not-registered"), ("expired", "expired")],
)
async def test_a_denied_caller_gets_a_status_of_grpc(
    running: tuple[RunningSidecar, Servicer], who: str, reason: str
) -> None:
    """PERMISSION_DENIED with the reason, and the servicer is not called."""
    sidecar, servicer = running
    count = len(servicer.seen)
    async with channel_of(sidecar, context_of(sidecar, who)) as opened:
        channel: Any = opened
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t/one")(b"hi", metadata=(("x-hotkey", ALICE),))
    error = caught.value
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert (error.details() or "").startswith("Access denied")
    found = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
    assert ("x-nexus-auth-reason", reason) in found
    assert len(servicer.seen) == count


async def test_a_server_with_another_key_gets_nothing(
    running: tuple[RunningSidecar, Servicer],
) -> None:
    """The call is UNAVAILABLE, and the servicer is not called."""
    sidecar, servicer = running
    count = len(servicer.seen)
    other = public_bytes(a_key("another"))
    async with channel_of(sidecar, context_of(sidecar, "alice", server_key=other)) as opened:
        channel: Any = opened
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/t/one")(b"hi")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert len(servicer.seen) == count


@pytest.mark.parametrize("announced", [True, False])
def test_no_forged_hotkey_reaches_a_servicer(
    running: tuple[RunningSidecar, Servicer], *, announced: bool
) -> None:
    """Neither in headers nor in trailers, which gRPC passes on as HTTP/2 has them."""
    sidecar, servicer = running
    count = len(servicer.seen)
    stack: Any = sidecar  # what the table of scenarios reads of it: who calls
    forged = [(name.lower(), value) for name, value in everything_forged(stack)]
    announcing = [("trailer", "x-hotkey")] if announced else []
    call_raw(sidecar, "alice", headers=[*forged, *announcing])
    call_raw(sidecar, "alice", trailers=[("x-hotkey", BOB), ("x_hotkey", BOB)])
    for each in servicer.seen[count:]:
        assert [value for key, value in each if "hotkey" in key] == [ALICE]
        assert BOB not in repr(each)
    assert len(servicer.seen) > count


class RawServer:
    """Keeps all bytes that reach it over HTTP/2 without TLS, decoded, and answers nothing."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection:
            self._exchange(connection)

    def _exchange(self, connection: socket.socket) -> None:
        state = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        state.initiate_connection()
        connection.sendall(state.data_to_send())
        while data := connection.recv(65536):
            for event in state.receive_data(data):
                self.events.append(event)
                if isinstance(event, h2.events.StreamEnded):
                    state.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
            connection.sendall(state.data_to_send())

    def close(self) -> None:
        """Waits for the end of the connection, which Envoy's end brings."""
        self._thread.join(20)
        self._listener.close()


def test_forged_trailers_do_not_leave_envoy() -> None:
    """Whatever an HTTP/2 server makes of trailers, it gets none that say who calls."""
    server = RawServer()
    with (
        TemporaryDirectory(prefix="nexus-auth-") as folder,
        running_sidecar(Path(folder), f"127.0.0.1:{server.port}", until_granted=False) as sidecar,
    ):

        def is_there() -> bool:
            call_raw(
                sidecar,
                "alice",
                trailers=[("x-hotkey", BOB), ("x_hotkey", BOB), ("x.hotkey", BOB), ("a", "b")],
            )
            return any(isinstance(each, h2.events.TrailersReceived) for each in server.events)

        wait_until_ready(is_there, what="trailers", process=sidecar.process)
    server.close()
    for event in server.events:
        if isinstance(event, h2.events.TrailersReceived):
            assert [(str(name), str(value)) for name, value in event.headers or []] == [("a", "b")]
        if isinstance(event, h2.events.RequestReceived):
            headers = [(str(name), str(value)) for name, value in event.headers or []]
            assert [value for name, value in headers if "hotkey" in name] == [ALICE]


def test_a_caller_over_http1_that_claims_grpc_is_decided_on_as_any_other(
    running: tuple[RunningSidecar, Servicer],
) -> None:
    """The way to the application changes with the type of the content, the decision does not."""
    sidecar, servicer = running
    count = len(servicer.seen)
    request = http1_request(
        method="POST", target="/t/one", headers=[("Content-Type", "application/grpc")]
    )
    answer = ask(sidecar.port, sidecar.people["carol"], request)
    assert answer.header("grpc-status") == "7"
    assert len(servicer.seen) == count


# Why grpcio needs the sidecar, and a caller with grpcio a tunnel. When one of these tests fails,
# grpcio has learnt it: then docs/sidecar.md has to say so.


def _call(port: int, credentials: grpc.ChannelCredentials) -> object:
    with grpc.secure_channel(f"localhost:{port}", credentials) as opened:
        channel: Any = opened
        try:
            return channel.unary_unary("/t/one")(b"hi", timeout=10)
        except grpc.RpcError as exc:
            return exc.code()


@contextmanager
def secure_server(make: Callable[[Path], grpc.ServerCredentials], folder: Path) -> Iterator[int]:
    """A grpcio server that terminates TLS itself."""
    handlers: dict[str, Any] = {
        "one": grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    }
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
    port = server.add_secure_port("localhost:0", make(folder))
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_grpcio_as_a_server_accepts_no_ed25519_client_certificate(tmp_path: Path) -> None:
    """Not even one that it is given as an authority; one step away, without it, all is well."""
    alice = identity_files(make_people(tmp_path)["alice"])
    certificate, key = (path.read_bytes() for path in make_server_certificate(tmp_path))
    pair, shown = [(key, certificate)], [path.read_bytes() for path in alice]

    def strict(_: Path) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(pair, shown[0], require_client_auth=True)

    def open_to_all(_: Path) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(pair)

    credentials = grpc.ssl_channel_credentials(certificate, shown[1], shown[0])
    with secure_server(strict, tmp_path) as port:
        assert _call(port, credentials) == grpc.StatusCode.UNAVAILABLE
    with secure_server(open_to_all, tmp_path) as port:
        assert _call(port, credentials) == b"hi"


def test_grpcio_as_a_client_accepts_no_server_with_an_ed25519_key(
    running: tuple[RunningSidecar, Servicer],
) -> None:
    """So it cannot call a server that shows the pair of `generate`, whatever it trusts."""
    sidecar, _ = running
    served = (sidecar.folder / "certs" / "client.crt").read_bytes()
    certificate, key = (path.read_bytes() for path in identity_files(sidecar.people["alice"]))
    credentials = grpc.ssl_channel_credentials(served, key, certificate)
    assert _call(sidecar.port, credentials) == grpc.StatusCode.UNAVAILABLE
