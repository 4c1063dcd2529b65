"""A node that does what it can over a raw socket exhausts neither memory nor time."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import pytest

from nexus_auth.adapters.chain.rpc import MAX_STATE_CALL_BYTES, NodeAnswerInvalid, NodeUnreachable
from nexus_auth.adapters.chain.source import ChainSource
from nexus_auth.domain.errors import RegistryError

MEMORY_BYTES: Final = 16 * 1024 * 1024
POURED_BYTES: Final = 32 * 1024 * 1024
"""What a node may get rid of at most: what is read, and what fits between two sockets."""

READ_SECONDS: Final = 3.0

SAYS: Final = b'{"jsonrpc":"2.0","id":1,"result":"0x' + b"ab" * 32 + b'"}'
"""An honest answer to the first request."""


class Peer:
    """One connection, as the hostile node sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer
        self.poured = 0

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        self.poured += len(data)

    async def pour(self, data: bytes) -> None:
        """Without an end, or until nothing more is taken."""
        data *= 65536 // len(data) + 1
        while self.poured < 4 * POURED_BYTES:
            await self.send(data)

    async def read_head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def shake_hands(self, extra: bytes = b"", *, key: bytes | None = None) -> None:
        """Answers the handshake as RFC 6455 §4.2.2 says."""
        head = await self.read_head()
        if key is None:
            [line] = [line for line in head.split(b"\r\n") if b"Sec-WebSocket-Key" in line]
            key = line.split(b": ")[1]
        accept = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324 - RFC 6455
        await self.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n" + extra + b"\r\n"
        )

    async def read_request(self) -> None:
        """Reads what is there of the first frame."""
        await self.reader.read(4096)


Behaviour = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def serving(behave: Behaviour) -> AsyncIterator[tuple[int, list[Peer]]]:
    """Serves every connection in this way, and gives the port and the connections."""
    peers: list[Peer] = []
    handlers: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        peers.append(Peer(reader, writer))
        with contextlib.suppress(OSError, EOFError):
            await behave(peers[-1])
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], peers
        # Each ends with its connection, which the source has closed.
        await asyncio.gather(*(handler for handler in handlers if handler is not None))


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, length: int | None = None) -> bytes:
    """One frame as a server sends it (RFC 6455 §5.2); `length` is what it says of itself."""
    size = len(data) if length is None else length
    first = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        return first + bytes([size]) + data
    if size < 65536:
        return first + b"\x7e" + size.to_bytes(2, "big") + data
    return first + b"\x7f" + size.to_bytes(8, "big") + data


CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def after_handshake(*parts: bytes, pour: bytes = b"") -> Behaviour:
    """Sends these bytes for the first request, and pours others."""

    async def behave(peer: Peer) -> None:
        await peer.shake_hands()
        await peer.read_request()
        for part in parts:
            await peer.send(part)
        if pour:
            await peer.pour(pour)

    return behave


async def say_nothing(peer: Peer) -> None:
    """Takes the connection and waits."""
    await peer.reader.read()


async def say_nothing_after_the_handshake(peer: Peer) -> None:
    """As above, later."""
    await peer.shake_hands()
    await peer.reader.read()


async def hang_up(peer: Peer) -> None:
    """At once."""


async def hang_up_in_the_middle(peer: Peer) -> None:
    """Of a frame."""
    await peer.shake_hands()
    await peer.read_request()
    await peer.send(frame(TEXT, SAYS)[:-5])


async def accept_wrongly(peer: Peer) -> None:
    """For a key that was not sent."""
    await peer.shake_hands(key=b"another")


async def compress(peer: Peer) -> None:
    """Though nothing of it was offered."""
    await peer.shake_hands(b"Sec-WebSocket-Extensions: permessage-deflate\r\n")


async def pour_headers(peer: Peer) -> None:
    """In the answer to the handshake."""
    await peer.read_head()
    await peer.send(b"HTTP/1.1 101 Switching Protocols\r\n")
    await peer.pour(b"X-Header: 1\r\n")


async def pour_a_status(peer: Peer) -> None:
    """A line without end."""
    await peer.pour(b"HTTP/1.1 101 ")


async def pour_an_error_page(peer: Peer) -> None:
    """In place of a handshake."""
    await peer.read_head()
    await peer.send(b"HTTP/1.1 503 Unavailable\r\n\r\n")
    await peer.pour(b"<html>")


