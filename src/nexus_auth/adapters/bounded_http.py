"""HTTP from a server that is not trusted with our memory or time: all that is read is bounded.

The reader of a body can count it, see `read_bounded`. What comes before, between and after, such as
thousands of headers, an endless series of interim responses (RFC 9110 §15.2), tiny chunks or
trailers, is read by the HTTP library without limit, and costs the event loop far more than its
size. So the network under httpx is bounded too.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Final

import httpcore
import httpx

from nexus_auth.adapters.server_trust import CLEARED_FLAGS, SET_FLAGS

AROUND_BYTES: Final = 16 * 1024
"""For all that is no body: status lines, headers, trailers. That is 4,000 headers at most, which
take 8 ms; an honest answer has twenty."""

FRAMING_SHARE: Final = 8
"""Chunked bodies may need a part of their size for the lines between chunks; this part at most."""

READ_BYTES: Final = 4096
"""How much is read before other tasks run: some 150 interim responses, or 700 chunks of one byte,
which is a few milliseconds' work."""

MAX_CONNECTIONS: Final = 8
"""To one server, or to the nodes of one chain."""

# A body in chunks of one byte costs a hundred times what it costs in one piece.
_PIECE_BYTES_AT_LEAST: Final = 256
_MAX_PIECES_MORE: Final = 1024
# Pylon's server closes an idle connection after 5 s: never write to one that is about to close.
_KEEP_ALIVE_SECONDS: Final = 2.0

# How much more may be read for the request that this task has in flight before there is a new part
# of the body.
_left: ContextVar[int] = ContextVar("bytes_left")


class AnswerOutOfBounds(Exception):
    """A body is none that is read. The text goes on after "the answer"."""


class PieceCounter:
    """Refuses a body that comes in more pieces than an honest server makes of so many bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = self._pieces = 0

    def count(self, piece: bytes | bytearray | memoryview) -> None:
        """Takes note of one piece.

        Raises:
            AnswerOutOfBounds: If it is too much.
        """
        self._bytes += len(piece)
        self._pieces += 1
        if self._bytes > self._max_bytes:
            raise AnswerOutOfBounds(f"is longer than {self._max_bytes} bytes")
        if self._pieces > _MAX_PIECES_MORE + self._max_bytes // _PIECE_BYTES_AT_LEAST:
            raise AnswerOutOfBounds("comes in crumbs")


async def read_bounded(response: httpx.Response, max_bytes: int) -> bytes:
    """Reads a body as it comes over the wire, without decompressing anything.

    Raises:
        AnswerOutOfBounds: If it is compressed, too long, or in too many pieces.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise AnswerOutOfBounds("is compressed, which was not asked for")
    body = bytearray()
    counter = PieceCounter(max_bytes)
    async for piece in response.aiter_raw():
        counter.count(piece)
        body += piece
    return bytes(body)


def trusted_servers(*endpoints: str) -> ssl.SSLContext:
    """Trusts the authorities that this machine trusts, a private one of the operator's included.

    For endpoints that speak no TLS it trusts no server: reading the authorities takes time and
    memory. No redirect is followed, so that plain HTTP stays plain HTTP; a TLS handshake would
    fail.
    """
    if not any(endpoint.startswith(("https:", "wss:")) for endpoint in endpoints):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    context.verify_flags = (context.verify_flags | SET_FLAGS) & ~CLEARED_FLAGS
    return context


class BoundedTransport(httpx.AsyncBaseTransport):
    """Plain HTTP/1.1 over TCP or TLS: no proxies, no redirects, nothing from the environment."""

    def __init__(self, *, tls: ssl.SSLContext) -> None:
        """Prepares a pool of connections; nothing is opened yet. `tls` says whom to trust."""
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=_KEEP_ALIVE_SECONDS,
            network_backend=_Network(),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport`."""
        _left.set(AROUND_BYTES)
        with as_httpx():
            answer = await self._pool.handle_async_request(as_httpcore(request))
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer.stream),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        with as_httpx():
            await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream: AsyncIterable[bytes] = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with as_httpx():
            async for part in self._stream:
                _left.set(_left.get() + len(part) + len(part) // FRAMING_SHARE)
                yield part

    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            with as_httpx():
                await close()


class _Network(httpcore.AnyIOBackend):
    """Opens connections whose reading is bounded."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface is httpcore's.
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(
            await super().connect_tcp(host, port, timeout, local_address, socket_options)
        )


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        left = _left.get()
        if left <= 0:
            raise httpcore.RemoteProtocolError("the answer is longer than any that could be one")
        data = await self._stream.read(min(max_bytes, READ_BYTES), timeout)
        _left.set(left - len(data))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def as_httpcore(request: httpx.Request, *, host: bytes | None = None) -> httpcore.Request:
    """Gives a request the form that a pool of connections takes; `host` replaces the URL's."""
    url = request.url
    return httpcore.Request(
        request.method,
        httpcore.URL(
            scheme=url.raw_scheme,
            host=url.raw_host if host is None else host,
            port=url.port,
            target=url.raw_path,
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


@contextlib.contextmanager
def as_httpx() -> Iterator[None]:
    """Raises httpx's exception of the same name in place of one of httpcore's."""
    try:
        yield
    except _HTTPCORE_ERRORS as exc:
        error = getattr(httpx, type(exc).__name__, httpx.TransportError)
        raise error(str(exc)) from exc


_HTTPCORE_ERRORS: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    httpcore.ConnectionNotAvailable,
)
