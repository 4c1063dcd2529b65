"""The admin listener's application: health, readiness, metrics and the status page.

Health and readiness are open to every client, because probes carry no token; they say in a word how
the service is. With a token, everything else needs it. Without one the listener is on loopback, and
web browsers are the danger that is left: a page from elsewhere can have its own name resolve to our
address (DNS rebinding) and would then read ours, if the Host header, which holds that name, were
not checked. So where no token is shown, it is checked on every path. Probes name an address
(kubelet and load balancers do), or send no Host, as browsers cannot.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from nexus_auth.adapters.observability.prometheus import CONTENT_TYPE, render_metrics
from nexus_auth.adapters.starlette.status_page import PAGE_HEADERS, render_page
from nexus_auth.domain.health import Freshness

if TYPE_CHECKING:
    from datetime import timedelta

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from nexus_auth.adapters.observability.monitor import Monitor
    from nexus_auth.domain.health import PolicyHealth

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
_MAY_SEE_ALL: Final = "nexus_auth.may_see_all"

_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")

_NO_STORE: Final = {"Cache-Control": "no-store"}

_STATUSES: Final = {
    Freshness.STARTING: "starting",
    Freshness.FRESH: "serving",
    Freshness.STALE: "serving stale",
    Freshness.EXPIRED: "closed",
}


def build_admin_app(
    *,
    monitor: Monitor,
    is_draining: Callable[[], bool],
    token: str | None,
    policy_health: Callable[[], PolicyHealth],
) -> Starlette:
    """Builds the application.

    Monitor, policies and `is_draining`, which says whether the service is about to end, are read
    at every request. A broken policy file is shown, and does not make the service unready: the
    policies of before are in force. The token is None only on loopback.
    """

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=_NO_STORE)

    async def readiness(request: Request) -> Response:
        registry, policy, draining = monitor.health(), policy_health(), is_draining()
        age, since, block = registry.age, registry.failing_since, registry.block
        word = "draining" if draining else _STATUSES[registry.freshness]
        details = {
            "policy": {
                "source": policy.source,
                "default": policy.names[0],
                "names": list(policy.names),
                "loaded_at": policy.loaded_at.isoformat(timespec="seconds"),
                "problem": policy.problem,
            },
            "registry": {
                "source": registry.source,
                "mode": registry.mode,
                "hotkeys": registry.size,
                "age_seconds": _seconds(age),
                "failing_since": None if since is None else since.isoformat(timespec="seconds"),
                "last_error": registry.last_error,
                "block": None
                if block is None
                else {
                    "number": block.number,
                    "hash": block.hash,
                    "age_seconds": _seconds(registry.block_age),
                },
            },
        }
        body = {"status": word, **(details if request.scope.get(_MAY_SEE_ALL) else {})}
        status_code = 200 if registry.can_serve and not draining else 503
        return JSONResponse(body, status_code=status_code, headers=_NO_STORE)

    async def metrics(_: Request) -> Response:
        text = render_metrics(monitor.overview(), policy=policy_health())
        return Response(text, headers={**_NO_STORE, "Content-Type": CONTENT_TYPE})

    async def status_page(_: Request) -> Response:
        page = render_page(monitor.overview(), is_draining=is_draining(), policy=policy_health())
        return HTMLResponse(page, headers=PAGE_HEADERS)

    return Starlette(
        routes=[
            Route("/", status_page),
            Route("/healthz", health),
            Route("/readyz", readiness),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(AdminGuard, token=token)],
    )


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else round(span.total_seconds(), 1)


class AdminGuard:
    """ASGI middleware that requires the token, or else a Host that means this machine.

    Tells the application who may see everything; probes may not, and pass.
    """

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        """Wraps an application, which is called for requests that may pass.

        The token is accepted as `Authorization: Bearer TOKEN`, and for web browsers as the password
        of `Basic`, with any user name. None: no token is required.
        """
        self._app = app
        self._token = None if token is None else token.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection (ASGI 3)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        hosts = _values(scope, b"host")
        names_us = len(hosts) == 1 and _means_this_machine(hosts[0])
        may_see_all = names_us if self._token is None else self._has_token(scope)
        if may_see_all or (scope["path"] in OPEN_PATHS and (names_us or not hosts)):
            await self._app({**scope, _MAY_SEE_ALL: may_see_all}, receive, send)
            return
        if self._token is None or scope["path"] in OPEN_PATHS:
            denial = _deny(421, "ask for this page by address, or as localhost")
        else:
            denial = _deny(401, "this page needs the admin token", challenge=True)
        await denial(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        given = _values(scope, b"authorization")
        # An empty or doubled header carries no token, and an empty text never equals ours.
        credential = _credential(given[0]) if len(given) == 1 else b""
        return bool(credential) and hmac.compare_digest(credential, self._token or b"")


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for header, value in scope["headers"] if header == name]


def _credential(authorization: bytes) -> bytes:
    """The token in an Authorization header; nothing where there is none."""
    scheme, _, rest = authorization.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() == b"basic":
        try:
            # RFC 7617: user-id ":" password.
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def _means_this_machine(host: bytes) -> bool:
    """Whether a Host is an address or localhost, which no name server can point elsewhere."""
    match = _HOST.fullmatch(host.decode("latin-1"))
    if match is None:
        return False
    name = match["name"].strip("[]").lower()
    # RFC 6761 §6.3: these names never leave the machine.
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _deny(status: int, text: str, *, challenge: bool = False) -> PlainTextResponse:
    response = PlainTextResponse(
        f"{text}\n", status_code=status, headers={**_NO_STORE, "X-Content-Type-Options": "nosniff"}
    )
    if challenge:
        # For web browsers, which cannot send a bearer token but can ask for a password.
        response.headers["WWW-Authenticate"] = 'Basic realm="nexus-auth: the token is the password"'
    return response
