"""Clients of httpx that call hotkeys.

Both keep one pool of connections. A connection belongs to a hotkey and an address: in the pool, the
host is written `HOTKEY@host`, which no host can be. What a connection was proven with is kept, and
compared with what is registered before each request. One that is outdated says that its server has
hung up: httpcore closes such connections when they are idle, and gives them to no request.
"""

from __future__ import annotations

import http.cookiejar
import ssl
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpcore
import httpx

from nexus_auth.adapters.background import forget_in_child
from nexus_auth.adapters.bounded_http import as_httpcore, as_httpx
from nexus_auth.adapters.tls.keys import ServerKeys
from nexus_auth.domain.errors import (
    CredentialsError,
    HotkeyNotRegistered,
    NexusAuthError,
    RegistryAnswerInvalid,
    RegistryError,
    RegistryUnavailable,
    RequestRefused,
    ServerKeyMismatch,
    ServerKeyUnknown,
    ServerNotProven,
)
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.server import ServerCertificate

Run = Callable[[Callable[[ServerKeys], Coroutine[Any, Any, Any]]], Any]

_OPTIONS: Final = (
    *("auth", "base_url", "cookies", "default_encoding", "event_hooks", "follow_redirects"),
    *("headers", "limits", "max_redirects", "params", "timeout"),
)
"""Of httpx's clients. Every other one, of today or to come, could choose whom to trust."""

_LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20)
"""As httpx has them: over all hotkeys together."""

_ALPN: Final = ["http/1.1"]
_HTTPS_PORT: Final = 443
_NOT_IN_HOST: Final = frozenset("/?#@\\")

_ORIGIN: Final = "nexus_auth.origin"
"""The extension that says which origin a request was made for. httpx copies it to redirects."""


class HttpxKeyMismatch(ServerKeyMismatch, httpx.ConnectError):
    """The same for code that knows httpx's errors alone; so are those below."""


class HttpxNotRegistered(HotkeyNotRegistered, httpx.ConnectError):
    """As above."""


class HttpxRegistryUnavailable(RegistryUnavailable, httpx.ConnectError):
    """As above."""


class HttpxRegistryAnswerInvalid(RegistryAnswerInvalid, httpx.ConnectError):
    """As above."""


class HttpxCredentialsError(CredentialsError, httpx.ConnectError):
    """As above."""


class HttpxRequestRefused(RequestRefused, httpx.UnsupportedProtocol):
    """As above."""


