"""An HTTPS server that shows a pair, and answers every connection with the same bytes."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.devnet.records import Axon

_SECONDS = 20
_READ_BYTES = 64 * 1024

Answer = Callable[[ssl.SSLSocket], None]


class AnsweringServer:
    """A server in a thread of its own. Made by `answering`.

    Attributes:
        connections: How many were opened.
        received: What came over each connection whose handshake the client completed.
    """

    def __init__(
        self, pair: CredentialsDirectory, answer: bytes | Answer, host: str, highest: str
    ) -> None:
        self.connections = 0
        self.received: list[bytes] = []
        self._answer = answer
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.maximum_version = ssl.TLSVersion[highest]
        self._context.load_cert_chain(pair.certificate_path, pair.key_path)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.host, self.port = self._listener.getsockname()[:2]
        self.thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def axon(self) -> Axon:
        """Where it is."""
        return Axon(ip=self.host, port=self.port)

    @property
    def url(self) -> str:
        """The same, as a URL."""
        return f"https://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def close(self) -> None:
        """Takes no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.thread.join(_SECONDS)

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            plain.settimeout(_SECONDS)
            with plain, suppress(OSError):
                self._talk(plain)

    def _talk(self, plain: socket.socket) -> None:
        with self._context.wrap_socket(plain, server_side=True) as connection:
            self.received.append(b"")
            while not _is_whole(self.received[-1]):
                piece = connection.recv(_READ_BYTES)
                if not piece:
                    return
                self.received[-1] += piece
            if callable(self._answer):
                self._answer(connection)
            else:
                connection.sendall(self._answer)
            connection.unwrap()


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    if b"transfer-encoding: chunked" in lines:
        return body.endswith(b"0\r\n\r\n")
    [length] = [int(line[15:]) for line in lines if line.startswith(b"content-length:")] or [0]
    return bool(end) and len(body) >= length


@contextmanager
def answering(
    pair: CredentialsDirectory,
    answer: bytes | Answer,
    *,
    host: str = "127.0.0.1",
    highest: str = "TLSv1_3",
) -> Iterator[AnsweringServer]:
    """Runs one until the block ends; `highest` names its highest version of TLS."""
    server = AnsweringServer(pair, answer, host, highest)
    server.thread.start()
    try:
        yield server
    finally:
        server.close()