async def speak_plainly(peer: Peer) -> None:
    """No HTTP at all."""
    await peer.send(b"\x16\x03\x01 SSH-2.0-OpenSSH\r\n\r\n")


async def speak_slowly(peer: Peer) -> None:
    """A byte now and then keeps a limit on each read from passing."""
    await peer.shake_hands()
    await peer.read_request()
    for byte in frame(TEXT, SAYS * 100, fin=False):
        await peer.send(bytes([byte]))
        await asyncio.sleep(0.05)


WEBSOCKET: Final[dict[str, Behaviour]] = {
    "says nothing": say_nothing,
    "says nothing after the handshake": say_nothing_after_the_handshake,
    "speaks slowly": speak_slowly,
    "hangs up": hang_up,
    "hangs up in a frame": hang_up_in_the_middle,
    "accepts wrongly": accept_wrongly,
    "compresses": compress,
    "endless headers": pour_headers,
    "an endless status": pour_a_status,
    "an endless error page": pour_an_error_page,
    "another protocol": speak_plainly,
    "endless pings": after_handshake(pour=frame(PING)),
    "endless pings with data": after_handshake(pour=frame(PING, b"x" * 125)),
    "endless pongs": after_handshake(pour=frame(PONG)),
    "pings between the parts": after_handshake(
        frame(TEXT, b"{", fin=False), pour=frame(PING) + frame(CONT, b" ", fin=False)
    ),
    "endless empty parts": after_handshake(
        frame(TEXT, b"{", fin=False), pour=frame(CONT, fin=False)
    ),
    "endless parts of one byte": after_handshake(
        frame(TEXT, b"{", fin=False), pour=frame(CONT, b" ", fin=False)
    ),
    "an endless message": after_handshake(
        frame(TEXT, b"{", fin=False), pour=frame(CONT, b" " * 60_000, fin=False)
    ),
    "a message of 600 KB": after_handshake(frame(TEXT, b" " * 600_000)),
    "a frame that claims to be endless": after_handshake(
        frame(TEXT, length=2**62), pour=b" " * 100
    ),
    "a frame that claims more than it has": after_handshake(frame(TEXT, SAYS, length=400_000)),
    "the longest frame, and no more": after_handshake(
        frame(TEXT, length=MAX_STATE_CALL_BYTES), pour=b" " * 100
    ),
    "no UTF-8": after_handshake(frame(TEXT, b"\xff\xfe")),
    "binary": after_handshake(frame(BINARY, b"\x00" * 10)),
    "a reserved opcode": after_handshake(frame(3, SAYS)),
    "a compressed frame": after_handshake(frame(TEXT | 0x40, SAYS)),
    "a masked frame": after_handshake(bytes([0x81, 0x80, 1, 2, 3, 4])),
    "a part of nothing": after_handshake(frame(CONT, SAYS)),
    "says goodbye": after_handshake(frame(CLOSE, (1001).to_bytes(2, "big") + b"canary")),
    "says goodbye wrongly": after_handshake(frame(CLOSE, b"\x00")),
    "an empty message": after_handshake(frame(TEXT)),
    "the same answer again and again": after_handshake(pour=frame(TEXT, SAYS)),
    "answers before it is asked": after_handshake(frame(TEXT, SAYS) * 3),
}

LATE: Final = {"says nothing", "says nothing after the handshake", "speaks slowly"}
"""What ends by the limits of time alone."""


@pytest.mark.parametrize("name", WEBSOCKET)
async def test_hostile_websocket_ends_as_our_own_error(name: str) -> None:
    """In bounded memory, and without taking more than could be an answer."""
    async with serving(WEBSOCKET[name]) as (port, peers):
        await expect_failure(f"ws://127.0.0.1:{port}", is_late=name in LATE)
    assert peers
    assert sum(peer.poured for peer in peers) < POURED_BYTES


async def expect_failure(endpoint: str, *, is_late: bool) -> None:
    """Fetches from a node, and looks at how that fails."""
    async with ChainSource(
        endpoints=[endpoint],
        netuid=1,
        clock=lambda: datetime.now(UTC),
        # Another limit than this must end the others.
        read_timeout_seconds=READ_SECONDS if is_late else 50,
    ) as source:
        tracemalloc.start()
        with pytest.raises(RegistryError) as raised:
            await source.fetch_keys()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert ("in time" in str(raised.value)) is is_late
    assert "canary" not in str(raised.value)
    assert isinstance(raised.value, NodeUnreachable | NodeAnswerInvalid) or "503" in str(
        raised.value
    )
    assert peak < MEMORY_BYTES


