"""For WSGI applications, such as those of Flask and Django: the check as a middleware.

Needs no more than the package itself; docs/library.md shows it at work.
"""

from __future__ import annotations

from nexus_auth.adapters.proxies.decoding import der_from_header
from nexus_auth.adapters.starlette.trusted_peers import UNIX_SOCKET
from nexus_auth.adapters.wsgi.middleware import NexusAuthMiddleware

__all__ = ["UNIX_SOCKET", "NexusAuthMiddleware", "der_from_header"]
