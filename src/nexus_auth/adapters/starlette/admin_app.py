"""The admin listener's application: health, readiness, metrics and the status page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from nexus_auth.adapters.observability.prometheus import CONTENT_TYPE, Exposition
from nexus_auth.adapters.starlette.admin_guard import AdminGuard
from nexus_auth.adapters.starlette.status_page import PAGE_HEADERS, render_page
from nexus_auth.domain.health import Freshness

if TYPE_CHECKING:
    from starlette.requests import Request

    from nexus_auth.adapters.observability.report import Overview
    from nexus_auth.domain.health import PolicyHealth, RegistryHealth

_NO_STORE: Final = {"Cache-Control": "no-store"}

_STATUSES: Final = {
    Freshness.STARTING: "starting",
    Freshness.FRESH: "serving",
    Freshness.STALE: "serving stale",
    Freshness.EXPIRED: "closed",
}


class TellsState(Protocol):
    """A registry that says how good its knowledge is."""

    def health(self) -> RegistryHealth:
        """Says it, at once."""


class Overlooks(TellsState, Protocol):
    """Knows how all workers together are: the monitor."""

    def overview(self) -> Overview:
        """What they counted, and their state."""


class TellsPolicyState(Protocol):
    """Policies that say where they come from and what is wrong with that."""

    def health(self) -> PolicyHealth:
        """Says it, at once."""


def _policy(state: PolicyHealth) -> dict[str, Any]:
    return {
        "source": state.source,
        "default": state.names[0],
        "names": list(state.names),
        "loaded_at": state.loaded_at.isoformat(timespec="seconds"),
        "problem": state.problem,
    }


def build_admin_app(
    *,
    monitor: Overlooks,
    is_draining: Callable[[], bool],
    token: str | None,
    policies: TellsPolicyState | None = None,
) -> Starlette:
    """Builds the application.

    Args:
        monitor: Asked at every request.
        is_draining: Whether the service has been told to end.
        token: Needed for everything but health and readiness. None only on loopback.
        policies: Asked as well, where there are any. A policy file that is broken is told of, and
            makes nobody unready: the policies of before are in force.
    """
    exposition = Exposition(monitor.overview, policy=None if policies is None else policies.health)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=_NO_STORE)

    async def readiness(_: Request) -> Response:
        state = monitor.health()
        draining = is_draining()
        body: dict[str, Any] = {} if policies is None else {"policy": _policy(policies.health())}
        return JSONResponse(
            body
            | {
                "status": "draining" if draining else _STATUSES[state.freshness],
                "registry": {
                    "mode": state.mode,
                    "hotkeys": state.size,
                    "age_seconds": None
                    if state.age is None
                    else round(state.age.total_seconds(), 1),
                    "failing_since": None
                    if state.failing_since is None
                    else state.failing_since.isoformat(timespec="seconds"),
                    "last_error": state.last_error,
                },
            },
            status_code=200 if state.can_serve and not draining else 503,
            headers=_NO_STORE,
        )

    async def metrics(_: Request) -> Response:
        return Response(exposition.render(), headers={**_NO_STORE, "Content-Type": CONTENT_TYPE})

    async def status_page(_: Request) -> Response:
        page = render_page(
            monitor.overview(),
            is_draining=is_draining(),
            policy=None if policies is None else policies.health(),
        )
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
