"""What is particular to Traefik."""

from __future__ import annotations

import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import pytest

from tests.builders import a_hotkey
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import ask, ask_http2, connect, http1_request, tls_context
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    started_proxy,
)
from tests.integration.real import free_port, require_program, wait_until_ready

ALICE: Final = a_hotkey("alice").address
CLOSE_WITH_RESET: Final = struct.pack("ii", 1, 0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a Traefik that is installed."""
    require_program("traefik", PROGRAMS["traefik"])
    with open_folder() as opened:
        yield opened


@contextmanager
def a_service() -> Iterator[AuthService]:
    """An auth service that knows alice and bob."""
    with AuthService("traefik", 0, reuse_seconds=0, knows=("alice", "bob")) as auth:
        yield auth


class _OneAnswerHandler(socketserver.StreamRequestHandler):
    server: OneAnswer

    def handle(self) -> None:
        self.server.connections += 1
        if self._one_request():
            self.wfile.write(self.server.answer)
            if self._one_request():
                self.server.lost += 1
        if self.server.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_WITH_RESET)
            self.connection.close()

    def _one_request(self) -> bool:
        length = 0
        try:
            while line := self.rfile.readline():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
                if line == b"\r\n":
                    self.rfile.read(length)
                    return True
        except OSError:
            pass
        return False


class OneAnswer(socketserver.ThreadingTCPServer):
    """Answers the first request of each connection, and closes the connection on the second.

    That is what a proxy sees that sends just when the other side closes an idle connection.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, *headers: str, resets: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _OneAnswerHandler)
        lines = ["HTTP/1.1 200 OK", *headers, "Content-Length: 2", "", "ok"]
        self.answer = "\r\n".join(lines).encode()
        self.resets = resets
        self.connections = self.lost = 0
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


@pytest.mark.parametrize("resets", [False, True])
def test_a_question_that_is_lost_on_a_kept_connection_is_asked_again(
    folder: Path, *, resets: bool
) -> None:
    """The idle time of this leg cannot be set, and need not be: the question is always a GET."""
    people = make_people(folder)
    with (
        OneAnswer(f"X-Hotkey: {ALICE}", resets=resets) as auth,
        Application() as application,
        started_proxy(
            "traefik",
            folder,
            app=application.address,
            auth=auth.address,
            certificate=make_server_certificate(folder),
        ) as proxy,
    ):
        wait_until_ready(lambda: ask(proxy.port, people["alice"]).status == 200, what="routes")
        for method in ("GET", "POST") * 5:
            body = b"once" if method == "POST" else b""
            request, count = http1_request(method=method, body=body), len(application.records)
            assert ask(proxy.port, people["alice"], request, method=method).status == 200
            (record,) = application.records[count:]
            assert record.body == body.decode()
        assert auth.lost >= 10


def test_an_application_without_keepalive_gets_a_connection_for_each_request(folder: Path) -> None:
    """With `-app-keepalive 0` nothing is sent over a connection that was used before."""
    people = make_people(folder)
    with (
        OneAnswer() as application,
        a_service() as auth,
        started_proxy(
            "traefik",
            folder,
            app=application.address,
            auth=f"127.0.0.1:{auth.port}",
            certificate=make_server_certificate(folder),
            arguments=("-app-keepalive", "0"),
        ) as proxy,
    ):
        wait_until_ready(lambda: ask(proxy.port, people["alice"]).status == 200, what="routes")
        count = application.connections
        for _ in range(10):
            request = http1_request(method="POST", body=b"once")
            assert ask(proxy.port, people["alice"], request, method="POST").status == 200
        assert application.connections == count + 10
        assert application.lost == 0


