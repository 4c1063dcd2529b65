"""How a request is sent with each library that takes a context: one function a library."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import urllib.request
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import anyio
import httpx
import requests
import requests.adapters
import urllib3
import uvloop
import websockets.asyncio.client
import websockets.exceptions
import websockets.sync.client

from tests.integration.tls.recording import REQUEST

_TIMEOUT_SECONDS: Final = 20.0

Call = Callable[[str, ssl.SSLContext], bytes]
"""Sends a GET request for a URL with a context, and gives the body of the answer."""


def _body(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body


async def _with_streams(url: str, context: ssl.SSLContext) -> bytes:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
    writer.write(REQUEST)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return _body(answer)


def with_asyncio(url: str, context: ssl.SSLContext) -> bytes:
    """The standard library's streams."""
    return asyncio.run(_with_streams(url, context))


def with_uvloop(url: str, context: ssl.SSLContext) -> bytes:
    """The same on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_with_streams(url, context))


def with_anyio(url: str, context: ssl.SSLContext) -> bytes:
    """Which httpx and others use."""

    async def call() -> bytes:
        parts = urlsplit(url)
        async with await anyio.connect_tcp(
            str(parts.hostname), int(parts.port or 0), tls=True, ssl_context=context
        ) as stream:
            await stream.send(REQUEST)
            answer = b""
            try:
                while True:
                    answer += await stream.receive()
            except anyio.EndOfStream:
                return _body(answer)

    return anyio.run(call)


def with_httpx_async(url: str, context: ssl.SSLContext) -> bytes:
    """Asynchronous httpx, with the context alone."""

    async def call() -> bytes:
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            return (await client.get(url)).content

    return asyncio.run(call())


def with_httpx(url: str, context: ssl.SSLContext) -> bytes:
    """Synchronous httpx, with the context alone."""
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.get(url).content


def with_aiohttp(url: str, context: ssl.SSLContext) -> bytes:
    """Aiohttp."""

    async def call() -> bytes:
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as answer:
            return await answer.read()

    return asyncio.run(call())


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named, ssl_context=self._context)


def with_requests(url: str, context: ssl.SSLContext) -> bytes:
    """Requests, whose adapter gets the context."""
    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", _Adapter(context))
        return session.get(url, timeout=_TIMEOUT_SECONDS).content


def with_requests_unverified(url: str, context: ssl.SSLContext) -> bytes:
    """Requests with `verify=False`, which changes nothing."""
    with requests.Session() as session:
        session.trust_env = False
        session.mount("https://", _Adapter(context))
        return session.get(url, timeout=_TIMEOUT_SECONDS, verify=False).content


def with_urllib3(url: str, context: ssl.SSLContext) -> bytes:
    """Urllib3."""
    with urllib3.PoolManager(ssl_context=context, retries=False) as pool:
        return pool.request("GET", url).data


def with_http_client(url: str, context: ssl.SSLContext) -> bytes:
    """The standard library's client."""
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(
        str(parts.hostname), parts.port, context=context, timeout=_TIMEOUT_SECONDS
    )
    try:
        connection.request("GET", "/secret")
        return connection.getresponse().read()
    finally:
        connection.close()


def with_urllib(url: str, context: ssl.SSLContext) -> bytes:
    """The standard library's openers."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(url, timeout=_TIMEOUT_SECONDS) as answer:
        content: bytes = answer.read()
        return content


def with_websockets(url: str, context: ssl.SSLContext) -> bytes:
    """Websockets on asyncio; the server here refuses the upgrade with its answer."""

    async def call() -> bytes:
        client = websockets.asyncio.client.connect(_wss(url), ssl=context, proxy=None)
        try:
            async with client:
                raise AssertionError("the server speaks no WebSocket")
        except websockets.exceptions.InvalidStatus as exc:
            return bytes(exc.response.body or b"")

    return asyncio.run(call())


def with_websockets_sync(url: str, context: ssl.SSLContext) -> bytes:
    """Websockets in threads."""
    try:
        with websockets.sync.client.connect(_wss(url), ssl=context, proxy=None):
            raise AssertionError("the server speaks no WebSocket")
    except websockets.exceptions.InvalidStatus as exc:
        return bytes(exc.response.body or b"")


def _wss(url: str) -> str:
    return url.replace("https://", "wss://")


CALLS: Final[dict[str, Call]] = {
    "asyncio": with_asyncio,
    "uvloop": with_uvloop,
    "anyio": with_anyio,
    "httpx-async": with_httpx_async,
    "httpx": with_httpx,
    "aiohttp": with_aiohttp,
    "requests": with_requests,
    "requests-unverified": with_requests_unverified,
    "urllib3": with_urllib3,
    "http.client": with_http_client,
    "urllib": with_urllib,
    "websockets": with_websockets,
    "websockets-sync": with_websockets_sync,
}
