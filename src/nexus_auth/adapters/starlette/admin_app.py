"""The admin listener's application: is the process alive, and would a caller be let in now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from nexus_auth.adapters.registry.state import Freshness

if TYPE_CHECKING:
    from starlette.requests import Request

    from nexus_auth.adapters.policy.live import PolicyState
    from nexus_auth.adapters.registry.state import RegistryState

_NO_STORE: Final = {"Cache-Control": "no-store"}

_STATUSES: Final = {
    Freshness.STARTING: "starting",
    Freshness.FRESH: "serving",
    Freshness.STALE: "serving stale",
    Freshness.EXPIRED: "closed",
}


class TellsState(Protocol):
    """A registry that says how good its knowledge is."""

    def state(self) -> RegistryState:
        """Says it, at once."""


class TellsPolicyState(Protocol):
    """Policies that say where they come from and what is wrong with that."""

    def state(self) -> PolicyState:
        """Says it, at once."""


def _policy(state: PolicyState) -> dict[str, Any]:
    return {
        "source": state.source,
        "default": state.names[0],
        "names": list(state.names),
        "loaded_at": state.loaded_at.isoformat(timespec="seconds"),
        "problem": state.problem,
    }


def build_admin_app(
    *,
    registry: TellsState,
    is_draining: Callable[[], bool],
    policies: TellsPolicyState | None = None,
) -> Starlette:
    """Builds the application.

    Args:
        registry: Asked for its state at every readiness check.
        is_draining: Whether the service has been told to end.
        policies: Asked as well, where there are any. A policy file that is broken is told of, and
            makes nobody unready: the policies of before are in force.
    """

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"}, headers=_NO_STORE)

    async def readiness(_: Request) -> JSONResponse:
        state = registry.state()
        draining = is_draining()
        body: dict[str, Any] = {} if policies is None else {"policy": _policy(policies.state())}
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

    return Starlette(
        routes=[Route("/healthz", health), Route("/readyz", readiness)],
    )
