"""A denial as an error."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from nexus_auth.adapters.starlette.middleware import require_hotkey
from nexus_auth.adapters.starlette.refusal import build_refusal
from nexus_auth.domain.reasons import DenialReason

ANSWERS: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}


@pytest.mark.parametrize(
    "scope", [{"type": "http"}, {"type": "websocket", **ANSWERS}], ids=["http", "websocket"]
)
@pytest.mark.parametrize("reason", DenialReason)
def test_denial_is_a_403_with_its_code(scope: dict[str, Any], reason: DenialReason) -> None:
    """As the middleware answers it."""
    refusal = build_refusal(scope, reason)
    assert isinstance(refusal, HTTPException)
    assert (refusal.status_code, refusal.detail) == (403, reason.body)
    assert refusal.headers == {"X-Nexus-Auth-Reason": reason.value, "Cache-Control": "no-store"}


@pytest.mark.parametrize("extensions", [{}, None, {"tls": {}}])
def test_websocket_is_closed_where_the_server_cannot_answer_it(
    extensions: dict[str, Any] | None,
) -> None:
    """An answer would be an error of the server: the dependency of the middleware closes it too."""
    scope: dict[str, Any] = {"type": "websocket", "headers": [], "extensions": extensions}
    assert isinstance(build_refusal(scope, DenialReason.NO_CERTIFICATE), WebSocketException)
    with pytest.raises(WebSocketException) as raised:
        require_hotkey(HTTPConnection(scope))
    assert raised.value.code == 1008