@contextmanager
def _errors() -> Iterator[None]:
    """Raises httpx's errors in place of httpcore's, and both in one in place of ours."""
    try:
        with as_httpx():
            yield
    except ServerKeyMismatch as exc:
        raise HttpxKeyMismatch(
            hotkey=exc.hotkey, expected=exc.expected, found=exc.found, named=exc.named
        ) from exc
    except HotkeyNotRegistered as exc:
        raise HttpxNotRegistered(exc.hotkey) from exc
    except RegistryAnswerInvalid as exc:
        raise HttpxRegistryAnswerInvalid(str(exc)) from exc
    except (RegistryError, ServerKeyUnknown) as exc:
        raise HttpxRegistryUnavailable(str(exc)) from exc
    except CredentialsError as exc:
        raise HttpxCredentialsError(str(exc)) from exc


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raises the error of a handshake that httpcore has wrapped."""
    try:
        yield
    except httpcore.ConnectError as exc:
        found = ServerNotProven.find(exc)
        if found is None:
            raise
        # What kept the key from being found, where that is the cause.
        raise found.__cause__ if isinstance(found.__cause__, NexusAuthError) else found from None


@contextmanager
def _tls_errors(error: type[httpcore.NetworkError]) -> Iterator[None]:
    """Raises an error of the network where httpcore lets one of `ssl` through.

    Such as a server's that refuses our certificate, which comes after the handshake in TLS 1.3.
    """
    try:
        yield
    except ssl.SSLError as exc:
        raise error(str(exc)) from exc


class _Proof:
    """What a connection was proven with."""

    hotkey: Hotkey
    key: bytes | None = None
    stamp: object = None
    is_outdated = False


class _Connections:
    """The proven connections of one client, and the hotkeys that it calls."""

    def __init__(self, hotkeys: Mapping[str, Hotkey]) -> None:
        self._hotkeys: dict[tuple[bytes, int], Hotkey] = {}
        for text, hotkey in hotkeys.items():
            if self._hotkeys.setdefault(_parse_host(text), hotkey) != hotkey:
                raise ValueError(f"two hotkeys for one host: {text!r}")
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[_Proof] = weakref.WeakSet()

    def forget(self) -> list[Any]:
        """Starts without any, and gives those before: in a forked process, as locks may be held."""
        before = list(self._open)
        self._lock = threading.Lock()
        self._open = weakref.WeakSet()
        return before

    def add(self, proof: _Proof, der: bytes | None) -> None:
        """Notes a connection whose server has proven to hold the key of a certificate."""
        proof.key = ServerCertificate.from_der(der or b"").public_key
        with self._lock:
            self._open.add(proof)

    def route(self, request: httpx.Request) -> tuple[Hotkey, httpcore.Request]:
        """Finds the hotkey that a request is for, and gives the form that the pool takes.

        Raises:
            RequestRefused: If there is none, or the request leads away from it.
            InvalidHotkey: If it is no address.
        """
        url = request.url
        if url.scheme != "https":
            raise HttpxRequestRefused("only https proves a server")
        origin = _origin(url)
        if request.extensions.setdefault(_ORIGIN, origin) != origin:
            raise HttpxRequestRefused("a redirect to another origin is not followed")
        named = request.extensions.get("hotkey") or self._hotkeys.get(origin)
        if named is None:
            raise HttpxRequestRefused(
                'the request names no hotkey: extensions={"hotkey": ...}, or hotkeys={host: ...}'
            )
        hotkey = named if isinstance(named, Hotkey) else Hotkey.parse(named)
        raw = as_httpcore(request, host=f"{hotkey.address}@".encode() + url.raw_host)
        raw.extensions = {"sni_hostname": url.raw_host.decode("ascii"), **raw.extensions}
        return hotkey, raw

    async def prepare(self, keys: ServerKeys, hotkey: Hotkey) -> Registration:
        """Finds the key for a request, and marks every connection that must not be used again."""
        found = None
        try:
            found = await keys.find(hotkey)
        finally:
            stamp = keys.stamp()
            with self._lock:
                proofs = list(self._open)
            for proof in proofs:
                known = keys.peek(proof.hotkey)
                if known is None and proof.hotkey == hotkey:
                    known = found
                if known is None or known.public_key != proof.key or stamp != proof.stamp:
                    proof.is_outdated = True
        return found


def _origin(url: httpx.URL) -> tuple[bytes, int]:
    return url.raw_host, url.port or _HTTPS_PORT


def _parse_host(text: str) -> tuple[bytes, int]:
    try:
        url = httpx.URL(f"https://{text}")
    except httpx.InvalidURL:
        url = httpx.URL()
    if not url.host or not _NOT_IN_HOST.isdisjoint(text):
        raise ValueError(f"expected host or host:port, not {text!r}")
    return _origin(url)


# The two kinds of client, side by side.


class _Stream(_Proof, httpcore.AsyncNetworkStream):
    def __init__(
        self,
        stream: httpcore.AsyncNetworkStream,
        hotkey: Hotkey,
        keys: ServerKeys,
        connections: _Connections,
    ) -> None:
        self.hotkey = hotkey
        self._stream, self._keys, self._connections = stream, keys, connections

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,  # noqa: ARG002 - the interface is httpcore's
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        # Before the pair is read: a change in between is one afterwards.
        self.stamp = self._keys.stamp()
        try:
            context = await self._keys.context(self.hotkey)
            context.set_alpn_protocols(_ALPN)
            with _own_errors():
                self._stream = await self._stream.start_tls(context, server_hostname, timeout)
            shown = self._stream.get_extra_info("ssl_object").getpeercert(binary_form=True)
        except BaseException:
            await self._stream.aclose()
            raise
        self._connections.add(self, shown)
        return self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        with _tls_errors(httpcore.ReadError):
            return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        with _tls_errors(httpcore.WriteError):
            await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return (info == "is_readable" and self.is_outdated) or self._stream.get_extra_info(info)


class _Network(httpcore.AnyIOBackend):
    def __init__(self, keys: ServerKeys, connections: _Connections) -> None:
        self._keys, self._connections = keys, connections

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        address, _, host = host.partition("@")
        stream = await super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, Hotkey.parse(address), self._keys, self._connections)


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with as_httpx():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        with as_httpx():
            await self._stream.aclose()


class _AsyncTransport(httpx.AsyncBaseTransport):
    def __init__(
        self, keys: ServerKeys, hotkeys: Mapping[str, Hotkey], limits: httpx.Limits
    ) -> None:
        self._keys, self._connections = keys, _Connections(hotkeys)
        self._pool = httpcore.AsyncConnectionPool(
            network_backend=_Network(keys, self._connections), **_pool_options(limits)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        hotkey, raw = self._connections.route(request)
        with _errors():
            try:
                found = await self._connections.prepare(self._keys, hotkey)
            except NexusAuthError:
                for connection in self._pool.connections:
                    if connection.is_idle() and connection.has_expired():
                        await connection.aclose()
                raise
            try:
                answer = await self._pool.handle_async_request(raw)
            except ServerKeyMismatch:
                # Nothing was sent. The server may have another key since a moment ago.
                if not await self._keys.find_other(hotkey, found):
                    raise
                answer = await self._pool.handle_async_request(raw)
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_AsyncBody(answer.stream),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        with as_httpx():
            await self._pool.aclose()


class _SyncStream(_Proof, httpcore.NetworkStream):
    def __init__(
        self, stream: httpcore.NetworkStream, hotkey: Hotkey, transport: _Transport
    ) -> None:
        self.hotkey = hotkey
        self._stream, self._transport = stream, transport

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,  # noqa: ARG002 - the interface is httpcore's
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        try:
            self.stamp, context = self._transport.build_context(self.hotkey)
            context.set_alpn_protocols(_ALPN)
            with _own_errors():
                self._stream = self._stream.start_tls(context, server_hostname, timeout)
            shown = self._stream.get_extra_info("socket").getpeercert(binary_form=True)
        except BaseException:
            self._stream.close()
            raise
        self._transport.connections.add(self, shown)
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return (info == "is_readable" and self.is_outdated) or self._stream.get_extra_info(info)


class _SyncNetwork(httpcore.SyncBackend):
    def __init__(self, transport: _Transport) -> None:
        self._transport = transport

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        address, _, host = host.partition("@")
        stream = super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _SyncStream(stream, Hotkey.parse(address), self._transport)


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with as_httpx():
            yield from self._stream

    def close(self) -> None:
        with as_httpx():
            self._stream.close()


class _Transport(httpx.BaseTransport):
    def __init__(
        self,
        run: Run,
        tls_context: Callable[[Hotkey], ssl.SSLContext],
        hotkeys: Mapping[str, Hotkey],
        limits: httpx.Limits,
    ) -> None:
        self.connections = _Connections(hotkeys)
        self._run, self._tls_context, self._limits = run, tls_context, limits
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Starts anew, in a forked process: two cannot share a TLS connection."""
        for each in self.connections.forget():
            each.close()
        self._pool = httpcore.ConnectionPool(
            network_backend=_SyncNetwork(self), **_pool_options(self._limits)
        )

    def build_context(self, hotkey: Hotkey) -> tuple[object, ssl.SSLContext]:
        async def stamp(keys: ServerKeys) -> object:
            return keys.stamp()

        # Before the pair is read: a change in between is one afterwards.
        return self._run(stamp), self._tls_context(hotkey)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        hotkey, raw = self.connections.route(request)
        with _errors():
            try:
                found = self._run(lambda keys: self.connections.prepare(keys, hotkey))
            except NexusAuthError:
                for connection in self._pool.connections:
                    if connection.is_idle() and connection.has_expired():
                        connection.close()
                raise
            try:
                answer = self._pool.handle_request(raw)
            except ServerKeyMismatch:
                # Nothing was sent. The server may have another key since a moment ago.
                if not self._run(lambda keys: keys.find_other(hotkey, found)):
                    raise
                answer = self._pool.handle_request(raw)
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer.stream),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        with as_httpx():
            self._pool.close()


