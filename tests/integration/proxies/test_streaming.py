"""Answers that come bit by bit."""

from __future__ import annotations

import socketserver
import threading

import pytest

from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import TIMEOUT_SECONDS, connect, http1_request, tls_context
from tests.integration.proxies.stack import (
    PROGRAMS,
    make_people,
    make_server_certificate,
    open_folder,
    running_proxy,
)
from tests.integration.real import require_program, wait_until_ready

FIRST, SECOND = b"data: first", b"data: second"
GRANTED = b"HTTP/1.1 200 "


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        while line := self.rfile.readline():
            if line == b"\r\n":
                break
        else:
            return
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        )
        self.wfile.write(FIRST)
        self.wfile.flush()
        if self.server.arrived.wait(TIMEOUT_SECONDS):
            self.wfile.write(SECOND)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.arrived = threading.Event()


@pytest.mark.parametrize("proxy", PROGRAMS)
def test_what_the_application_says_bit_by_bit_arrives_bit_by_bit(proxy: str) -> None:
    """The application waits with its second word until the caller has heard the first."""
    require_program(proxy, PROGRAMS[proxy])
    with open_folder() as folder, _Server() as application:
        thread = threading.Thread(target=application.serve_forever, args=(0.05,))
        thread.start()
        people = make_people(folder)
        try:
            with (
                AuthService(proxy, 0, reuse_seconds=0, knows=("alice",)) as auth,
                running_proxy(
                    proxy,
                    folder,
                    app=f"127.0.0.1:{application.server_address[1]}",
                    auth=f"127.0.0.1:{auth.port}",
                    certificate=make_server_certificate(folder),
                ) as port,
            ):

                def both_words_are_heard() -> bool:
                    heard = b""
                    try:
                        with connect(port, tls_context(people["alice"])) as connection:
                            connection.sendall(http1_request())
                            while SECOND not in heard and (data := connection.recv(65536)):
                                heard += data
                                if not heard.startswith(GRANTED[: len(heard)]):
                                    return False  # It does not know its routes yet.
                                if FIRST in heard:
                                    application.arrived.set()
                    except OSError:
                        # Some proxies open their port before they know their routes.
                        return False
                    return SECOND in heard

                wait_until_ready(both_words_are_heard, what=f"both words through {proxy}")
        finally:
            application.shutdown()
            thread.join()