def test_a_rate_is_each_callers_own(folder: Path) -> None:
    """Neither a stranger nor another caller uses up what is allowed to one."""
    people, forged = make_people(folder), [("X-Hotkey", ALICE), ("X_Hotkey", ALICE)]
    with (
        Application() as application,
        a_service() as auth,
        started_proxy(
            "traefik",
            folder,
            app=application.address,
            auth=f"127.0.0.1:{auth.port}",
            certificate=make_server_certificate(folder),
            # Slow enough that nothing comes back while the test runs.
            arguments=("-rate", "1/m"),
        ) as proxy,
    ):

        def status(who: str) -> int:
            return ask(proxy.port, people[who], http1_request(headers=forged)).status

        wait_until_ready(lambda: status("carol") == 403, what="routes")
        for who in ("nobody", "carol", "mallory as alice", "expired"):
            assert [status(who) for _ in range(3)] == [403, 403, 403]
        assert [status("bob") for _ in range(3)] == [200, 429, 429]
        assert [status("alice") for _ in range(3)] == [200, 429, 429]
        assert ask_http2(proxy.port, people["alice"]).status == 429
        assert status("nobody") == 403
        hotkeys = [record.hotkeys for record in application.records]
        assert hotkeys == [[a_hotkey("bob").address], [ALICE]]


def shown_certificate(port: int, context: ssl.SSLContext) -> bytes | None:
    """The certificate that a proxy shows; None where no handshake succeeds."""
    try:
        with connect(port, context) as connection:
            return connection.getpeercert(binary_form=True)
    except OSError:
        return None


def test_a_pair_that_was_read_half_way_is_read_again(folder: Path) -> None:
    """Traefik serves nothing with a key that does not fit, and recovers with the next touch."""
    people = make_people(folder)
    certificate, key = make_server_certificate(folder)
    (folder / "new").mkdir()
    new_certificate, new_key = make_server_certificate(folder / "new")
    expected = ssl.PEM_cert_to_DER_cert(new_certificate.read_text())
    context = tls_context(people["nobody"])
    with started_proxy(
        "traefik",
        folder,
        app=f"127.0.0.1:{free_port()}",
        auth=f"127.0.0.1:{free_port()}",
        certificate=(certificate, key),
    ) as proxy:
        routes = proxy.directory / "traefik-routes.yml"
        assert f'-after-change "touch {routes}"' in (proxy.directory / "traefik.yml").read_text()
        old = ssl.PEM_cert_to_DER_cert(certificate.read_text())
        wait_until_ready(lambda: shown_certificate(proxy.port, context) == old, what="the old pair")
        new_key.replace(key)
        routes.touch()
        wait_until_ready(lambda: shown_certificate(proxy.port, context) is None, what="no pair")
        new_certificate.replace(certificate)
        routes.touch()
        wait_until_ready(
            lambda: shown_certificate(proxy.port, context) == expected, what="the new pair"
        )


def test_method_and_path_are_traefiks_word_also_where_the_client_is_trusted(folder: Path) -> None:
    """A front that is named in `trustedIPs` passes what its own clients wrote."""
    people = make_people(folder)

    def trusting(text: str) -> str:
        opened = '"\n    forwardedHeaders:\n      insecure: true\n    # By default Traefik takes'
        return text.replace('"\n    # By default Traefik takes', opened)

    with (
        a_service() as auth,
        started_proxy(
            "traefik",
            folder,
            app=f"127.0.0.1:{free_port()}",
            auth=f"127.0.0.1:{auth.port}",
            certificate=make_server_certificate(folder),
            edit=trusting,
        ) as proxy,
    ):
        assert "insecure: true" in (proxy.directory / "traefik.yml").read_text()
        wait_until_ready(lambda: ask(proxy.port, people["carol"]).status == 403, what="routes")
        count = len(auth.listener.facts)
        forged = [("x-forwarded-uri", "/forged"), ("x-forwarded-method", "FORGED")]
        request = http1_request(method="PUT", target="/real", headers=forged)
        assert ask(proxy.port, people["carol"], request).status == 403
        answer = ask_http2(
            proxy.port, people["carol"], method="PUT", target="/real", headers=forged
        )
        assert answer.status == 403
        seen = [(facts["method"], facts["uri"]) for facts in auth.listener.facts[count:]]
        assert seen == [("PUT", "/real")] * 2
