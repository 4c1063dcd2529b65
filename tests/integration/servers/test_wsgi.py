"""The WSGI middleware under real servers: whom it believes, and how WSGI can be lied to.

No program but the servers; a client is a socket, whose address on loopback is chosen. So an honest
proxy is 127.0.0.1, and a stranger 127.0.0.2, or the same 127.0.0.1 where another is trusted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from nexus_auth.adapters.headers.names import with_underscores
from tests.builders import a_hotkey
from tests.integration.real import REQUIRE_REAL, Process, free_port, wait_until_ready
from tests.integration.service.running import TIMEOUT_SECONDS, a_header

ROOT: Final = Path(__file__).parents[3]
PACKAGE: Final = "tests.integration.servers.wsgi_application"
LOCAL: Final = "127.0.0.1"
STRANGER: Final = "127.0.0.2"
OTHER: Final = "127.0.0.9"
HEADER: Final = "X-Client-Cert"

GUNICORN: Final = ("-m", "gunicorn", "--bind", "{where}")
WAITRESS: Final = ("-m", "waitress", "--host", LOCAL, "--port", "{port}")
GRANIAN: Final = ("-m", "granian", "--interface", "wsgi", "--host", LOCAL, "--port", "{port}")
OWN: Final = ("-m", "tests.integration.servers.wsgi_start")


@dataclass(frozen=True, slots=True)
class Mode:
    """One server with some options.

    Attributes:
        command: What Python runs.
        application: What it serves; empty where the command says so itself.
        shows: Whether the server shows its connection and its header lines, or drops underscores.
        folds: Whether `X_Client_Cert` and the like reach the environ under the header's name.
        renames: Whether `REMOTE_ADDR` can come from `X-Forwarded-For`.
    """

    command: tuple[str, ...]
    application: str = "application"
    shows: bool = True
    folds: bool = False
    renames: bool = False


MODES: Final = {
    "gunicorn, sync": Mode(GUNICORN),
    "gunicorn, gthread": Mode((*GUNICORN, "--worker-class", "gthread", "--threads", "2")),
    "gunicorn, dangerous": Mode((*GUNICORN, "--header-map", "dangerous"), folds=True),
    "gunicorn, forwarder headers": Mode(
        (*GUNICORN, "--forwarder-headers", ",".join(spelt.upper() for spelt in
        with_underscores(HEADER)[1:])), folds=True
    ),
    "gunicorn, any proxy": Mode((*GUNICORN, "--forwarded-allow-ips", "*")),
    "gunicorn, ProxyFix": Mode(GUNICORN, application="rewritten", renames=True),
    "gunicorn, a middleware in between": Mode(GUNICORN, application="in_between", shows=False),
    "gunicorn, dangerous, a middleware in between": Mode(
        (*GUNICORN, "--header-map", "dangerous"), application="in_between", shows=False, folds=True
    ),
    "waitress": Mode(WAITRESS),
    "waitress, trusted proxy": Mode(
        (*WAITRESS, "--trusted-proxy", "*", "--trusted-proxy-headers", "x-forwarded-for"),
        renames=True,
    ),
    "waitress, Forwarded": Mode(
        (*WAITRESS, "--trusted-proxy", "*", "--trusted-proxy-headers", "forwarded"), renames=True
    ),
    "granian": Mode(GRANIAN, shows=False, folds=True),
    "granian, wrapped": Mode(
        GRANIAN, application="rewritten", shows=False, folds=True, renames=True
    ),
    "werkzeug": Mode((*OWN, "werkzeug", LOCAL, "{port}"), application=""),
    "wsgiref": Mode((*OWN, "wsgiref", LOCAL, "{port}"), application="", folds=True),
    "django": Mode((*OWN, "django", LOCAL, "{port}"), application=""),
}  # fmt: skip

Header = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: the status, the code of a denial, what the application saw."""

    status: int
    reason: str | None
    seen: dict[str, Any]


