"""Requests to a node over WebSocket, one connection for some calls one after another.

The library's protocol is used without its network: so all that comes is bounded, in bytes and in
number, and neither redirects nor proxies nor the environment have a say. Nothing is compressed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, PayloadTooBig, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from nexus_auth.adapters.bounded_http import (
    AROUND_BYTES,
    READ_BYTES,
    AnswerOutOfBounds,
    PieceCounter,
)
from nexus_auth.adapters.chain.http import describe_failure
from nexus_auth.adapters.chain.rpc import (
    MAX_STATE_CALL_BYTES,
    Connect,
    Exchange,
    NodeAnswerInvalid,
    NodeUnreachable,
    status_failure,
)
from nexus_auth.domain.errors import RegistryError

_DATA: Final = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})
_MAX_CONTROL_FRAMES: Final = 32
"""In one answer. A node pings every 30 s; two bytes of a ping cost as much as an answer."""

_CLOSE_SECONDS: Final = 1.0
"""How long a node may take to close; then the connection is cut."""


def connect_websocket(
    tls: ssl.SSLContext,
    endpoint: str,
    *,
    connect_timeout_seconds: float,
    read_timeout_seconds: float,
) -> Connect:
    """Builds the transport to one node.

    Args:
        tls: Which servers are trusted.
        endpoint: The address of the node, `ws://` or `wss://`.
        connect_timeout_seconds: How long a connection may take to open.
        read_timeout_seconds: How long a whole answer may take, that to the handshake included.
    """

    @asynccontextmanager
    async def connect() -> AsyncIterator[Exchange]:
        try:
            uri = parse_uri(endpoint)
            async with asyncio.timeout(connect_timeout_seconds):
                reader, writer = await asyncio.open_connection(
                    uri.host, uri.port, ssl=tls if uri.secure else None, limit=READ_BYTES
                )
        except (OSError, ValueError, WebSocketException) as exc:
            raise NodeUnreachable(describe_failure(exc)) from None
        connection = _Connection(reader, writer, ClientProtocol(uri, max_size=MAX_STATE_CALL_BYTES))

        async def exchange(request: bytes, max_bytes: int) -> bytes:
            return await _within(read_timeout_seconds, connection, request, max_bytes)

        try:
            yield exchange
        finally:
            await connection.close()

    return connect


async def _within(seconds: float, connection: _Connection, request: bytes, max_bytes: int) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await connection.exchange(request, max_bytes)
    except RegistryError:
        raise
    except AnswerOutOfBounds as exc:
        raise NodeAnswerInvalid(f"gave an answer that {exc}") from None
    except (OSError, WebSocketException, EOFError) as exc:
        failure = describe_failure(exc)
    raise NodeUnreachable(failure)


class _Connection:
    """The bytes of one connection, given to the library's protocol a few at a time."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        protocol: ClientProtocol,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = protocol
        self._left = 0
        """How many bytes may come for the exchange that is under way."""

    async def exchange(self, request: bytes, max_bytes: int) -> bytes:
        """Sends a message, and gives the next one that comes."""
        self._left = AROUND_BYTES
        if self._protocol.state != OPEN:
            self._protocol.send_request(self._protocol.connect())
            await self._flush()
            while self._protocol.state != OPEN:
                await self._read()
        self._left = AROUND_BYTES + max_bytes
        self._protocol.send_text(request)
        await self._flush()
        message = bytearray()
        counter = PieceCounter(max_bytes)
        control_frames = 0
        while True:
            for event in self._protocol.events_received():
                if not isinstance(event, Frame):
                    continue  # the answer to the handshake
                if event.opcode in _DATA:
                    counter.count(event.data)
                    message += event.data
                    if event.fin:
                        return bytes(message)
                elif (control_frames := control_frames + 1) > _MAX_CONTROL_FRAMES:
                    raise AnswerOutOfBounds("never comes for pings")
            await self._read()

    async def _read(self) -> None:
        """Reads what is there, a little of it, and answers pings."""
        if self._left <= 0:
            raise AnswerOutOfBounds("is longer than any that could be one")
        data = await self._reader.read(READ_BYTES)
        self._left -= len(data)
        protocol = self._protocol
        if data:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        await self._flush()
        match protocol.handshake_exc or protocol.parser_exc:
            case InvalidStatus(response=response):
                raise status_failure(response.status_code)
            case PayloadTooBig():
                raise AnswerOutOfBounds(f"is longer than {MAX_STATE_CALL_BYTES} bytes")
            case None:
                pass
            case _:
                raise NodeAnswerInvalid("does not speak WebSocket as it should")
        if not data or protocol.close_rcvd is not None:
            raise NodeUnreachable("closed the connection")

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        """Says goodbye where that is possible, and closes the connection in any case."""
        try:
            with suppress(OSError, WebSocketException):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    if self._protocol.state == OPEN:
                        self._protocol.send_close()
                        await self._flush()
                    self._writer.close()
                    await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()