async def test_redirect_of_a_websocket_is_not_followed() -> None:
    """Nothing else is contacted than what is configured."""
    async with serving(say_nothing) as (elsewhere, strangers):

        async def redirect(peer: Peer) -> None:
            await peer.read_head()
            await peer.send(
                b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n"
                b"Location: ws://127.0.0.1:%d/\r\n\r\n" % elsewhere
            )

        async with serving(redirect) as (port, _):
            await expect_status(f"ws://127.0.0.1:{port}", 302)
        assert not strangers


async def expect_status(endpoint: str, status: int) -> None:
    """Fetches from a node that answers with a status."""
    source = ChainSource(endpoints=[endpoint], netuid=1, clock=lambda: datetime.now(UTC))
    async with source:
        with pytest.raises(RegistryError, match=f"answered with the status {status}"):
            await source.fetch_keys()


def over_http(head: bytes, *parts: bytes, pour: bytes = b"") -> Behaviour:
    """Answers the first request with these bytes."""

    async def behave(peer: Peer) -> None:
        await peer.read_head()
        await peer.send(b"HTTP/1.1 " + head)
        for part in parts:
            await peer.send(part)
        if pour:
            await peer.pour(pour)

    return behave


CHUNKED: Final = b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

HTTP: Final[dict[str, Behaviour]] = {
    "says nothing": say_nothing,
    "hangs up": hang_up,
    "another protocol": speak_plainly,
    "endless headers": over_http(b"200 OK\r\n", pour=b"X-Header: 1\r\n"),
    "endless interim responses": over_http(b"102 Wait\r\n\r\n", pour=b"HTTP/1.1 102 Wait\r\n\r\n"),
    "an endless body": over_http(b"200 OK\r\n\r\n", pour=b"{"),
    "a body of crumbs": over_http(CHUNKED, pour=b"1\r\n{\r\n"),
    "a body that claims to be endless": over_http(
        b"200 OK\r\nContent-Length: 99999999999\r\n\r\n", pour=b"{"
    ),
    "a body shorter than it claims": over_http(b"200 OK\r\nContent-Length: 99\r\n\r\n", SAYS[:9]),
    "a compressed body": over_http(
        b"200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n", b"\x1f\x8b\x08\x00"
    ),
}


@pytest.mark.parametrize("name", HTTP)
async def test_hostile_http_ends_as_our_own_error(name: str) -> None:
    """By the same bounds."""
    async with serving(HTTP[name]) as (port, peers):
        await expect_failure(f"http://127.0.0.1:{port}", is_late=name in LATE)
    assert peers
    assert sum(peer.poured for peer in peers) < POURED_BYTES


async def test_honest_answer_in_parts_with_pings_is_read() -> None:
    """What a hostile node exaggerates is allowed in moderation (RFC 6455 §5.4, §5.5.2)."""

    async def answer(peer: Peer) -> None:
        await peer.shake_hands()
        await peer.read_request()
        await peer.send(frame(PING, b"are you there") + frame(TEXT, SAYS[:10], fin=False))
        await peer.send(frame(PONG) + frame(CONT, SAYS[10:20], fin=False) + frame(PING))
        await peer.send(frame(CONT, SAYS[20:]))
        await peer.read_request()
        await peer.send(frame(TEXT, b'{"id":2,"error":{"code":-1,"message":"enough"}}'))

    async with serving(answer) as (port, _):
        source = ChainSource(
            endpoints=[f"ws://127.0.0.1:{port}"], netuid=1, clock=lambda: datetime.now(UTC)
        )
        async with source:
            with pytest.raises(RegistryError, match="chain_getFinalizedHead with the error -1"):
                await source.fetch_keys()


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_status_that_is_no_answer_is_told(scheme: str, status: int) -> None:
    """Over either transport."""
    behave = over_http(b"%d No\r\nContent-Length: 6\r\n\r\ncanary" % status)
    async with serving(behave) as (port, _):
        await expect_status(f"{scheme}://127.0.0.1:{port}", status)