class Server:
    """A running server. Each request takes a connection of its own."""

    def __init__(self, process: Process, where: int | Path) -> None:
        self.process = process
        self._where = where

    def ask(
        self,
        path: str,
        *headers: Header,
        source: str = LOCAL,
        body: bytes = b"",
        before: bytes = b"",
    ) -> Answer:
        """Makes one request from a source address."""
        lines = b"".join(
            b"%s: %s\r\n" % (name.encode(), value)
            for name, value in (*headers, ("Connection", b"close"))
        )
        method = b"POST" if body else b"GET"
        head = b"%s %s HTTP/1.1\r\nHost: app\r\n" % (method, path.encode())
        with self._connect(source) as connection:
            connection.sendall(before + head + lines + b"\r\n" + body)
            received = b""
            try:
                while part := connection.recv(65536):
                    received += part
            except ConnectionError:
                pass  # What was not read of a body resets the connection, after the answer.
        answered, _, content = received.partition(b"\r\n\r\n")
        status, *fields = answered.decode("latin-1").split("\r\n")
        found = {
            name.lower(): value.strip()
            for name, _, value in (field.partition(":") for field in fields)
        }
        code = int(status.split()[1])
        return Answer(
            code, found.get("x-nexus-auth-reason"), json.loads(content) if code == 200 else {}
        )

    def exchange(self, data: bytes) -> bytes:
        """What comes back on one connection, until the server ends it or says nothing more."""
        with self._connect(LOCAL) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(65536):
                    received += part
        return received

    def _connect(self, source: str) -> socket.socket:
        if isinstance(self._where, int):
            return socket.create_connection(
                (LOCAL, self._where), TIMEOUT_SECONDS, source_address=(source, 0)
            )
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        try:
            connection.connect(str(self._where))
        except OSError:
            connection.close()
            raise
        return connection

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return self.ask("/environ").status == 200
        except (OSError, IndexError):
            return False


def started(mode: Mode, folder: Path, *, unix: bool = False) -> Iterator[Server]:
    """Starts one server until the iterator is closed."""
    wanted = mode.command[2] if mode.command[:2] == OWN else mode.command[1]
    if importlib.util.find_spec(wanted) is None:
        message = f"{wanted} is not installed here; get it with: pip install -e .[dev]"
        if REQUIRE_REAL:
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    port, path = free_port(), folder / "app.sock"
    command = [part.format(where=f"{LOCAL}:{port}", port=port) for part in mode.command]
    if unix:
        command = {
            "gunicorn": ["-m", "gunicorn", "--bind", f"unix:{path}"],
            "waitress": ["-m", "waitress", "--unix-socket", str(path)],
            "granian": ["-m", "granian", "--interface", "wsgi", "--uds", str(path)],
            "werkzeug": [*OWN, "werkzeug", f"unix://{path}", "0"],
        }[wanted]
    with Process(
        [sys.executable, *command, *([f"{PACKAGE}:{mode.application}"] * bool(mode.application))],
        log_file=folder / "server.log",
        environment={**os.environ, "PYTHONPATH": str(ROOT), "REMOTE_USER": "of-the-environment"},
    ) as process:
        server = Server(process, path if unix else port)
        wait_until_ready(server.is_ready, what=wanted, process=process)
        yield server


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each server with its defaults, and with each option that changes what is believed."""
    return MODES[request.param]


@pytest.fixture(scope="module")
def server(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It, running."""
    yield from started(mode, tmp_path_factory.mktemp("server"))


def certificate(spelt: str = HEADER, name: str = "alice") -> Header:
    """A certificate, as the proxy sends it."""
    return (spelt, a_header(name))


def is_grant(answer: Answer) -> bool:
    """Whether the application behind the check was reached, and for whom."""
    if answer.status == 200:
        for key in ("REMOTE_USER", "HTTP_X_HOTKEY", "hotkey"):
            assert answer.seen[key] == a_hotkey("alice").address
        return True
    assert answer.status == 403, answer
    assert answer.reason is not None
    return False


def lines(server: Server, event: str) -> list[str]:
    """What the log says of one kind."""
    return [line for line in server.process.output.splitlines() if event in line]


def test_honest_proxy_is_believed(server: Server, mode: Mode) -> None:
    """As it is where the server shows how the header was spelt; with the promise elsewhere."""
    answer = server.ask(f"/{LOCAL}", certificate())
    assert is_grant(answer) is mode.shows
    assert bool(lines(server, "certificate_not_believed")) is not mode.shows
    assert is_grant(server.ask(f"/promised/{LOCAL}", certificate()))
    for path in (f"/{LOCAL}", f"/promised/{LOCAL}"):
        assert not is_grant(server.ask(path, certificate(), source=STRANGER))
        assert not is_grant(server.ask(path))
        assert not is_grant(server.ask(path, certificate(name="bob")))


