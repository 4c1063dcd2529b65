"""The application behind the proxy: it tells what reached it, byte for byte."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import socketserver
import threading
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Final, Self

# Long enough for an answer, short enough for a test that expects none.
_IDLE_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Record:
    """One request as the application saw it; header names in lower case."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: str
    trailers: str

    @property
    def hotkeys(self) -> list[str]:
        """Every X-Hotkey that any server could make out, under any spelling, trailers included."""
        pairs = [*self.headers]
        pairs += [
            (name, value)
            for name, _, value in (line.partition(":") for line in self.trailers.splitlines())
        ]
        return [
            value.strip()
            for name, value in pairs
            if name.lower().strip().replace("_", "-").replace(".", "-") == "x-hotkey"
        ]


class _Handler(socketserver.StreamRequestHandler):
    timeout = _IDLE_SECONDS
    server: _Server

    def handle(self) -> None:
        self.server.connections.append(self.connection)
        try:
            while self._one_request():
                pass
        except OSError:
            pass

    def _one_request(self) -> bool:
        head = _read_head(self.rfile)
        if not head:
            return False
        lines = head.decode("latin-1").split("\r\n")
        fields = [line.split(":", 1) for line in lines[1:] if ":" in line]
        headers = [(name.lower(), value.strip()) for name, value in fields]
        seen = dict(headers)
        trailers = ""
        if "chunked" in seen.get("transfer-encoding", "").lower():
            body, trailers = _read_chunks(self.rfile)
        else:
            body = self.rfile.read(int(seen.get("content-length", "0")))
        record = Record(lines[0], tuple(headers), body.decode("latin-1"), trailers)
        self.server.records.append(record)
        if "upgrade" in seen and "upgrade" in seen.get("connection", "").lower():
            # As willing as an application can be: any protocol is fine with it.
            reply = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {seen['upgrade']}\r\n"
            reply += "Connection: Upgrade\r\n"
            reply += f"Sec-WebSocket-Accept: {_accept(seen.get('sec-websocket-key', ''))}\r\n\r\n"
            self.wfile.write(reply.encode("latin-1"))
            self.wfile.write(self.rfile.readline())
            return False
        answer = b"Hello from the application\n"
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Long: "
            + b"a" * int(seen.get("x-long-wanted", "0"))
            + b"\r\nContent-Length: "
            + str(len(answer)).encode()
            + b"\r\n\r\n"
            + (b"" if lines[0].startswith("HEAD ") else answer)
        )
        return True


def _accept(key: str) -> str:
    """RFC 6455 §4.2.2: proves that the key was read."""
    text = f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(text.encode(), usedforsecurity=False).digest()).decode()


def _read_head(stream: BufferedIOBase) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline(1 << 20)
        if not line:
            return b""
        head += line
    return head


def _read_chunks(stream: BufferedIOBase) -> tuple[bytes, str]:
    body = b""
    while True:
        size = int(stream.readline().split(b";")[0], 16)
        if size == 0:
            break
        body += stream.read(size)
        stream.readline()
    trailers = b""
    while (line := stream.readline()) not in {b"\r\n", b""}:
        trailers += line
    return body, trailers.decode("latin-1")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128
    records: list[Record]
    connections: list[socket.socket]


class Application:
    """Lets everybody in, and keeps a record of what reached it."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = _Server((host, port), _Handler)
        self._server.records = []
        self._server.connections = []
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The TCP port that it got."""
        return self._server.server_address[1]

    @property
    def records(self) -> list[Record]:
        """The requests that reached it so far."""
        return self._server.records

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._server.connections:
            # As the end of a process does it.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
