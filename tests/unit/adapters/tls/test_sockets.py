"""A blocking socket with TLS on top: nothing passes by TLS, and nothing waits where it need not."""

from __future__ import annotations

import io
import pickle
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nexus_auth.adapters.tls.context import PinnedContext, ServerKeyRefused
from nexus_auth.adapters.tls.sockets import PinnedSocket
from nexus_auth.domain.errors import CredentialsError
from tests.builders import a_key
from tests.tls_pairs import (
    Registry,
    is_client_hello_alone,
    pinned_context,
    server_context,
    write_pair,
)

REFUSED = (
    *("accept", "bind", "connect", "connect_ex", "detach", "dup", "listen"),
    *("recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into", "sendmsg", "sendto"),
)
"""What would read or write beside TLS, or give the bare socket away."""
THROUGH_TLS = {
    *("recv", "recv_into", "send", "sendall", "sendfile", "makefile"),
    *("settimeout", "setblocking"),
}
HARMLESS = {
    *("close", "family", "fileno", "get_inheritable", "getblocking", "getpeername"),
    *("getsockname", "getsockopt", "gettimeout", "proto", "set_inheritable", "setsockopt"),
    *("shutdown", "timeout", "type"),
}
"""Carry no content."""
OF_OTHER_SYSTEMS = {"ioctl", "share", "sendmsg_afalg"}
"""Of Windows, and of sockets that are no connection."""


@pytest.fixture
def context(tmp_path: Path) -> PinnedContext:
    """The caller's context, for the miner."""
    return pinned_context(write_pair(tmp_path / "caller", "caller"))


@contextmanager
def served(
    server: ssl.SSLContext, serve: Callable[[ssl.SSLSocket], object]
) -> Iterator[socket.socket]:
    """A socket, at whose other end a function serves over TLS."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    theirs.settimeout(20)

    def run() -> None:
        with suppress(OSError), server.wrap_socket(theirs, server_side=True) as end:
            serve(end)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        theirs.close()
        thread.join(20)
        assert not thread.is_alive()


def echo(end: ssl.SSLSocket) -> None:
    """Sends back what comes, and takes no more before that is gone."""
    while received := end.recv(16384):
        end.sendall(received)


@pytest.fixture
def echoing(context: PinnedContext, tmp_path: Path) -> Iterator[PinnedSocket]:
    """A connection to a miner that sends everything back."""
    with served(server_context(tmp_path), echo) as bare, context.wrap_socket(bare) as connection:
        yield connection


def test_every_method_of_a_socket_is_looked_at() -> None:
    """A new one of a new Python fails here, before it can pass by TLS."""
    public = {name for name in dir(socket.socket) if not name.startswith("_")}
    assert public <= {*REFUSED, *THROUGH_TLS, *HARMLESS, *OF_OTHER_SYSTEMS}
    sending = {name for name in dir(socket.socket) if "send" in name or "recv" in name}
    private = {name for name in sending if name.startswith("_")}
    assert private == {*("_check_sendfile_params", "_sendfile_use_send", "_sendfile_use_sendfile")}


@pytest.mark.parametrize("name", [*REFUSED, "_sendfile_use_sendfile"])
def test_method_that_passes_by_tls_is_refused(echoing: PinnedSocket, name: str) -> None:
    """No plaintext, neither in nor out."""
    with pytest.raises(NotImplementedError):
        getattr(echoing, name)(b"plain", 1)


@pytest.mark.parametrize("name", ["recv", "recv_into", "send", "sendall"])
def test_flags_are_refused(echoing: PinnedSocket, name: str) -> None:
    """MSG_PEEK and MSG_OOB mean bytes of the bare connection."""
    argument = {"recv": 10, "recv_into": bytearray(10)}.get(name, b"plain")
    with pytest.raises(ValueError, match="flags"):
        getattr(echoing, name)(argument, flags=socket.MSG_PEEK)


def test_socket_is_as_one_of_ssl(echoing: PinnedSocket, tmp_path: Path) -> None:
    """What libraries use of it."""
    assert echoing.send(b"hello") == 5
    assert echoing.recv(3) == b"hel"
    assert echoing.pending() == 2
    buffer = bytearray(10)
    assert echoing.recv_into(memoryview(buffer)[:1]) == 1
    assert echoing.recv_into(buffer) == 1
    assert buffer[:1] == b"o"
    assert echoing.recv(0) == b""
    assert echoing.recv_into(bytearray()) == 0
    assert echoing.pending() == 0
    assert echoing.version() == "TLSv1.3"
    assert echoing.cipher() is not None
    assert echoing.selected_alpn_protocol() is None
    assert echoing.getpeercert(True)  # noqa: FBT003 - as of `ssl`
    with echoing.makefile("rwb") as file:
        file.write(b"a line\nmore")
        file.flush()
        assert file.readline() == b"a line\n"
        assert file.read(4) == b"more"
    file_on_disk = tmp_path / "content"
    file_on_disk.write_bytes(b"0123456789")
    with file_on_disk.open("rb") as content:
        assert echoing.sendfile(content, 2, 5) == 5
        assert content.tell() == 7
    with echoing.makefile("rb") as file:
        assert file.read(5) == b"23456"
    with pytest.raises(ValueError, match="count"):
        echoing.sendfile(io.BytesIO(b"x"), 0, -1)
    with pytest.raises(TypeError):
        pickle.dumps(echoing)


def test_reading_much_takes_no_more_room_than_comes(echoing: PinnedSocket) -> None:
    """The number is the server's to choose, in many protocols."""
    echoing.sendall(b"x")
    tracemalloc.start()
    try:
        assert echoing.recv(1 << 40) == b"x"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("timeout", [0, 0.0])
