"""Every library that takes a context, against a real server and an impostor that records."""

from __future__ import annotations

import gc
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nexus_auth.domain.errors import (
    RegistryUnavailable,
    ServerKeyMismatch,
    ServerKeyUnknown,
    ServerNotProven,
)
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.server import fingerprint_of
from tests.builders import a_key, public_bytes
from tests.integration.tls.callers import CALLS
from tests.integration.tls.recording import RecordingServer, Relay
from tests.tls_pairs import (
    CALLER,
    MINER,
    Registry,
    is_client_hello_alone,
    pinned_context,
    server_context,
    today_certificate,
    write_pair,
)

LIBRARIES = pytest.mark.parametrize("library", list(CALLS))


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """A socket that is left open is an error of the test that left it."""
    yield
    gc.collect()


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    """The context of the caller, for the miner."""
    return pinned_context(write_pair(tmp_path / "caller", "caller"))


def url_of(server: RecordingServer | Relay, host: str | None = None) -> str:
    """Where a server is reached."""
    host = host or server.host
    return f"https://{f'[{host}]' if ':' in host else host}:{server.port}/secret"


def refused(library: str, url: str, context: ssl.SSLContext) -> BaseException:
    """Calls, and gives what the library raises."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each library has errors of its own
        CALLS[library](url, context)
    return raised.value


@LIBRARIES
def test_miner_is_reached_with_the_pair(
    library: str, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """The right key: the request arrives, with the caller's certificate."""
    with RecordingServer(server_context(tmp_path)) as server:
        assert CALLS[library](url_of(server), context) in {b"well", b""}
        record = server.connection()
    assert record.completed
    assert record.caller == CALLER.address
    assert record.plaintext.startswith(b"GET /secret HTTP/1.1\r\n")


@LIBRARIES
def test_impostor_gets_the_first_message_alone(
    library: str, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """The right address and the wrong key: a ClientHello, and the end of the connection.

    No certificate, no Finished message, no byte of the request, and no alert either.
    """
    with RecordingServer(server_context(tmp_path, key=a_key("impostor"))) as server:
        error = ServerNotProven.find(refused(library, url_of(server), context))
        record = server.connection()
    assert is_client_hello_alone(record.raw)
    assert record.gained_nothing
    assert record.end in {"closed", "reset"}
    assert len(server.connections) == 1
    assert isinstance(error, ServerKeyMismatch)
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert error.hotkey == MINER.address
    assert error.expected == fingerprint_of(public_bytes(a_key("miner")))
    assert error.found == fingerprint_of(public_bytes(a_key("impostor")))


@LIBRARIES
def test_server_of_older_versions_gets_the_first_message_alone(
    library: str, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """TLS 1.2 would show it the caller's certificate."""
    old = server_context(tmp_path)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with RecordingServer(old) as server:
        refused(library, url_of(server), context)
        record = server.connection()
    assert is_client_hello_alone(record.raw)
    assert record.gained_nothing


@LIBRARIES
def test_unknown_key_sends_nothing(library: str, tmp_path: Path) -> None:
    """Where no key may be used now, the miner itself gets no more than an impostor."""
    folder = write_pair(tmp_path / "caller", "caller")
    with RecordingServer(server_context(tmp_path)) as server:
        error = refused(library, url_of(server), pinned_context(folder, Registry(key=None)))
        record = server.connection()
    assert isinstance(ServerNotProven.find(error), ServerKeyUnknown)
    assert is_client_hello_alone(record.raw)
    assert not record.completed


def _unavailable() -> Registration:
    raise RegistryUnavailable("no news")


@LIBRARIES
def test_registry_that_cannot_answer_sends_nothing(library: str, tmp_path: Path) -> None:
    """An error of ours in the middle of a handshake ends it."""
    folder = write_pair(tmp_path / "caller", "caller")
    with RecordingServer(server_context(tmp_path)) as server:
        error = refused(library, url_of(server), pinned_context(folder, _unavailable))
        record = server.connection()
    assert "(no news)" in str(ServerNotProven.find(error))
    assert is_client_hello_alone(record.raw)
    assert not record.completed


@LIBRARIES
def test_relay_sees_nothing_of_what_it_passes_on(
    library: str, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """An impostor may pass everything on to the miner: the miner is who was called."""
    with RecordingServer(server_context(tmp_path)) as server, Relay(server.port) as relay:
        assert CALLS[library](url_of(relay), context) in {b"well", b""}
        record = server.connection()
    assert record.caller == CALLER.address
    assert b"secret" not in relay.seen
    assert b"well" not in relay.seen
    assert CALLER.address.encode() not in relay.seen


@LIBRARIES
def test_relay_to_another_hotkey_is_refused(
    library: str, context: ssl.SSLContext, tmp_path: Path
) -> None:
    """Not even where the miner has registered the other's key as its own."""
    chain = (today_certificate("other", a_key("miner")),)
    served = server_context(tmp_path, chain=chain)
    with RecordingServer(served) as server, Relay(server.port) as relay:
        error = ServerNotProven.find(refused(library, url_of(relay), context))
        record = server.connection()
    assert isinstance(error, ServerKeyMismatch)
    assert error.named is not None
    assert is_client_hello_alone(record.raw)


@LIBRARIES
@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_address_may_be_of_any_kind(
    library: str, context: ssl.SSLContext, tmp_path: Path, host: str
) -> None:
    """IPv6 literals and names; the certificate names neither."""
    address = "127.0.0.1" if host == "localhost" else host
    with RecordingServer(server_context(tmp_path), address) as server:
        assert CALLS[library](url_of(server, host), context) in {b"well", b""}
        assert server.connections[-1].wait().completed


@LIBRARIES
def test_rotated_key_is_refused_by_the_next_connection(library: str, tmp_path: Path) -> None:
    """One context for the whole life of a program."""
    registry = Registry()
    context = pinned_context(write_pair(tmp_path / "caller", "caller"), registry)
    with RecordingServer(server_context(tmp_path)) as server:
        CALLS[library](url_of(server), context)
        assert server.connection(0).completed
        registry.key = "rotated"
        error = ServerNotProven.find(refused(library, url_of(server), context))
        assert isinstance(error, ServerKeyMismatch)
        assert is_client_hello_alone(server.connection(1).raw)


def _descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def _calls_that_fail(tmp_path: Path) -> list[Callable[[str], None]]:
    folder = write_pair(tmp_path / "caller", "caller")

    def against(server: ssl.SSLContext, registry: Registry) -> Callable[[str], None]:
        def call(library: str) -> None:
            with RecordingServer(server) as running:
                refused(library, url_of(running), pinned_context(folder, registry))
                running.connection()

        return call

    old = server_context(tmp_path)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    return [
        against(server_context(tmp_path, key=a_key("impostor")), Registry()),
        against(server_context(tmp_path), Registry(key=None)),
        against(old, Registry()),
    ]


@LIBRARIES
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts as Linux does")
def test_refusals_leave_no_file_open(library: str, tmp_path: Path) -> None:
    """A program that calls many impostors keeps its descriptors."""
    calls = _calls_that_fail(tmp_path)
    for call in calls:
        call(library)
    before, threads = _descriptors(), threading.active_count()
    for call in calls * 2:
        call(library)
    assert _descriptors() <= before
    assert threading.active_count() <= threads
