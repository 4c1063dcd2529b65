"""Servers that write down what they get, byte by byte, and what they could make of it."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography import x509
from cryptography.x509.oid import NameOID

_PATIENCE_SECONDS: Final = 30.0
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwell"
REQUEST: Final = b"GET /secret HTTP/1.1\r\nHost: miner\r\n\r\n"


@dataclass
class Recorded:
    """One connection.

    Attributes:
        raw: Every byte that came.
        completed: Whether the handshake was completed at the server's end.
        caller: The O of the client's certificate; None where none was shown.
        plaintext: What was in the application's bytes.
        end: How the client ended it: `closed`, `reset`, or `open` where it did not.
        error: Why the handshake failed.
    """

    raw: bytearray = field(default_factory=bytearray)
    completed: bool = False
    caller: str | None = None
    plaintext: bytearray = field(default_factory=bytearray)
    end: str = "open"
    error: Exception | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def gained_nothing(self) -> bool:
        """Whether the server has neither a connection, nor a certificate, nor part of a request."""
        return not self.completed and self.caller is None and not self.plaintext

    def wait(self) -> Self:
        """Waits until the client has ended it."""
        assert self._ended.wait(_PATIENCE_SECONDS)
        return self


class Listener:
    """Accepts connections on loopback, each in a thread, until the block ends."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._listener = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(_PATIENCE_SECONDS)
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE_SECONDS)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(_PATIENCE_SECONDS)
            self._open.append(connection)
            thread = threading.Thread(target=self._serve_and_close, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve_and_close(self, connection: socket.socket) -> None:
        with connection:
            self.serve(connection)

    def serve(self, connection: socket.socket) -> None:
        """Serves one connection."""
        raise NotImplementedError


class RecordingServer(Listener):
    """An HTTP server over TLS that records, and answers the first request with 200."""

    answer = ANSWER

    def __init__(self, context: ssl.SSLContext, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.context = context
        self.connections: list[Recorded] = []
        self._came = threading.Condition()

    def connection(self, number: int = 0) -> Recorded:
        """One of the connections, when it has ended."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.connections) > number, _PATIENCE_SECONDS)
        return self.connections[number].wait()

    def serve(self, connection: socket.socket) -> None:
        """Records one connection to its end."""
        record = Recorded()
        with self._came:
            self.connections.append(record)
            self._came.notify_all()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        end = self.context.wrap_bio(incoming, outgoing, server_side=True)
        try:
            while received := connection.recv(65536):
                record.raw += received
                incoming.write(received)
                if record.error is None:
                    self._step(end, record)
                connection.sendall(outgoing.read())
                if record.plaintext.endswith(b"\r\n\r\n"):
                    end.write(self.answer)
                    closes = b"Connection: close" in self.answer
                    with suppress(ssl.SSLWantReadError):
                        if closes:
                            end.unwrap()
                    connection.sendall(outgoing.read())
                    if closes:
                        connection.shutdown(socket.SHUT_WR)
                    record.plaintext += b"(answered)"
            record.end = "closed"
        except ConnectionError:
            record.end = "reset"
        except OSError:
            pass
        finally:
            record._ended.set()

    @staticmethod
    def _step(end: ssl.SSLObject, record: Recorded) -> None:
        try:
            if not record.completed:
                end.do_handshake()
                record.completed = True
                record.caller = _name_in(end.getpeercert(binary_form=True))
            while received := end.read(65536):
                record.plaintext += received
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        except ssl.SSLError as exc:
            record.error = exc


def _name_in(der: bytes | None) -> str | None:
    if der is None:
        return None
    subject = x509.load_der_x509_certificate(der).subject
    return str(subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


class Relay(Listener):
    """An impostor without a key: passes every byte on to another server, and records them."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._target = port
        self.seen = bytearray()

    def serve(self, connection: socket.socket) -> None:
        """Passes bytes on in both directions."""
        with socket.create_connection(("127.0.0.1", self._target)) as target:
            back = threading.Thread(target=self._pass_on, args=(target, connection), daemon=True)
            back.start()
            self._pass_on(connection, target)
            back.join(_PATIENCE_SECONDS)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while received := source.recv(65536):
                self.seen += received
                target.sendall(received)
            target.shutdown(socket.SHUT_WR)
