"""The caller's hotkey behind a proxy that asks the auth service itself."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, cast

import httpx
import litestar
import pytest
import structlog.testing
from fastapi import Depends, FastAPI, WebSocket
from litestar.di import NamedDependency
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from starlette.applications import Starlette
from starlette.exceptions import WebSocketException
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Scope
from starlette.websockets import WebSocket as StarletteWebSocket

from nexus_auth.adapters.starlette.behind_proxy import HotkeyFromProxy, hotkey_from_proxy
from nexus_auth.adapters.starlette.gate import HEAD_ONLY, PEER_REWRITTEN, PEER_UNNAMED
from nexus_auth.domain.hotkey import Hotkey
from tests.builders import a_hotkey

ALICE = a_hotkey("alice")
ADDRESS = ALICE.address.encode()
PROXY = "10.1.2.3"
STRANGER = "192.0.2.7"
ONE = ((b"x-hotkey", ADDRESS),)
CHUNKED = (b"transfer-encoding", b"chunked")

Headers = tuple[tuple[bytes, bytes], ...]


def fastapi_app(caller: HotkeyFromProxy) -> ASGIApp:
    """Greets with a dependency of FastAPI."""
    app = FastAPI()
    # FastAPI looks for names of annotations in the module, and this one is none of it.
    dependency: Any = Depends(caller)

    @app.get("/")
    async def greet(hotkey: Hotkey = dependency) -> str:
        return hotkey.address

    @app.websocket("/socket")
    async def talk(socket: WebSocket, hotkey: Hotkey = dependency) -> None:
        await socket.accept()
        await socket.send_text(hotkey.address)

    return app


def starlette_app(caller: HotkeyFromProxy) -> ASGIApp:
    """Greets with a call in the endpoint."""

    async def greet(request: Request) -> PlainTextResponse:
        return PlainTextResponse(caller.read(request).address)

    async def talk(socket: StarletteWebSocket) -> None:
        hotkey = caller.read(socket)
        await socket.accept()
        await socket.send_text(hotkey.address)

    return Starlette(routes=[Route("/", greet), WebSocketRoute("/socket", talk)])


def litestar_app(caller: HotkeyFromProxy) -> ASGIApp:
    """Greets with a dependency of Litestar."""

    @litestar.get("/")
    async def greet(hotkey: NamedDependency[Hotkey]) -> str:
        return hotkey.address

    @litestar.websocket("/socket")
    async def talk(
        socket: litestar.WebSocket[Any, Any, Any], hotkey: NamedDependency[Hotkey]
    ) -> None:
        await socket.accept()
        await socket.send_text(hotkey.address)

    scheme = SecurityScheme(type="mutualTLS", description=caller.description)
    app = litestar.Litestar(
        [greet, talk],
        dependencies={"hotkey": caller.for_litestar()},
        openapi_config=OpenAPIConfig(
            title="an application",
            version="1",
            components=Components(security_schemes={caller.scheme_name: scheme}),
            security=[{caller.scheme_name: []}],
        ),
        logging_config=None,
    )
    return cast("ASGIApp", app)


APPS = {"fastapi": fastapi_app, "starlette": starlette_app, "litestar": litestar_app}
by_framework = pytest.mark.parametrize("framework", APPS)

REFUSALS = [
    (STRANGER, ONE, "untrusted-peer"),
    (PROXY, (), "no-certificate"),
    (PROXY, ONE * 2, "no-certificate"),
    (PROXY, ((b"x_hotkey", ADDRESS),), "no-certificate"),
    (PROXY, ((b"x-hotkey-uid", b"3"),), "no-certificate"),
    (PROXY, (*ONE, CHUNKED), "no-certificate"),
    (PROXY, ((b"x-hotkey", b""),), "invalid-hotkey"),
    (PROXY, ((b"x-hotkey", ADDRESS + b" "),), "invalid-hotkey"),
    (PROXY, ((b"x-hotkey", ADDRESS + b"," + ADDRESS),), "invalid-hotkey"),
    (PROXY, ((b"x-hotkey", ADDRESS[:-1] + b"x"),), "invalid-hotkey"),
    (PROXY, ((b"x-hotkey", ADDRESS.swapcase()),), "invalid-hotkey"),
    (PROXY, ((b"x-hotkey", b"\xff" * 48),), "invalid-hotkey"),
    # An address of another network prefix for the same account.
    (
        PROXY,
        ((b"x-hotkey", b"15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"),),
        "invalid-hotkey",
    ),
]


async def ask(app: ASGIApp, peer: str, headers: Headers, path: str = "/") -> httpx.Response:
    """One request of a peer."""
    transport = httpx.ASGITransport(app=app, client=(peer, 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        return await client.get(path, headers=list(headers))


async def open_socket(app: ASGIApp, peer: str, headers: Headers, *, answers: bool) -> list[Message]:
    """What an application sends to one WebSocket; `answers` is whether responses are possible."""
    sent: list[Message] = []
    received: list[Message] = [
        {"type": "websocket.connect"},
        {"type": "websocket.disconnect", "code": 1000},
    ]

    async def receive() -> Message:
        return received.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/socket",
        "raw_path": b"/socket",
        "root_path": "",
        "query_string": b"",
        "headers": list(headers),
        "client": (peer, 1234),
        "server": ("app", 80),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}} if answers else {},
    }
    await app(scope, receive, send)
    return sent


@by_framework
async def test_hotkey_that_the_proxy_sends_is_the_caller(framework: str) -> None:
    """One header, one checked value."""
    app = APPS[framework](hotkey_from_proxy(trusted_proxies=["10.0.0.0/8"]))
    answer = await ask(app, PROXY, ((b"X-Hotkey", ADDRESS),))
    assert (answer.status_code, answer.text.strip('"')) == (200, ALICE.address)


@by_framework
@pytest.mark.parametrize(("peer", "headers", "reason"), REFUSALS)
async def test_anything_else_is_refused(
    framework: str, peer: str, headers: Headers, reason: str
) -> None:
    """With the code of a denial, and never kept."""
    app = APPS[framework](hotkey_from_proxy(trusted_proxies=["10.0.0.0/8"]))
    answer = await ask(app, peer, headers)
    assert answer.status_code == 403
    assert answer.headers["x-nexus-auth-reason"] == reason
    assert answer.headers["cache-control"] == "no-store"
    assert "x-hotkey" not in answer.headers
    assert ALICE.address not in answer.text


@by_framework
@pytest.mark.parametrize("answers", [True, False])
async def test_websocket_of_the_caller_is_opened(framework: str, *, answers: bool) -> None:
    """The same check before a handshake is answered."""
    app = APPS[framework](hotkey_from_proxy(trusted_proxies=[PROXY]))
    sent = await open_socket(app, PROXY, ONE, answers=answers)
    assert sent[0]["type"] == "websocket.accept"
    assert sent[1]["text"] == ALICE.address


@by_framework
@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize(("peer", "headers", "reason"), REFUSALS)
async def test_any_other_websocket_is_refused_before_it_opens(
    framework: str, peer: str, headers: Headers, reason: str, *, answers: bool
) -> None:
    """By a response, or by a close, which servers answer with 403."""
    app = APPS[framework](hotkey_from_proxy(trusted_proxies=["10.0.0.0/8"]))
    sent = await open_socket(app, peer, headers, answers=answers)
    if answers and framework != "litestar":
        assert sent[0]["type"] == "websocket.http.response.start"
        assert sent[0]["status"] == 403
        assert (b"x-nexus-auth-reason", reason.encode()) in sent[0]["headers"]
    else:
        assert [message["type"] for message in sent] == ["websocket.close"]


@by_framework
async def test_empty_list_trusts_no_peer(framework: str) -> None:
    """Not even this machine."""
    app = APPS[framework](hotkey_from_proxy(trusted_proxies=[]))
    assert (await ask(app, "127.0.0.1", ONE)).status_code == 403


def connection(**others: Any) -> HTTPConnection:
    """A request of the proxy that names alice."""
    scope = {"type": "http", "headers": list(ONE), "client": (PROXY, 1234), "server": ("app", 80)}
    return HTTPConnection(scope | others)


@pytest.mark.parametrize(
    ("others", "problem"),
    [
        ({"client": (PROXY, 0)}, PEER_REWRITTEN),
        (
            {
                "headers": [
                    *ONE,
                    (b"x-forwarded-for", PROXY.encode()),
                    (b"x-forwarded-port", b"1234"),
                ]
            },
            PEER_REWRITTEN,
        ),
        ({"client": None, "server": None}, PEER_UNNAMED),
    ],
)
def test_peer_that_a_client_may_have_named_is_not_believed(
    others: dict[str, Any], problem: str
) -> None:
    """As at the gate; the log names the option of the server."""
    caller = hotkey_from_proxy(trusted_proxies=[PROXY, "unix"])
    assert caller.read(connection()) == ALICE
    with structlog.testing.capture_logs() as lines, pytest.raises(Exception, match="403"):
        caller.read(connection(**others))
    assert [line["problem"] for line in lines] == [problem]


def test_unix_socket_is_trusted_where_it_is_named() -> None:
    """As uvicorn names it; an address does not cover it."""
    others: dict[str, Any] = {"client": None, "server": ("/run/app.sock", None)}
    assert hotkey_from_proxy(trusted_proxies=["unix"]).read(connection(**others)) == ALICE
    with pytest.raises(Exception, match="403"):
        hotkey_from_proxy(trusted_proxies=["0.0.0.0/0"]).read(connection(**others))


def test_network_of_containers_holds_more_than_the_proxy() -> None:
    """What comes through a published port may have the gateway's address: name the proxy alone."""
    gateway: dict[str, Any] = {"client": ("172.18.0.1", 1234)}
    network = hotkey_from_proxy(trusted_proxies=["172.18.0.0/16"])
    assert network.read(connection(**gateway)) == ALICE
    proxy = hotkey_from_proxy(trusted_proxies=["172.18.0.10"])
    assert proxy.read(connection(client=("172.18.0.10", 1234))) == ALICE
    with pytest.raises(Exception, match="403"):
        proxy.read(connection(**gateway))


