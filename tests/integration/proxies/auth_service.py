"""The auth services behind the proxy: a real one, and one that answers nonsense."""

from __future__ import annotations

import socketserver
import threading
from types import TracebackType
from typing import Self


class _MoodyHandler(socketserver.StreamRequestHandler):
    timeout = 30
    server: _MoodyServer

    def handle(self) -> None:
        try:
            while True:
                line = self.rfile.readline(1 << 20)
                if not line:
                    return
                if line != b"\r\n":
                    continue
                if not self.server.answer:
                    return
                self.wfile.write(self.server.answer)
        except OSError:
            pass


class _MoodyServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    answer: bytes = b""


class MoodyAuthService:
    """Gives every request the same raw `answer`; closes the connection when that is empty."""

    def __init__(self, port: int) -> None:
        self._server = _MoodyServer(("127.0.0.1", port), _MoodyHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def answers(self, status_line: str, *headers: str, body: str = "Access granted") -> None:
        """Says what is answered from now on."""
        lines = [f"HTTP/1.1 {status_line}", *headers, f"Content-Length: {len(body)}"]
        self._server.answer = ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")

    def hangs_up(self) -> None:
        """Closes every connection without an answer from now on."""
        self._server.answer = b""

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
