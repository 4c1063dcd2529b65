"""Trailers: fields behind a chunked body, which some servers append to the request's headers.

uvicorn with httptools does when the whole request is there before the application begins (measured
with 0.54; uvicorn with h11, Hypercorn, Granian and Daphne do not). Many proxies pass trailers on
from the client as they are, and nobody can tell afterwards which of the headers was one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import Scope

HEAD_ONLY: Final = "nexus_auth.head_only"
"""The ASGI extension by which a server says that `headers` hold no trailers, ever."""

TRAILERS_DETAIL: Final = "a chunked request, whose trailers may be among the headers"


def may_hold_trailers(scope: Scope) -> bool:
    """Whether some of a request's headers may be trailers, which prove nothing.

    Only a chunked request has any (RFC 9112 §7.1.2); HTTP/2 has frames of their own for them.
    """
    return HEAD_ONLY not in (scope.get("extensions") or {}) and any(
        name.lower() == b"transfer-encoding" for name, _ in scope["headers"]
    )