@pytest.mark.parametrize(
    ("promise", "others"),
    [
        ({"server_keeps_trailers_apart": True}, {}),
        ({}, {"extensions": {HEAD_ONLY: {}}}),
    ],
)
def test_chunked_request_counts_where_the_server_keeps_trailers_apart(
    promise: dict[str, bool], others: dict[str, Any]
) -> None:
    """A trailer could be another's X-Hotkey; see the refusals for a server without the promise."""
    caller = hotkey_from_proxy(trusted_proxies=[PROXY], **promise)
    assert caller.read(connection(headers=[*ONE, CHUNKED], **others)) == ALICE


def test_server_that_answers_no_websocket_closes_it() -> None:
    """With the code that means a broken rule."""
    caller = hotkey_from_proxy(trusted_proxies=[PROXY])
    with pytest.raises(WebSocketException) as raised:
        caller.read(connection(type="websocket", headers=[]))
    assert raised.value.code == 1008


@pytest.mark.parametrize("wrong", ["127.0.0.1", ["proxy.example"], ["10.0.0.1/8"]])
def test_list_that_cannot_mean_what_it_says_is_an_error(wrong: Any) -> None:
    """At once, and not at the first request."""
    with pytest.raises(ValueError, match=r"list|neither"):
        hotkey_from_proxy(trusted_proxies=wrong)


