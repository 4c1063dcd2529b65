"""What only Caddy has: an admin endpoint, through which it is told to read its files again."""

from __future__ import annotations

import re
import shlex
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders import a_hotkey
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import (
    TIMEOUT_SECONDS,
    ask,
    connect,
    exchange,
    http1_request,
    tls_context,
)
from tests.integration.proxies.stack import (
    PROGRAMS,
    People,
    StartedProxy,
    make_people,
    make_server_certificate,
    open_folder,
    running_proxy,
    started_proxy,
)
from tests.integration.proxies.surroundings import PatientServer
from tests.integration.real import require_program, wait_until_ready

ADMIN_REQUEST = b"GET /config/ HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Caddy:
    """A running Caddy whose own pair lies in `pair`, and the folder of everything."""

    folder: Path
    people: People
    pair: tuple[Path, Path]
    running: StartedProxy

    @property
    def socket(self) -> Path:
        """The socket of the admin endpoint."""
        return self.running.directory / "state" / "nexus-auth-admin.sock"

    def shown(self) -> bytes | None:
        """The certificate that a new caller sees, DER."""
        with connect(self.running.port, tls_context(self.people["alice"])) as connection:
            return connection.getpeercert(binary_form=True)

    def reload(self) -> int:
        """Runs the command that the head of the configuration names; its exit code."""
        head = (self.running.directory / "Caddyfile").read_text(encoding="utf-8")
        found = re.search(r'-after-change "(.+)"', head)
        words = shlex.split(found[1]) if found else []
        assert words[0] == "caddy"
        done = subprocess.run(
            [require_program("caddy", PROGRAMS["caddy"]), *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
            cwd="/",
        )
        return done.returncode


@pytest.fixture(scope="module")
def caddy() -> Iterator[Caddy]:
    """Caddy between a client that is registered and an application."""
    require_program("caddy", PROGRAMS["caddy"])
    with open_folder() as folder, Application() as application:
        people, pair = make_people(folder), make_server_certificate(folder)
        with (
            AuthService("caddy", 0, reuse_seconds=0, knows=("alice",)) as auth,
            started_proxy(
                "caddy",
                folder,
                app=application.address,
                auth=f"127.0.0.1:{auth.port}",
                certificate=pair,
                prefix=("sh", "-c", 'umask 022; exec "$@"', "sh"),
            ) as running,
        ):
            granted = lambda: ask(running.port, people["alice"]).status == 200  # noqa: E731 - short
            wait_until_ready(granted, what="a grant through caddy")
            yield Caddy(folder, people, pair, running)


def test_the_admin_endpoint_is_a_socket_that_only_its_owner_can_use(caddy: Caddy) -> None:
    """Who reaches it can switch the authorisation off; so no network reaches it."""
    assert listening_ports(caddy.running.process.pid) == {caddy.running.port}
    assert caddy.socket.is_socket()
    # A socket is connected to by whom its mode lets write.
    assert caddy.socket.stat().st_mode & 0o022 == 0
    # It is the endpoint: so the two checks above say what they seem to.
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(str(caddy.socket))
        connection.sendall(ADMIN_REQUEST)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_the_command_of_the_head_has_a_renewed_pair_served(caddy: Caddy) -> None:
    """Between the two renames it fails and changes nothing; what is under way is finished."""
    (caddy.folder / "new").mkdir()
    certificate, key = make_server_certificate(caddy.folder / "new")
    old, new = caddy.shown(), ssl.PEM_cert_to_DER_cert(certificate.read_text(encoding="ascii"))
    alice = caddy.people["alice"]
    with connect(caddy.running.port, tls_context(alice)) as connection:
        connection.sendall(http1_request(method="POST", headers=[("Content-Length", "4")]) + b"ab")
        key.replace(caddy.pair[1])
        assert caddy.reload() != 0
        assert caddy.shown() == old
        certificate.replace(caddy.pair[0])
        assert caddy.reload() == 0
        assert caddy.shown() == new
        assert exchange(connection, b"cd", method="POST").status == 200
    assert ask(caddy.running.port, alice).status == 200
    assert ask(caddy.running.port, caddy.people["carol"]).status == 403


def listening_ports(pid: int) -> set[int]:
    """The TCP ports that a process listens on, as Linux tells."""
    own, ports = set[str](), set[int]()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        # One that was closed meanwhile is no listener.
        with suppress(FileNotFoundError):
            own.add(str(link.readlink()))
    for family in ("tcp", "tcp6"):
        rows = Path(f"/proc/{pid}/net/{family}").read_text(encoding="ascii").splitlines()[1:]
        for _, local, _, state, *others in (row.split() for row in rows):
            # proc(5): 0A is LISTEN; the tenth field is the socket's inode.
            if state == "0A" and f"socket:[{others[5]}]" in own:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


def test_each_question_has_a_connection_of_its_own() -> None:
    """A kept one may lead to the application, whose answer would then decide."""
    require_program("caddy", PROGRAMS["caddy"])
    hotkey = f"X-Hotkey: {a_hotkey('alice').address}"
    with open_folder() as folder, PatientServer(hotkey) as auth, PatientServer() as app:
        alice = make_people(folder)["alice"]
        with running_proxy(
            "caddy",
            folder,
            app=app.address,
            auth=auth.address,
            certificate=make_server_certificate(folder),
        ) as port:
            wait_until_ready(lambda: ask(port, alice).status == 200, what="a grant")
            assert [ask(port, alice).status for _ in range(5)] == [200] * 5
        questions = auth.requests()
        assert questions >= 6
        assert auth.connections() == questions
