"""Uses the public API inside ASGI frameworks, as users do. Only type-checked, never run."""

from __future__ import annotations

from typing import Annotated, assert_type

import litestar
from fastapi import Depends, FastAPI, WebSocket
from litestar.di import NamedDependency
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request

from nexus_auth import (
    AccessPolicy,
    CertificateVerifier,
    Hotkey,
    Neuron,
    RequireValidatorPermit,
    Rule,
)
from nexus_auth.asgi import (
    HotkeyFromProxy,
    NexusAuthMiddleware,
    hotkey_from_proxy,
    require_hotkey,
    verifier_from_state,
)


class EvenRule:
    """A rule of the application's own, without a base class."""

    needs_neuron = False

    @property
    def demand(self) -> str:
        """As the port says."""
        return "an even account id"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:
        """As the port says."""
        return None if hotkey.account_id[-1] % 2 == 0 and neuron is None else "is odd"


RULES: tuple[Rule, ...] = (RequireValidatorPermit(), EvenRule())

CALLER = hotkey_from_proxy(trusted_proxies=("127.0.0.1",), server_keeps_trailers_apart=True)
assert_type(CALLER, HotkeyFromProxy)


def starlette_app() -> Starlette:
    """The middleware in Starlette, with everything that it takes."""
    guard = Middleware(
        NexusAuthMiddleware,
        verifier=verifier_from_state(),
        trusted_proxies=["unix"],
        policy=AccessPolicy(name="own", rules=RULES),
        on_denial="anonymous",
    )
    return Starlette(middleware=[guard])


def endpoint(request: Request) -> str:
    """A call in an endpoint of Starlette."""
    return CALLER.read(request).address


async def work(
    hotkey: Annotated[Hotkey, Depends(CALLER)], same: Annotated[Hotkey, Depends(require_hotkey)]
) -> bool:
    """A route of FastAPI."""
    return hotkey == same


async def talk(socket: WebSocket, hotkey: Annotated[Hotkey, Depends(CALLER)]) -> None:
    """A WebSocket of FastAPI."""
    await socket.close(reason=hotkey.address)


def fastapi_app(verifier: CertificateVerifier) -> FastAPI:
    """The middleware in FastAPI, and both dependencies."""
    app = FastAPI()
    app.add_middleware(NexusAuthMiddleware, verifier=verifier, trusted_proxies=["unix"])
    app.get("/work")(work)
    app.websocket("/talk")(talk)
    app.dependency_overrides[CALLER] = require_hotkey
    return app


@litestar.get("/")
async def greet(hotkey: NamedDependency[Hotkey]) -> str:
    """A route of Litestar."""
    return hotkey.address


def litestar_app() -> litestar.Litestar:
    """The dependency in Litestar."""
    return litestar.Litestar([greet], dependencies={"hotkey": CALLER.for_litestar()})