async def test_openapi_of_fastapi_names_the_scheme() -> None:
    """FastAPI does not know mutualTLS: the scheme is the header, and says who sets it."""
    app = fastapi_app(hotkey_from_proxy(trusted_proxies=[PROXY]))
    document = (await ask(app, STRANGER, (), "/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    scheme = document["components"]["securitySchemes"]["nexus-auth"]
    assert scheme == {
        "type": "apiKey",
        "in": "header",
        "name": "X-Hotkey",
        "description": HotkeyFromProxy.description,
    }
    assert "Mutual TLS" in scheme["description"]
    assert document["paths"]["/"]["get"]["security"] == [{"nexus-auth": []}]
    assert "parameters" not in document["paths"]["/"]["get"]


async def test_openapi_of_litestar_names_the_scheme() -> None:
    """Litestar knows mutualTLS."""
    app = litestar_app(hotkey_from_proxy(trusted_proxies=[PROXY]))
    document = (await ask(app, STRANGER, (), "/schema/openapi.json")).json()
    assert document["components"]["securitySchemes"] == {
        "nexus-auth": {"type": "mutualTLS", "description": HotkeyFromProxy.description}
    }
    assert document["security"] == [{"nexus-auth": []}]
    assert "parameters" not in document["paths"]["/"]["get"]


def test_fastapi_and_litestar_are_no_dependencies() -> None:
    """Where neither is installed, Starlette's part works; an import of the door loads neither."""
    script = """
import sys
import nexus_auth.asgi
assert not {"fastapi", "litestar"} & set(sys.modules)
sys.modules["fastapi"] = sys.modules["litestar"] = None
caller = nexus_auth.asgi.hotkey_from_proxy(trusted_proxies=["127.0.0.1"])
assert type(caller) is nexus_auth.asgi.HotkeyFromProxy
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