def test_socket_that_does_not_block_is_refused(context: PinnedContext, timeout: float) -> None:
    """Before it is taken over: it is still its owner's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(timeout)
        with pytest.raises(ValueError, match="blocks"):
            context.wrap_socket(ours)
        assert ours.fileno() >= 0


def test_socket_always_blocks(echoing: PinnedSocket) -> None:
    """A half-written record could not be told to the caller."""
    with pytest.raises(ValueError, match="always blocks"):
        echoing.settimeout(0)
    with pytest.raises(ValueError, match="always blocks"):
        echoing.setblocking(False)  # noqa: FBT003
    echoing.setblocking(True)  # noqa: FBT003
    assert echoing.gettimeout() is None
    echoing.settimeout(20)
    echoing.sendall(b"x")
    assert echoing.recv(1) == b"x"


def test_socket_without_a_connection_is_closed(context: PinnedContext) -> None:
    """As one of `ssl` would, it could be connected to anything later on."""
    bare = socket.socket()
    with pytest.raises(OSError, match="not connected"):
        context.wrap_socket(bare)
    assert bare.fileno() == -1


def test_pair_that_cannot_be_used_leaves_the_socket_to_its_owner(
    context: PinnedContext, tmp_path: Path
) -> None:
    """Nothing was taken over, and nothing was sent."""
    (tmp_path / "caller" / "client.key").unlink()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(CredentialsError):
            context.wrap_socket(ours)
        ours.close()
        assert theirs.recv(1) == b""


def test_impostor_is_refused_and_the_socket_closed(context: PinnedContext, tmp_path: Path) -> None:
    """The error is that of the check."""
    impostor = server_context(tmp_path, key=a_key("impostor"))
    with served(impostor, echo) as bare:
        with pytest.raises(ServerKeyRefused):
            context.wrap_socket(bare)
        assert bare.fileno() == -1


@pytest.mark.parametrize("step", ["recv", "send", "sendall", "recv_into"])
def test_nothing_is_read_or_written_before_the_handshake(context: PinnedContext, step: str) -> None:
    """With `do_handshake_on_connect=False`, the owner completes it; no byte leaves before."""
    ours, theirs = socket.socketpair()
    with theirs, context.wrap_socket(ours, do_handshake_on_connect=False) as connection:
        with pytest.raises(ssl.SSLError, match="not proven"):
            getattr(connection, step)({"recv": 1, "recv_into": bytearray(1)}.get(step, b"secret"))
        connection.close()
        assert theirs.recv(1) == b""


def test_handshake_may_be_completed_later(context: PinnedContext, tmp_path: Path) -> None:
    """Once, and then again, which does nothing."""
    with (
        served(server_context(tmp_path), echo) as bare,
        context.wrap_socket(bare, do_handshake_on_connect=False) as connection,
    ):
        connection.do_handshake()
        connection.do_handshake()
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"


def test_failed_handshake_is_no_way_in(tmp_path: Path) -> None:
    """Whoever ignores the error gets another one, and the impostor gets nothing."""
    context = pinned_context(write_pair(tmp_path / "caller", "caller"))
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    got = bytearray()

    def serve() -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        impostor = server_context(tmp_path, key=a_key("impostor"))
        end = impostor.wrap_bio(incoming, outgoing, server_side=True)
        while received := theirs.recv(65536):
            got.extend(received)
            incoming.write(received)
            with suppress(ssl.SSLError):
                end.do_handshake()
            theirs.sendall(outgoing.read())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    ours.settimeout(20)
    with theirs, context.wrap_socket(ours, do_handshake_on_connect=False) as connection:
        for _ in range(2):
            with pytest.raises(ServerKeyRefused):
                connection.do_handshake()
            with pytest.raises(ssl.SSLError, match="not proven"):
                connection.sendall(b"secret")
            with pytest.raises(ssl.SSLError, match="not proven"):
                connection.recv(1)
        connection.close()
        thread.join(20)
    assert is_client_hello_alone(got)


def test_server_that_says_nothing_is_given_up(context: PinnedContext) -> None:
    """After the socket's timeout, and the socket is closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.settimeout(0.05)
        with pytest.raises(TimeoutError):
            context.wrap_socket(ours)
        assert ours.fileno() == -1