@pytest.mark.parametrize("spelt", with_underscores(HEADER)[1:])
def test_header_with_an_underscore_is_never_the_proxys(
    server: Server, mode: Mode, spelt: str
) -> None:
    """WSGI has one name for a client's `X_Client_Cert` and the proxy's; many proxies pass it on."""
    seen = server.ask("/environ", (spelt, b"forged")).seen
    is_folded = seen.get("HTTP_X_CLIENT_CERT") == "forged"
    assert is_folded is mode.folds or spelt.count("_") < 2, "the server is not what the table says"
    for forged in (certificate(spelt), certificate(spelt.lower()), certificate(spelt.upper())):
        assert not is_grant(server.ask(f"/{LOCAL}", forged))
        # Beside a certificate of its own, which the proxy sends.
        for headers in ((certificate(name="bob"), forged), (forged, certificate(name="bob"))):
            assert not is_grant(server.ask(f"/{LOCAL}", *headers))


def test_header_that_came_twice_is_never_believed(server: Server) -> None:
    """Servers join what comes twice by a comma, and Envoy's header has commas of its own."""
    for path in (f"/{LOCAL}", f"/promised/{LOCAL}"):
        for other in (certificate(), certificate(name="bob"), (HEADER, b""), (HEADER, b" ")):
            for headers in ((certificate(), other), (other, certificate())):
                assert not is_grant(server.ask(path, *headers))
    one, two = (
        (
            "X-Forwarded-Client-Cert",
            b"Hash=" + b"ab" * 32 + b';Cert="' + a_header(name) + b'"',
        )
        for name in ("bob", "alice")
    )
    for headers in ((one, two), (two, two), (two, ("X_Forwarded_Client_Cert", two[1]))):
        answer = server.ask("/xfcc", *headers)
        if headers[0] is headers[1] or headers[0] is one or answer.status == 403:
            assert not is_grant(answer)
        else:
            # The second was not the proxy's, and the first was.
            assert is_grant(answer)


def test_one_header_of_envoy_is_believed(server: Server, mode: Mode) -> None:
    """It is read as everywhere."""
    value = b"Hash=" + b"ab" * 32 + b';Cert="' + a_header("alice") + b'"'
    answer = server.ask("/xfcc", ("X-Forwarded-Client-Cert", value))
    assert is_grant(answer) is mode.shows


FORGED: Final = (
    *((spelt, b"forged") for spelt in with_underscores("X-Hotkey")),
    *((spelt, b"forged") for spelt in with_underscores("X-Hotkey-Uid")),
    ("X.Hotkey", b"forged"),
    ("Remote-User", b"forged"),
    ("REMOTE_USER", b"forged"),
    ("Auth-Type", b"Basic"),
    ("Authorization", b"Basic Zm9yZ2VkOng="),
    ("X.Client.Cert", b"forged"),
    ("X_Client_Cert", b"forged"),
)


def test_forged_names_of_a_caller_reach_no_application(server: Server, mode: Mode) -> None:
    """Neither of a granted request nor of a denied one that goes on, nor from the environment."""
    answer = server.ask(f"/anonymous/{LOCAL}", *FORGED)
    assert answer.status == 200
    assert "forged" not in {value for key, value in answer.seen.items() if "AUTH" not in key}
    assert not {"REMOTE_USER", "HTTP_X_HOTKEY", "HTTP_REMOTE_USER"} & answer.seen.keys()
    forged = [each for each in FORGED if "CERT" not in each[0].upper()]
    answer = server.ask(f"/promised/{LOCAL}", certificate(), *forged)
    assert is_grant(answer)
    assert "forged" not in answer.seen.values()
    assert "HTTP_X_CLIENT_CERT" not in answer.seen
    if mode.command[:2] == OWN or "granian" in mode.command:
        # The environment of the process is in the environ, REMOTE_USER with it.
        assert server.ask("/environ").seen.get("REMOTE_USER") in {None, "of-the-environment"}


@pytest.mark.parametrize(("source", "trusted"), [(STRANGER, LOCAL), (LOCAL, OTHER)])
def test_stranger_who_names_a_trusted_proxy_is_never_believed(
    server: Server, mode: Mode, source: str, trusted: str
) -> None:
    """In no forwarding header, whatever the server or a middleware makes of it."""
    plain = trusted.encode()
    renamed = False
    for value in (plain, plain + b":4711", b"192.0.2.1, " + plain, b"::ffff:" + plain):
        for headers in (
            (("X-Forwarded-For", value),),
            (("X-Forwarded-For", value), ("X-Forwarded-Port", b"4711")),
            (("X-Real-IP", value), ("X_Forwarded_For", value)),
            (("Forwarded", b'for="%s"' % value),),
            (("Remote-Addr", value), ("REMOTE_ADDR", value)),
        ):
            seen = server.ask("/environ", *headers, source=source)
            renamed = renamed or seen.seen.get("REMOTE_ADDR") == trusted
            for path in (f"/{trusted}", f"/promised/{trusted}"):
                answer = server.ask(path, certificate(), *headers, source=source)
                assert answer.status == 400 or not is_grant(answer), headers
    assert renamed is mode.renames, "the test names no peer to this server"


