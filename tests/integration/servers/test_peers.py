"""The middleware under real servers: whom it believes, however the server is set.

No program but the servers; a client is a socket, whose address on loopback is chosen. So an honest
proxy is 127.0.0.1, and a stranger 127.0.0.2, or the same 127.0.0.1 where another is trusted.
"""

from __future__ import annotations

import base64
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

from tests.builders import a_hotkey
from tests.integration.real import REQUIRE_REAL, Process, free_port, wait_until_ready
from tests.integration.service.running import TIMEOUT_SECONDS, a_header

ROOT: Final = Path(__file__).parents[3]
STRANGER: Final = "127.0.0.2"
LOCAL: Final = "127.0.0.1"
OTHER: Final = "127.0.0.9"
WAYS: Final = ("middleware", "backend", "proxy")
PROTOCOLS: Final = ("http", "websocket")
PACKAGE: Final = "tests.integration.servers"

UVICORN: Final = ("uvicorn", "--ws", "wsproto", "--log-level", "warning")
DAPHNE: Final = ("daphne", "-v", "0")

Header = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Mode:
    """One server with some options.

    Attributes:
        command: Its module and options.
        application: What it runs.
        rewrites_for: From which peers it takes another peer's name, if one of its headers is sent.
        option: What the log names where the peer is not believed for it.
        environment: More variables.
    """

    command: tuple[str, ...]
    application: str = "application:app"
    rewrites_for: tuple[str, ...] = ()
    option: str = ""
    environment: tuple[tuple[str, str], ...] = ()


ANY_PROXY: Final = (("FORWARDED_ALLOW_IPS", "*"),)
BOTH: Final = (LOCAL, STRANGER)
NO_PROXY_HEADERS: Final = "--no-proxy-headers"

