"""The application inside Hypercorn's own middleware for forwarding headers, in both its modes."""

from __future__ import annotations

from typing import Any, cast

from hypercorn.middleware import ProxyFixMiddleware

from tests.integration.servers.application import app

legacy = ProxyFixMiddleware(cast("Any", app), mode="legacy")
modern = ProxyFixMiddleware(cast("Any", app), mode="modern")