def test_caller_on_the_proxys_machine_is_known_by_the_connection(
    server: Server, mode: Mode
) -> None:
    """Its address in a header is the proxy's. Where the connection is not shown, it is a denial."""
    headers = (("X-Forwarded-For", LOCAL.encode()), certificate())
    shows_connection = "granian" not in mode.command
    assert is_grant(server.ask(f"/promised/{LOCAL}", *headers)) is shows_connection
    assert bool(lines(server, "ProxyFix")) is not shows_connection
    # And a caller elsewhere is none, whatever `REMOTE_ADDR` is made of.
    elsewhere = (("X-Forwarded-For", b"192.0.2.1"), certificate())
    is_taken = mode.renames and not shows_connection
    assert is_grant(server.ask(f"/promised/{LOCAL}", *elsewhere)) is not is_taken


def test_trailer_is_no_header(server: Server, mode: Mode) -> None:
    """Behind a chunked body, which many proxies pass on from the client as it is."""
    body = b"3\r\nabc\r\n0\r\n" + b"X-Client-Cert: " + a_header("alice") + b"\r\n\r\n"
    chunked = ("Transfer-Encoding", b"chunked")
    for path in (f"/{LOCAL}", f"/promised/{LOCAL}"):
        assert not is_grant(server.ask(path, chunked, ("Trailer", b"X-Client-Cert"), body=body))
    # A chunked request of an honest proxy is granted where the server is known to keep them apart.
    honest = server.ask(f"/promised/{LOCAL}", chunked, certificate(), body=b"3\r\nabc\r\n0\r\n\r\n")
    assert is_grant(honest) is ("granian" not in mode.command)


@pytest.mark.parametrize("path", [LOCAL, OTHER, f"anonymous/{OTHER}"])
def test_body_is_no_request(server: Server, path: str) -> None:
    """A body that nothing reads must not become the next request of the proxy's connection."""
    forged = b"GET /promised/%s HTTP/1.1\r\nHost: app\r\nConnection: close\r\n" % LOCAL.encode()
    forged += b"X-Client-Cert: " + a_header("alice") + b"\r\n\r\n"
    head = b"POST /%s HTTP/1.1\r\nHost: app\r\n" % path.encode()
    for framed in (
        b"Content-Length: %d\r\n\r\n%s" % (len(forged), forged),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(forged), forged),
        # What is no chunk at all, and a length that is none.
        b"Transfer-Encoding: chunked\r\n\r\n%s" % forged,
        b"Content-Length: 1, 1\r\n\r\n%s" % forged,
    ):
        assert a_hotkey("alice").address.encode() not in server.exchange(head + framed)


@pytest.mark.parametrize(
    "name", ["gunicorn, sync", "gunicorn, gthread", "waitress", "werkzeug", "granian"]
)
def test_unix_socket_is_believed_where_the_server_shows_it(name: str, tmp_path: Path) -> None:
    """By the socket itself: the address is empty, `localhost` or `<local>`, by server."""
    for server in started(MODES[name], tmp_path, unix=True):
        shows = name != "granian"
        assert is_grant(server.ask("/promised/unix", certificate())) is shows
        assert not is_grant(server.ask(f"/promised/{LOCAL}", certificate()))
        assert bool(lines(server, "peer_not_believed")) is not shows


def test_proxy_protocol_names_no_peer(tmp_path: Path) -> None:
    """What stands before the request can be anything; the connection's peer cannot."""
    mode = Mode((*GUNICORN, "--proxy-protocol", "--proxy-allow-from", "*"))
    preface = f"PROXY TCP4 {OTHER} 127.0.0.1 4711 80\r\n".encode()
    for server in started(mode, tmp_path):
        named = server.ask("/environ", before=preface)
        assert named.seen["REMOTE_ADDR"] == OTHER
        assert not is_grant(server.ask(f"/{OTHER}", certificate(), before=preface))
        assert is_grant(server.ask(f"/{LOCAL}", certificate(), before=preface))


def test_workers_forked_after_the_application_was_made_decide(tmp_path: Path) -> None:
    """`gunicorn --preload` makes the middleware once, before it forks."""
    mode = Mode((*GUNICORN, "--preload", "--workers", "2"))
    for server in started(mode, tmp_path):
        for _ in range(8):
            assert is_grant(server.ask(f"/{LOCAL}", certificate()))
