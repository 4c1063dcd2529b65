"""What the servers of these tests run: the shipped middleware, and what a server makes of a peer.

The path chooses. `/peer` says which peer the server names. Any other path has two parts: how the
caller is checked (`middleware`, `backend`, `state`, `proxy`), and which proxy is trusted.
"""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace

from starlette.authentication import AuthenticationError
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from nexus_auth import CertificateVerifier, Hotkey, Registration, utc_now
from nexus_auth.asgi import (
    NexusAuthBackend,
    NexusAuthMiddleware,
    hotkey_from_proxy,
    verifier_from_state,
)
from tests.builders import a_hotkey, a_key, public_bytes

PROXIES = ("127.0.0.1", "127.0.0.9", "fe80::/10", "unix")


class OnlyAlice:
    """A registry that knows one hotkey, for ever."""

    def peek(self, hotkey: Hotkey) -> Registration | None:
        if hotkey != a_hotkey("alice"):
            return None
        return Registration(
            public_key=public_bytes(a_key("alice")), expires_at=utc_now() + timedelta(minutes=5)
        )

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        return self.peek(hotkey)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Says which peer is named and which caller is known, over HTTP and WebSocket."""
    user = scope.get("user")
    hotkey = getattr(user, "hotkey", None)
    seen = {"peer": scope.get("client"), "hotkey": None if hotkey is None else hotkey.address}
    body = json.dumps(seen).encode()
    if scope["type"] == "http":
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": body})
        return
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": body.decode()})
    await send({"type": "websocket.close"})


def forbidden(_: HTTPConnection, __: AuthenticationError) -> Response:
    """A denied certificate, where the backend is used."""
    return Response(status_code=403)


async def only_proven(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuses anonymous callers, as an application with the backend does itself."""
    if scope["user"].is_authenticated:
        await answer(scope, receive, send)
    elif scope["type"] == "http":
        await Response(status_code=403)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})


def behind(proxy: str) -> ASGIApp:
    """An application that believes the proxy's X-Hotkey."""
    caller = hotkey_from_proxy(trusted_proxies=[proxy])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        hotkey = caller.read(HTTPConnection(scope))
        await answer({**scope, "user": SimpleNamespace(hotkey=hotkey)}, receive, send)

    return ExceptionMiddleware(app)


def build(proxy: str) -> dict[str, ASGIApp]:
    """The ways to check a caller, with one trusted proxy."""
    verifier = CertificateVerifier(registry=OnlyAlice(), clock=utc_now)
    backend = NexusAuthBackend(verifier=verifier, trusted_proxies=[proxy])
    return {
        "middleware": NexusAuthMiddleware(answer, verifier=verifier, trusted_proxies=[proxy]),
        "state": NexusAuthMiddleware(
            answer, verifier=verifier_from_state(), trusted_proxies=[proxy]
        ),
        "backend": AuthenticationMiddleware(only_proven, backend=backend, on_error=forbidden),
        "proxy": behind(proxy),
    }


ROUTES: dict[str, ASGIApp] = {
    f"/{way}/{proxy.partition(':')[0]}": app
    for proxy in PROXIES
    for way, app in build(proxy).items()
} | {"/peer": answer}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Hands a connection to the application that its path names; its lifespan opens nothing."""
    if scope["type"] != "lifespan":
        await ROUTES[scope["path"]](scope, receive, send)
        return
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