def _pool_options(limits: httpx.Limits) -> dict[str, Any]:
    return {
        # Never used, and trusts nothing.
        "ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        "max_connections": limits.max_connections,
        "max_keepalive_connections": limits.max_keepalive_connections,
        "keepalive_expiry": limits.keepalive_expiry,
    }


class _KeepNone(http.cookiejar.DefaultCookiePolicy):
    """Cookies know no port and no hotkey: one server's would go to another at the same address."""

    def set_ok(self, cookie: object, request: object) -> bool:  # noqa: ARG002 - the parent's
        return False


def _client_options(options: Mapping[str, Any]) -> dict[str, Any]:
    for name in options:
        if name not in _OPTIONS:
            raise TypeError(
                f"http_client takes no {name!r}: the registered key alone says whom to trust. "
                f"It takes {', '.join(_OPTIONS)}"
            )
    jar = http.cookiejar.CookieJar(_KeepNone())
    for cookie in httpx.Cookies(options.get("cookies")).jar:
        jar.set_cookie(cookie)
    return {**options, "cookies": jar, "trust_env": False}


def build_async_client(
    keys: ServerKeys, hotkeys: Mapping[str, Hotkey], options: Mapping[str, Any]
) -> httpx.AsyncClient:
    """Builds the client of `Caller.http_client`."""
    checked = _client_options(options)
    transport = _AsyncTransport(keys, hotkeys, options.get("limits") or _LIMITS)
    return httpx.AsyncClient(transport=transport, **checked)


def build_client(
    run: Run,
    tls_context: Callable[[Hotkey], ssl.SSLContext],
    hotkeys: Mapping[str, Hotkey],
    options: Mapping[str, Any],
) -> httpx.Client:
    """Builds the client of `SyncCaller.http_client`.

    Args:
        run: Runs a call where the keys are, and waits for it.
        tls_context: Makes the context for one connection.
        hotkeys: By host.
        options: Of httpx.
    """
    checked = _client_options(options)
    transport = _Transport(run, tls_context, hotkeys, options.get("limits") or _LIMITS)
    return httpx.Client(transport=transport, **checked)
