from __future__ import annotations

import socket
from pathlib import Path

import pytest

from nexus_auth.adapters.addresses import (
    SocketFile,
    TcpAddress,
    UnixAddress,
    bind,
    parse_listen_address,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":8080", TcpAddress("", 8080)),
        (":0", TcpAddress("", 0)),
        ("127.0.0.1:65535", TcpAddress("127.0.0.1", 65535)),
        ("localhost:80", TcpAddress("localhost", 80)),
        ("localhost:http", TcpAddress("localhost", 80)),
        (":https", TcpAddress("", 443)),
        ("[::1]:8080", TcpAddress("::1", 8080)),
        ("[fe80::1%eth0]:1", TcpAddress("fe80::1%eth0", 1)),
        ("unix:/run/nexus auth.sock", UnixAddress(Path("/run/nexus auth.sock"))),
    ],
)
def test_address_of_a_known_form_is_read(text: str, expected: object) -> None:
    """Every form that the contract names is understood."""
    assert parse_listen_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":",
        ":x",
        ":no-such-service",
        ":HTTP",
        "http",
        ":65536",
        ":-1",
        ":080808",
        "::1:8080",
        "[::1]",
        "[::1]8080",
        "http://127.0.0.1:80",
        "host/path:80",
        "unix:relative.sock",
        "unix:",
        ":8080 ",
        ":8080\n",
        ":٨٠",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """What is not an address is not guessed at; the message says what is expected."""
    with pytest.raises(ValueError, match=r"expected|absolute path"):
        parse_listen_address(text)


@pytest.mark.parametrize("text", [":8080", "127.0.0.1:1", "[::1]:8080", "unix:/run/a.sock"])
def test_address_prints_as_it_is_written(text: str) -> None:
    """`str` gives back what `parse_listen_address` reads."""
    assert str(parse_listen_address(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/a.sock", True),
        (":1", False),
        ("0.0.0.0:1", False),
        ("example.org:1", False),
    ],
)
def test_loopback_is_recognised(text: str, expected: bool) -> None:  # noqa: FBT001 - a table
    """Only what this machine alone can reach counts as loopback."""
    assert parse_listen_address(text).is_loopback is expected


def test_bound_tcp_address_accepts_connections() -> None:
    """`bind` listens at once."""
    with (
        bind(TcpAddress("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=1),
    ):
        pass


@pytest.mark.parametrize("host", ["", "::"])
def test_every_interface_is_both_families(host: str) -> None:
    """`:8080` and `[::]:8080` mean every interface, IPv4 and IPv6 alike, as in the original."""
    with bind(TcpAddress(host, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            pass
        if socket.has_dualstack_ipv6():
            with socket.create_connection(("::1", port), timeout=1):
                pass


def test_ipv4_alone_is_written_as_such() -> None:
    """`0.0.0.0:8080` does not open IPv6, whatever a dual-stack system could do."""
    with bind(TcpAddress("0.0.0.0", 0)) as listener:  # noqa: S104 - what is tested
        assert listener.family == socket.AF_INET


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    """The file that a killed process left behind does not keep the service from starting."""
    path = tmp_path / "a.sock"
    bind(UnixAddress(path)).close()
    assert path.is_socket()
    with bind(UnixAddress(path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_socket_that_somebody_answers_is_left_alone(tmp_path: Path) -> None:
    """A running process is never pushed aside."""
    path = tmp_path / "a.sock"
    with bind(UnixAddress(path)) as listener:
        with pytest.raises(OSError, match="in use"):
            bind(UnixAddress(path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert listener.fileno() >= 0


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """A plain file of that name is somebody's data."""
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        bind(UnixAddress(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("host", "is_numeric", "is_loopback"),
    [
        ("127.0.0.1", True, True),
        ("::1", True, True),
        ("10.0.0.1", True, False),
        ("localhost", False, True),
        ("localhost.example.org", False, False),
        ("", False, False),
    ],
)
def test_only_this_machine_is_loopback(host: str, *, is_numeric: bool, is_loopback: bool) -> None:
    """A name is believed to be this machine's only where it is `localhost` itself."""
    address = TcpAddress(host, 80)
    assert (address.is_numeric, address.is_loopback) == (is_numeric, is_loopback)


def test_socket_file_is_removed_once_and_only_while_it_is_ours(tmp_path: Path) -> None:
    """A successor's file of the same name stays, also where it was given the same inode."""
    path = tmp_path / "auth.sock"
    with bind(UnixAddress(path)):
        ours = SocketFile(path)
        path.rename(tmp_path / "moved.sock")
        with bind(UnixAddress(path)):
            ours.remove()
            assert path.is_socket()
        theirs = SocketFile(path)
        theirs.remove()
        assert not path.exists()
    (tmp_path / "moved.sock").rename(path)
    theirs.remove()
    ours.remove()
    assert path.is_socket()


def test_unix_socket_has_its_mode_and_no_more_before(tmp_path: Path) -> None:
    """It is never open to others than those of its mode."""
    path = tmp_path / "auth.sock"
    with bind(UnixAddress(path), mode=0o660):
        assert path.stat().st_mode & 0o777 == 0o660
