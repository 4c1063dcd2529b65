"""A Pylon over a real socket that can do everything wrong."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from nexus_auth.domain.hotkey import Hotkey
from tests.integration.real import free_port

NETUID: Final = 12
BULK_PATH: Final = f"/api/v1/subnet/{NETUID}/block/latest/certificates"

BOMB: Final = gzip.compress(b"\x00" * 50_000_000, compresslevel=9)
"""Some fifty kilobytes that become fifty megabytes."""


@dataclass(frozen=True)
class Reply:
    """What is sent for one request."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    repeat: int = 1
    """How often the body is sent."""
    pause: float = 0.0
    """Seconds between its bytes; 0 sends it at once."""


Entries = dict[str, Any]
"""What is said of each hotkey, by its address."""

Behaviour = Callable[["FaultyPylon"], Reply | Entries | None]
"""Makes the reply to any request, or the entries to tell in one; None says nothing at all."""


@dataclass
class FaultyPylon:
    """Tells the keys it holds, unless a test makes it misbehave.

    Counts the requests, and keeps its port while it is closed.
    """

    keys: dict[Hotkey, bytes]
    behaviour: Behaviour | None = None
    is_resetting: bool = False
    requests: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._server: asyncio.Server | None = None
        self.port = free_port()
        self._connections: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None] | None] = set()
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shut()

    @property
    def endpoint(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listens, on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def shut(self) -> None:
        """Refuses connections, and ends those that are open."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for writer in list(self._connections):
                writer.transport.abort()
            handlers = [handler for handler in self._handlers if handler is not None]
            for handler in handlers:
                handler.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
            await server.wait_closed()

    def entries(self) -> Entries:
        """The bulk answer as it should be."""
        return {
            hotkey.address: {"algorithm": 1, "public_key": key.hex()}
            for hotkey, key in self.keys.items()
        }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        self._handlers.add(asyncio.current_task())
        try:
            # asyncio's server reports a handler that was cancelled as a defect.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    path = head.split(b" ", 2)[1].decode()
                    self.requests.append(path)
                    if self.is_resetting:
                        _reset(writer)
                        return
                    await self._reply(path, writer)
        finally:
            self._connections.discard(writer)
            self._handlers.discard(asyncio.current_task())
            writer.close()

    async def _reply(self, path: str, writer: asyncio.StreamWriter) -> None:
        reply = self.entries() if self.behaviour is None else self.behaviour(self)
        if isinstance(reply, dict):
            reply = _tell(reply, path)
        if reply is None:
            await asyncio.sleep(3600)
            return
        headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        length = len(reply.body) * reply.repeat
        head = f"HTTP/1.1 {reply.status} X\r\nContent-Length: {length}\r\n{headers}\r\n"
        writer.write(head.encode())
        for _ in range(reply.repeat):
            if reply.pause:
                for byte in reply.body:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(reply.pause)
            else:
                writer.write(reply.body)
            await writer.drain()


def as_json(value: object, *, status: int = 200) -> Reply:
    """A reply as Pylon makes it."""
    return Reply(status=status, body=json.dumps(value).encode())


NOT_FOUND: Final = as_json(
    {"status_code": 404, "detail": "Certificate not found or error fetching."}, status=404
)


def _tell(entries: Entries, path: str) -> Reply:
    """All entries, or one, as Pylon tells them."""
    if path == BULK_PATH:
        return as_json(entries)
    address = path.removeprefix(f"{BULK_PATH}/")
    return as_json(entries[address]) if address in entries else NOT_FOUND


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    # Zero linger: closing sends RST instead of FIN.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
