"""The application behind the proxy: it tells what reached it, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import json
import socketserver
import threading
from io import BufferedIOBase
from types import TracebackType
from typing import Final, Self

# Long enough for an answer, short enough for a test that expects none.
_IDLE_SECONDS: Final = 30


class _Handler(socketserver.StreamRequestHandler):
    timeout = _IDLE_SECONDS
    server: _Server

    def handle(self) -> None:
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
        self.server.requests.append(lines[0])
        if "upgrade" in seen and "upgrade" in seen.get("connection", "").lower():
            # As willing as an application can be: any protocol is fine with it.
            reply = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: {seen['upgrade']}\r\n"
            reply += f"Connection: Upgrade\r\nX-Seen-Hotkey: {seen.get('x-hotkey', '')}\r\n"
            reply += f"Sec-WebSocket-Accept: {_accept(seen.get('sec-websocket-key', ''))}\r\n\r\n"
            self.wfile.write(reply.encode("latin-1"))
            self.wfile.write(self.rfile.readline())
            return False
        answer = json.dumps(
            {
                "line": lines[0],
                "headers": headers,
                "body": body.decode("latin-1"),
                "trailers": trailers,
            }
        ).encode()
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
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
    requests: list[str]


class Application:
    """Answers every request with what it saw. `requests` holds the request lines."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.requests = []
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def requests(self) -> list[str]:
        """The request lines that reached it so far."""
        return self._server.requests

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
