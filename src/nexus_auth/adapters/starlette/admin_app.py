"""The admin listener's application: health, readiness, metrics and the status page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from nexus_auth.adapters.observability.prometheus import CONTENT_TYPE, render_metrics
from nexus_auth.adapters.starlette.admin_guard import AdminGuard
from nexus_auth.adapters.starlette.status_page import PAGE_HEADERS, render_page
from nexus_auth.domain.health import Freshness

if TYPE_CHECKING:
    from starlette.requests import Request

    from nexus_auth.adapters.observability.monitor import Monitor
    from nexus_auth.domain.health import PolicyHealth, RegistryHealth

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
    policy_health: Callable[[], PolicyHealth] | None = None,
) -> Starlette:
    """Builds the application.

    Args:
        monitor: Read at every request.
        is_draining: Says whether the service is about to end.
        token: Needed for everything but health and readiness. None only on loopback.
        policy_health: Says the state of the access policies, where there are any. A broken policy
            file is shown, and does not make the service unready: the policies of before are in
            force.
    """

    def policy_now() -> PolicyHealth | None:
        return None if policy_health is None else policy_health()

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "alive"}, headers=_NO_STORE)

    async def readiness(_: Request) -> Response:
        registry, policy, draining = monitor.health(), policy_now(), is_draining()
        body: dict[str, Any] = {} if policy is None else {"policy": _policy(policy)}
        body["status"] = "draining" if draining else _STATUSES[registry.freshness]
        body["registry"] = _registry(registry)
        status_code = 200 if registry.can_serve and not draining else 503
        return JSONResponse(body, status_code=status_code, headers=_NO_STORE)

    async def metrics(_: Request) -> Response:
        text = render_metrics(monitor.overview(), policy=policy_now())
        return Response(text, headers={**_NO_STORE, "Content-Type": CONTENT_TYPE})

    async def status_page(_: Request) -> Response:
        page = render_page(monitor.overview(), is_draining=is_draining(), policy=policy_now())
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


def _registry(health: RegistryHealth) -> dict[str, Any]:
    age, since = health.age, health.failing_since
    return {
        "mode": health.mode,
        "hotkeys": health.size,
        "age_seconds": None if age is None else round(age.total_seconds(), 1),
        "failing_since": None if since is None else since.isoformat(timespec="seconds"),
        "last_error": health.last_error,
    }


def _policy(health: PolicyHealth) -> dict[str, Any]:
    return {
        "source": health.source,
        "default": health.names[0],
        "names": list(health.names),
        "loaded_at": health.loaded_at.isoformat(timespec="seconds"),
        "problem": health.problem,
    }
