"""The application behind the proxy: answers every request with what it received."""

from __future__ import annotations

import json
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final

from nexus_auth.adapters.headers.names import HOTKEY_HEADER

_IDLE_SECONDS: Final = 30
_MAX_BODY_BYTES: Final = 1024 * 1024


class EchoBackend(ThreadingHTTPServer):
    """A small HTTP server on a port of loopback, in a thread of its own.

    Attributes:
        requests: How many requests have reached it.
        received: The headers of the last one.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests = 0
        self.received = Message()
        self._thread = Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stops answering."""
        if self._thread.is_alive():
            self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A proxy that drops its connection is no event worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    server: EchoBackend
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        self._skip_body()
        self.server.received = self.headers
        self.server.requests += 1
        hotkeys = self.headers.get_all(HOTKEY_HEADER) or []
        answer = {
            "message": f"Hello {', '.join(hotkeys) or 'stranger'}, says the application.",
            "method": self.command,
            "path": self.path,
            "headers": [f"{name}: {value}" for name, value in self.headers.items()],
        }
        body = json.dumps(answer, indent=2).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name that the base class looks for

    def _skip_body(self) -> None:
        """Reads past the request's body, which would pass for the next request otherwise."""
        length = self.headers.get("Content-Length", "0")
        chunked = "Transfer-Encoding" in self.headers
        if chunked or not length.isdecimal() or int(length) > _MAX_BODY_BYTES:
            self.close_connection = True
        else:
            self.rfile.read(int(length))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's word
        """Keeps the terminal for the demo's own lines."""
