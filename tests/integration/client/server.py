"""A TLS server that a test holds in its hands: what it shows, what it answers, what it was sent."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.files import PUBLIC_MODE, replace_file
from nexus_auth.testing import Caller

R = TypeVar("R")

_WAIT_SECONDS: Final = 20


def save_pair(directory: Path, identity: Caller) -> CredentialsDirectory:
    """Writes a pair as `generate` leaves it, over one that is there."""
    directory.mkdir(exist_ok=True)
    pair = CredentialsDirectory(directory)
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    replace_file(pair.key_path, key)
    replace_file(pair.certificate_path, identity.pem, mode=PUBLIC_MODE)
    return pair


@dataclass
class Connection:
    """One connection as the server saw it.

    Attributes:
        received: Every byte, as it came.
        client: The certificate that the client showed (DER); None for none.
        requests: The head of each request.
        is_open: Whether the client has not closed it.
    """

    received: bytearray = field(default_factory=bytearray)
    client: bytes | None = None
    requests: list[str] = field(default_factory=list)
    is_open: bool = True

    @property
    def sent_records(self) -> list[int]:
        """The types of the TLS records that came (RFC 8446 §5.1)."""
        types, at = [], 0
        while at + 5 <= len(self.received):
            types.append(self.received[at])
            at += 5 + int.from_bytes(self.received[at + 3 : at + 5])
        return types


class TlsServer:
    """Answers 200 to everything but what `answers` names. Made by `running_server`.

    Attributes:
        answers: A whole answer, by path.
        resume: An answer to `/slow` stops in the middle until this is set.
        connections: In the order in which they came.
    """

    def __init__(self, identity: Caller, *, trusts: tuple[Caller, ...], host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.host = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"https://{self.host}"
        self.answers: dict[str, bytes] = {}
        self.resume = threading.Event()
        self.connections: list[Connection] = []
        self._sockets: list[socket.socket] = []
        self.show(identity, trusts=trusts)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def requests(self) -> list[str]:
        """The heads of all requests."""
        return [head for connection in self.connections for head in connection.requests]

    def show(self, identity: Caller, *, trusts: tuple[Caller, ...] = ()) -> None:
        """Shows this identity's certificate on new connections; `trusts` as of `running_server`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with TemporaryDirectory() as folder:
            pair = save_pair(Path(folder), identity)
            context.load_cert_chain(pair.certificate_path, pair.key_path)
        if trusts:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(cadata="".join(each.pem.decode() for each in trusts))
        self._context = context

    def close(self) -> None:
        """Cuts every connection."""
        self.resume.set()
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection()
            self._sockets.append(accepted)
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(accepted, connection), daemon=True).start()

    def _serve(self, accepted: socket.socket, connection: Connection) -> None:
        accepted.settimeout(_WAIT_SECONDS)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)
        with accepted, suppress(OSError, EOFError):
            channel = _Channel(accepted, connection, incoming, outgoing)
            try:
                channel.run(tls.do_handshake)
                connection.client = tls.getpeercert(binary_form=True)
                while True:
                    self._answer(tls, channel, connection)
            finally:
                connection.is_open = False

    def _answer(self, tls: ssl.SSLObject, channel: _Channel, connection: Connection) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            part = channel.run(lambda: tls.read(65536))
            if not part:
                raise EOFError
            head += part
        text, _, body = head.partition(b"\r\n\r\n")
        lines = text.decode("latin-1")
        for line in lines.lower().split("\r\n"):
            if line.startswith("content-length:"):
                missing = int(line.partition(":")[2]) - len(body)
                while missing > 0:
                    missing -= len(channel.run(lambda: tls.read(65536)))
        connection.requests.append(lines)
        path = lines.split(" ", 2)[1]
        answer = self.answers.get(path, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell")
        if path == "/slow":
            channel.run(lambda: tls.write(answer[:-2]))
            self.resume.wait(_WAIT_SECONDS)
            answer = answer[-2:]
        channel.run(lambda: tls.write(answer))


class _Channel:
    """Carries TLS between memory and a socket."""

    def __init__(
        self,
        accepted: socket.socket,
        connection: Connection,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        self._socket, self._connection = accepted, connection
        self._incoming, self._outgoing = incoming, outgoing

    def run(self, step: Callable[[], R]) -> R:
        """Runs a step until it needs nothing more."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._socket.sendall(self._outgoing.read())
                data = self._socket.recv(65536)
                if not data:
                    raise EOFError from None
                self._connection.received += data
                self._incoming.write(data)
            except ssl.SSLError:
                self._socket.sendall(self._outgoing.read())
                raise
            else:
                self._socket.sendall(self._outgoing.read())
                return result


@contextmanager
def running_server(
    identity: Caller, *, trusts: tuple[Caller, ...] = (), host: str = "127.0.0.1"
) -> Iterator[TlsServer]:
    """Runs a server until the block ends.

    Args:
        identity: Whose certificate it shows, and whose key it holds.
        trusts: The clients whose certificate is taken, which are asked for one; where none is
            named, none is asked for.
        host: A loopback address.
    """
    server = TlsServer(identity, trusts=trusts, host=host)
    try:
        yield server
    finally:
        server.close()


def redirect_to(location: str, *, status: int = 307) -> bytes:
    """A whole answer that leads elsewhere."""
    return f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
