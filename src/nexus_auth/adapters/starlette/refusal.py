"""A denial as an error, where an application and not the middleware answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException, WebSocketException

from nexus_auth.adapters.headers.names import REASON_HEADER
from nexus_auth.adapters.starlette.answers import POLICY_VIOLATION

if TYPE_CHECKING:
    from starlette.types import Scope

    from nexus_auth.domain.reasons import DenialReason

_ANSWERS_WEBSOCKETS: Final = "websocket.http.response"
"""The ASGI extension by which a server answers a WebSocket's handshake with a response."""


def build_refusal(scope: Scope, reason: DenialReason) -> HTTPException | WebSocketException:
    """Makes a denial as an error, which Starlette, FastAPI and Litestar answer with 403."""
    extensions = scope.get("extensions") or {}
    if scope["type"] == "websocket" and _ANSWERS_WEBSOCKETS not in extensions:
        return WebSocketException(POLICY_VIOLATION)
    return HTTPException(
        status_code=403,
        detail=reason.body,
        headers={REASON_HEADER: reason.value, "Cache-Control": "no-store"},
    )
