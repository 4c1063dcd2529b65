"""For ASGI applications: the check as a middleware, as an authentication backend, as a dependency.

Behind a proxy that asks the auth service itself, `hotkey_from_proxy` reads who calls.
Needs no more than the package itself; docs/library.md shows each of them at work.
"""

from __future__ import annotations

from nexus_auth.adapters.proxies.decoding import der_from_header
from nexus_auth.adapters.starlette.behind_proxy import HotkeyFromProxy, hotkey_from_proxy
from nexus_auth.adapters.starlette.middleware import (
    AUTHENTICATED,
    UNIX_SOCKET,
    AnonymousUser,
    HotkeyUser,
    NexusAuthBackend,
    NexusAuthMiddleware,
    require_hotkey,
    verifier_from_state,
)

__all__ = [
    "AUTHENTICATED",
    "UNIX_SOCKET",
    "AnonymousUser",
    "HotkeyFromProxy",
    "HotkeyUser",
    "NexusAuthBackend",
    "NexusAuthMiddleware",
    "der_from_header",
    "hotkey_from_proxy",
    "require_hotkey",
    "verifier_from_state",
]