MODES: Final = {
    "uvicorn, h11": Mode(
        (*UVICORN, "--http", "h11"), rewrites_for=(LOCAL,), option=NO_PROXY_HEADERS
    ),
    "uvicorn, httptools": Mode(
        (*UVICORN, "--http", "httptools"), rewrites_for=(LOCAL,), option=NO_PROXY_HEADERS
    ),
    "uvicorn, h11, any proxy": Mode(
        (*UVICORN, "--http", "h11"),
        rewrites_for=BOTH,
        option=NO_PROXY_HEADERS,
        environment=ANY_PROXY,
    ),
    "uvicorn, httptools, any proxy": Mode(
        (*UVICORN, "--http", "httptools"),
        rewrites_for=BOTH,
        option=NO_PROXY_HEADERS,
        environment=ANY_PROXY,
    ),
    "uvicorn, as documented": Mode((*UVICORN, NO_PROXY_HEADERS)),
    "hypercorn": Mode(("hypercorn",)),
    "hypercorn, ProxyFix": Mode(
        ("hypercorn",),
        application="behind_hypercorn:legacy",
        rewrites_for=BOTH,
        option="ProxyFixMiddleware",
    ),
    "hypercorn, ProxyFix of Forwarded": Mode(
        ("hypercorn",),
        application="behind_hypercorn:modern",
        rewrites_for=BOTH,
        option="ProxyFixMiddleware",
    ),
    "granian": Mode(("granian", "--interface", "asgi")),
    "granian, wrapped": Mode(
        ("granian", "--interface", "asgi"),
        application="behind_granian:wrapped",
        rewrites_for=BOTH,
        option="wrap_asgi_with_proxy_headers",
    ),
    "daphne": Mode(DAPHNE),
    "daphne, proxy headers": Mode(
        (*DAPHNE, "--proxy-headers"), rewrites_for=BOTH, option="daphne without --proxy-headers"
    ),
    "daphne, other proxy headers": Mode(
        (
            *(*DAPHNE, "--proxy-headers", "--proxy-headers-host", "X-Real-IP"),
            *("--proxy-headers-port", "X-Real-Port"),
        ),
        rewrites_for=BOTH,
        option="daphne without --proxy-headers",
    ),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: the status (101 where a WebSocket opened), the code, what the application saw."""

    status: int
    reason: str | None
    seen: dict[str, Any]


class Server:
    """A running server. Each request takes a connection of its own."""

    def __init__(self, process: Process, where: int | Path) -> None:
        self.process = process
        self._where = where

    def ask(
        self, path: str, *headers: Header, source: str = LOCAL, protocol: str = "http"
    ) -> Answer:
        """Makes one request from a source address."""
        if protocol == "websocket":
            key = base64.b64encode(b"0" * 16)
            upgrade = [("Upgrade", b"websocket"), ("Connection", b"Upgrade")]
            headers = (
                *(*upgrade, ("Sec-WebSocket-Version", b"13"), ("Sec-WebSocket-Key", key)),
                *headers,
            )
        else:
            headers = (*headers, ("Connection", b"close"))
        lines = b"".join(b"%s: %s\r\n" % (name.encode(), value) for name, value in headers)
        with self._connect(source) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: app\r\n".encode() + lines + b"\r\n")
            received = b""
            # A WebSocket that opened ends with a close frame (RFC 6455 §5.5.1); where it did not,
            # the connection may stay open.
            while protocol == "http" or not (
                b"}\x88" in received if b" 101 " in received[:16] else b"\r\n\r\n" in received
            ):
                part = connection.recv(65536)
                if not part:
                    break
                received += part
        head, _, body = received.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        found = {
            name.lower(): value.strip()
            for name, _, value in (field.partition(":") for field in fields)
        }
        code = int(status.split()[1])
        # In one frame of text, which is not masked (RFC 6455 §5.1).
        seen = body[body.find(b"{") : body.rfind(b"}") + 1] if code in {101, 200} else b"{}"
        return Answer(code, found.get("x-nexus-auth-reason"), json.loads(seen))

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
            return self.ask("/peer").status == 200
        except OSError:
            return False


def started(mode: Mode, folder: Path, *, unix: bool = False) -> Iterator[Server]:
    """Starts one server until the iterator is closed."""
    module, *options = mode.command
    if importlib.util.find_spec(module) is None or importlib.util.find_spec("wsproto") is None:
        message = f"{module} or wsproto is not installed here; get them with: pip install -e .[dev]"
        if REQUIRE_REAL:
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    port, path = free_port(), folder / "app.sock"
    if unix:
        options += {
            "uvicorn": ["--uds", str(path)],
            "hypercorn": ["-b", f"unix:{path}"],
            "granian": ["--uds", str(path)],
            "daphne": ["-u", str(path)],
        }[module]
    else:
        options += {"hypercorn": ["-b", f"{LOCAL}:{port}"], "daphne": ["-p", str(port)]}.get(
            module, ["--port", str(port)]
        )
    environment = {name: value for name, value in os.environ.items() if "FORWARDED" not in name}
    with Process(
        [sys.executable, "-m", module, *options, f"{PACKAGE}.{mode.application}"],
        log_file=folder / "server.log",
        environment={**environment, "PYTHONPATH": str(ROOT), **dict(mode.environment)},
    ) as process:
        server = Server(process, path if unix else port)
        wait_until_ready(server.is_ready, what=module, process=process)
        yield server


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each server with its defaults, and with each option that changes the peer."""
    return MODES[request.param]


@pytest.fixture(scope="module")
def server(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It, running."""
    yield from started(mode, tmp_path_factory.mktemp("server"))


def claim() -> tuple[Header, Header]:
    """What the proxy sends of alice: her certificate, and her hotkey where it asked for it."""
    return ("X-Client-Cert", a_header("alice")), ("X-Hotkey", a_hotkey("alice").address.encode())


def is_grant(answer: Answer, protocol: str) -> bool:
    """Whether the application behind the check was reached, and for whom."""
    if answer.status == (200 if protocol == "http" else 101):
        assert answer.seen["hotkey"] == a_hotkey("alice").address
        return True
    # Granian answers a WebSocket that is refused with 403 as well.
    assert answer.status == 403, answer
    return False


def lines(server: Server) -> list[str]:
    """What the log says of peers that are not believed."""
    return [line for line in server.process.output.splitlines() if "peer_not_believed" in line]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_honest_proxy_is_believed(server: Server, mode: Mode, protocol: str) -> None:
    """Where no header names a peer, under every server: the peer is the connection's own."""
    for way in WAYS:
        answer = server.ask(f"/{way}/{LOCAL}", *claim(), source=LOCAL, protocol=protocol)
        assert is_grant(answer, protocol)
        stranger = server.ask(f"/{way}/{LOCAL}", *claim(), source=STRANGER, protocol=protocol)
        assert not is_grant(stranger, protocol)


LOCAL_CALLER: Final = {
    "X-Forwarded-For": (("X-Forwarded-For", LOCAL.encode()), ("X-Forwarded-Port", b"443")),
    "X-Real-IP": (("X-Real-IP", LOCAL.encode()),),
    "Forwarded": (("Forwarded", b"for=127.0.0.1;proto=https"),),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_local_caller_of_a_local_proxy_is_believed_where_the_peer_is_left_alone(
    server: Server, mode: Mode, protocol: str
) -> None:
    """The same address in a header is no reason; a peer that was replaced is one, and is named."""
    refused = False
    for headers in LOCAL_CALLER.values():
        peer = server.ask("/peer", *headers).seen["peer"]
        is_kept = peer[0] == LOCAL and int(peer[1]) not in {0, 443}
        for way in WAYS:
            answer = server.ask(f"/{way}/{LOCAL}", *claim(), *headers, protocol=protocol)
            assert is_grant(answer, protocol) is is_kept, headers
        refused = refused or not is_kept
    assert refused is bool(mode.rewrites_for)
    assert bool(lines(server)) is refused
    assert all(mode.option in line for line in lines(server))


def forged(address: str) -> Iterator[tuple[Header, ...]]:
    """Every way to name a peer that we know of; 4711 stands for a port of the client's choice."""
    plain = address.encode()
    wide = "".join(chr(0xFF10 + int(digit)) for digit in "4711").encode()
    mapped = b"::ffff:" + plain
    values = (
        *(plain, plain + b":4711", plain + b":04711", plain + b":+47_11", b"192.0.2.1, " + plain),
        *(plain + b":4711, " + plain + b":4711", mapped, b"[" + mapped + b"]:4711"),
        *(b"[" + plain + b"]:4711", plain + b": 4711", b'"' + plain + b':4711"'),
        plain + b":\xa04711",
    )
    for name in ("X-Forwarded-For", "x-forwarded-for", "X-FORWARDED-FOR", "X-Real-IP"):
        for value in values:
            yield ((name, value),)
        yield (name, plain + b":4711"), (name, plain + b":4711")
        for port in (b"4711", b"+4711", b"04711", b"4_711", wide, b"0", b"99999", b"x"):
            yield (name, plain), ("X-Forwarded-Port", port), ("X-Real-Port", port)
    for element in (b"for=%s", b'for="%s:4711"', b'FOR="[::ffff:%s]:4711"', b"for=%s;by=x"):
        yield (("Forwarded", element % plain),)
        yield ("Forwarded", b"for=192.0.2.1"), ("Forwarded", element % plain)
    yield ("X-Forwarded-For", plain), ("Forwarded", b"for=%s" % plain), ("X-Real-IP", plain)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("source", "trusted"), [(STRANGER, LOCAL), (LOCAL, OTHER)])
def test_stranger_who_names_a_trusted_proxy_is_never_believed(
    server: Server, mode: Mode, protocol: str, source: str, trusted: str
) -> None:
    """In no spelling of any forwarding header, whatever the server makes of it."""
    renamed = 0
    for headers in forged(trusted):
        seen = server.ask("/peer", *headers, source=source)
        # Daphne fails on what is no UTF-8.
        named = seen.seen["peer"] if seen.status == 200 else None
        renamed += named is not None and named[0] == trusted
        way = WAYS[renamed % len(WAYS)]
        answer = server.ask(
            f"/{way}/{trusted}",
            *claim(),
            *headers,
            source=source,
            protocol=protocol,
        )
        if seen.status == 200 or answer.status == 403:
            assert not is_grant(answer, protocol), (headers, named)
        else:
            assert answer.status == 500
    assert bool(renamed) is (source in mode.rewrites_for), "the test names no peer to this server"
    assert bool(lines(server)) is bool(mode.rewrites_for)
    assert all(mode.option in line for line in lines(server))


def test_zone_of_a_peer_hides_nothing(server: Server) -> None:
    """Almost anything may stand in a zone, which says nothing about who it is."""
    for value in (b"[fe80::1%=x y]:4711", b"[fe80::1%\xe9]:4711", b"[fe80::1]:4711"):
        answer = server.ask("/middleware/fe80", *claim(), ("X-Forwarded-For", value))
        assert answer.status in {403, 500}


SERVERS: Final = ("uvicorn, as documented", "hypercorn", "granian", "daphne")


@pytest.mark.parametrize("name", SERVERS)
def test_unix_socket_is_believed_where_the_server_says_that_it_is_one(
    name: str, tmp_path: Path
) -> None:
    """That is uvicorn; the log of the others says what is missing."""
    for server in started(MODES[name], tmp_path, unix=True):
        for way in WAYS:
            answer = server.ask(f"/{way}/unix", *claim())
            assert is_grant(answer, "http") is name.startswith("uvicorn")
        assert not is_grant(server.ask(f"/middleware/{LOCAL}", *claim()), "http")
        assert bool(lines(server)) is not name.startswith("uvicorn")
        assert all("uvicorn alone" in line for line in lines(server))


@pytest.mark.parametrize("name", ["daphne", "hypercorn"])
def test_verifier_that_no_lifespan_left_is_a_denial_and_a_line(name: str, tmp_path: Path) -> None:
    """Daphne runs none; Hypercorn does, and the application leaves no verifier in it."""
    for server in started(MODES[name], tmp_path):
        for protocol in PROTOCOLS:
            answer = server.ask(f"/state/{LOCAL}", *claim(), protocol=protocol)
            assert answer.status == 403
        assert server.ask(f"/state/{LOCAL}", *claim()).reason == "registry-unavailable"
        (line,) = [line for line in server.process.output.splitlines() if "no_verifier" in line]
        assert "runs no lifespan (Daphne" in line
        assert "Traceback" not in server.process.output