def test_server_that_drips_is_given_up(context: PinnedContext) -> None:
    """The timeout is for the whole handshake, not for each byte of it."""
    ours, theirs = socket.socketpair()
    ends = threading.Event()

    def drip() -> None:
        # The head of a record that never ends.
        with suppress(OSError):
            theirs.sendall(b"\x16\x03\x03\x40\x00")
            while not ends.wait(0.02):
                theirs.sendall(b"\x02")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    with theirs:
        ours.settimeout(0.5)
        with pytest.raises(TimeoutError):
            context.wrap_socket(ours)
        ends.set()
        thread.join(20)


def test_reading_stops_after_the_timeout_and_may_go_on(echoing: PinnedSocket) -> None:
    """Nothing is lost by it."""
    echoing.settimeout(0.05)
    with pytest.raises(TimeoutError):
        echoing.recv(1)
    echoing.settimeout(20)
    echoing.sendall(b"x")
    assert echoing.recv(1) == b"x"


def test_writing_stops_after_the_timeout(context: PinnedContext, tmp_path: Path) -> None:
    """A server that takes nothing."""
    ends = threading.Event()
    with (
        served(server_context(tmp_path), lambda _: ends.wait(20)) as bare,
        context.wrap_socket(bare) as connection,
    ):
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.sendall(bytes(10_000_000))
        ends.set()


@pytest.mark.parametrize("suppresses", [True, False])
def test_end_without_a_farewell(context: PinnedContext, tmp_path: Path, suppresses: bool) -> None:  # noqa: FBT001
    """As `ssl` does it: the end, or an error where the caller wants to know (truncation)."""

    def cut(end: ssl.SSLSocket) -> None:
        end.sendall(b"x")
        end.shutdown(socket.SHUT_RDWR)

    with (
        served(server_context(tmp_path), cut) as bare,
        context.wrap_socket(bare, suppress_ragged_eofs=suppresses) as connection,
    ):
        assert connection.recv(10) == b"x"
        for _ in range(2):
            if suppresses:
                assert connection.recv(10) == b""
            else:
                with pytest.raises(ssl.SSLEOFError):
                    connection.recv(10)


def test_reader_ends_when_another_thread_shuts_the_socket_down(echoing: PinnedSocket) -> None:
    """As with any socket: `shutdown` wakes a reader."""
    waiting = threading.Timer(0.05, echoing.shutdown, [socket.SHUT_RDWR])
    waiting.start()
    assert echoing.recv(1) == b""
    waiting.join()
    echoing.close()
    with pytest.raises(OSError, match=r"Bad file descriptor|EOF|closed"):
        echoing.sendall(b"x")


def test_large_transfers_go_both_ways_at_once(echoing: PinnedSocket) -> None:
    """The server takes no more before its own bytes are read: reader and writer must not wait."""
    content = bytes(range(256)) * 40_000
    got = bytearray()

    def read() -> None:
        while len(got) < len(content):
            got.extend(echoing.recv(100_000))

    reader = threading.Thread(target=read)
    reader.start()
    echoing.sendall(content)
    reader.join(30)
    assert got == content


def test_rotation_between_two_sockets_is_seen(tmp_path: Path) -> None:
    """One context, two connections."""
    registry = Registry()
    context = pinned_context(write_pair(tmp_path / "caller", "caller"), registry)
    with served(server_context(tmp_path), echo) as bare, context.wrap_socket(bare):
        registry.key = "rotated"
    with served(server_context(tmp_path), echo) as bare, pytest.raises(ServerKeyRefused):
        context.wrap_socket(bare)


def test_threads_share_a_context_while_its_pair_changes(tmp_path: Path) -> None:
    """Each handshake shows a whole pair."""
    folder = write_pair(tmp_path / "caller", "caller")
    context, server = pinned_context(folder), server_context(tmp_path, asks=None)
    problems: list[BaseException] = []

    def call() -> None:
        try:
            for _ in range(15):
                # Between the two files, for longer than the tries last.
                with (
                    suppress(CredentialsError),
                    served(server, echo) as bare,
                    context.wrap_socket(bare) as connection,
                ):
                    connection.sendall(b"x")
                    assert connection.recv(1) == b"x"
        except BaseException as exc:  # noqa: BLE001 - the test shows it
            problems.append(exc)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(20):
        new = write_pair(tmp_path / "new", "caller", key=f"key {number}")
        for name in ("client.key", "client.crt"):
            (new / name).replace(folder / name)
    for thread in threads:
        thread.join(30)
    assert problems == []


def test_server_side_is_refused(context: PinnedContext) -> None:
    """The socket stays its owner's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ValueError, match="client's"):
            context.wrap_socket(ours, server_side=True)
        assert ours.fileno() >= 0


def test_reader_leaves_to_the_writer_what_cannot_be_sent(echoing: PinnedSocket) -> None:
    """While one thread sends, another one's reading goes on."""
    echoing.sendall(b"x")
    got: list[bytes] = []
    with echoing._sending:
        reader = threading.Thread(target=lambda: got.append(echoing.recv(1)))
        reader.start()
        reader.join(20)
    assert got == [b"x"]
