"""What the WSGI servers of these tests run: the shipped middleware, and what a server makes of it.

The path chooses. `/environ` shows what the server gives. Any other path names the proxy that is
trusted; `/promised/...` is behind a proxy that is said to remove spellings, and `/anonymous/...`
lets denied requests in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from nexus_auth import CertificateVerifier, utc_now
from nexus_auth.wsgi import NexusAuthMiddleware
from tests.integration.servers.application import OnlyAlice

Environ = dict[str, Any]

PROXIES = ("127.0.0.1", "127.0.0.9", "unix")


def show(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Says which headers and names of a caller or a peer reach an application."""
    kept = ("HTTP_", "REMOTE_", "AUTH_", "SERVER_SOFTWARE")
    shown = {
        key: value
        for key, value in environ.items()
        if isinstance(value, str) and key.startswith(kept)
    }
    shown["hotkey"] = str(environ.get("nexus_auth.hotkey"))
    body = json.dumps(shown).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


_verifier = CertificateVerifier(registry=OnlyAlice(), clock=utc_now)


def _guard(proxy: str, **options: Any) -> NexusAuthMiddleware:
    return NexusAuthMiddleware(show, verifier=_verifier, trusted_proxies=[proxy], **options)


ROUTES: dict[str, Callable[[Environ, Callable[..., Any]], Iterable[bytes]]] = {
    "/environ": show,
    "/xfcc": _guard("127.0.0.1", header="X-Forwarded-Client-Cert", header_format="xfcc"),
    **{f"/{proxy}": _guard(proxy) for proxy in PROXIES},
    **{f"/promised/{proxy}": _guard(proxy, proxy_removes_spellings=True) for proxy in PROXIES},
    **{f"/anonymous/{proxy}": _guard(proxy, on_denial="anonymous") for proxy in PROXIES},
}


def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Hands a request to the application that its path names."""
    return ROUTES[environ["PATH_INFO"]](environ, start_response)


def in_between(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The same inside a middleware that has a `start_response` of its own."""

    def start(status: str, headers: list[tuple[str, str]]) -> Any:
        return start_response(status, headers)

    return application(environ, start)


def rewritten(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The same inside what takes the peer from a header: Werkzeug's, then Granian's."""
    from granian.utils.proxies import wrap_wsgi_with_proxy_headers
    from werkzeug.middleware.proxy_fix import ProxyFix

    inner: Any = wrap_wsgi_with_proxy_headers(application, trusted_hosts="*")
    return ProxyFix(inner, x_for=1)(environ, start_response)
