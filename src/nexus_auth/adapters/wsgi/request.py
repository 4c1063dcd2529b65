"""A WSGI request as the gate reads requests: an ASGI scope, with what the server itself knows.

WSGI hides what the gate asks for. An environ has one name for X-Client-Cert and X_Client_Cert, has
one value for a header that came twice, and names a peer that a middleware may have taken from a
header. Most servers leave more in reach than the environ says: the connection, and the header lines
as they came. What is read there is listed here by server, and was measured; see
tests/integration/servers/test_wsgi.py. Where a server shows none of it, nothing is assumed.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Final

from nexus_auth.adapters.headers.names import field_name
from nexus_auth.adapters.starlette.gate import HEAD_ONLY

if TYPE_CHECKING:
    from nexus_auth.adapters.starlette.trusted_peers import Endpoint

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

_PREFIX: Final = "HTTP_"
_OWN_SOCKETS: Final = ("gunicorn.socket", "werkzeug.socket")
_WAITRESS: Final = "waitress.client_disconnected"
"""In the environ of waitress 2 and later: a method of the connection."""

_WERKZEUG: Final = re.compile(r"Werkzeug/(\d+)\.(\d+)")
_WERKZEUG_DROPS: Final = (3, 1)
"""From this release at least, its development server drops headers with underscores."""

OWN_PREFIX: Final = "nexus_auth."
"""Of what the check itself adds to an environ."""

_CLAIMS: Final = frozenset({"REMOTE_USER", "AUTH_TYPE", "HTTP_REMOTE_USER", "HTTP_X_HOTKEY"})
_CLAIM_PREFIX: Final = "HTTP_X_HOTKEY_"
_NO_WORD: Final = re.compile(r"[^A-Z0-9]")


def build_scope(
    environ: Environ,
    start_response: StartResponse,
    *,
    header: str,
    has_one_spelling: bool,
) -> tuple[dict[str, Any], bool]:
    """Builds what `Gate.decide` takes out of what a WSGI server gives.

    Args:
        environ: The request.
        start_response: The server's own, by which some servers show the header lines.
        header: The header that carries the certificate.
        has_one_spelling: Whether it is promised that no client can send a header whose name WSGI
            takes for this one.

    Returns:
        The scope, and whether the certificate was left out of it because the server does not say
        how the name of its header was spelt.
    """
    connection = _find_connection(environ, start_response)
    lines = _find_lines(environ, start_response)
    is_hidden = False
    if lines is None:
        lines, is_hidden = _lines_of_environ(
            environ,
            header=field_name(header),
            is_spelt=has_one_spelling or "-" not in header or _drops_underscores(environ),
            is_single=has_one_spelling,
        )
    client, server = _ends(environ, connection)
    return {
        "headers": lines,
        "client": client,
        "server": server,
        # These servers never mix trailers in, and the peer is the connection's own.
        "extensions": {} if connection is None else {HEAD_ONLY: {}},
    }, is_hidden


def _find_connection(environ: Environ, start_response: StartResponse) -> Any:
    """The connection that a request came in on; None where the server shows none."""
    for key in _OWN_SOCKETS:
        if key in environ:
            return environ[key]
    if _WAITRESS in environ:
        return getattr(getattr(environ[_WAITRESS], "__self__", None), "socket", None)
    handler = _find_handler(start_response)
    return None if handler is None else handler.connection


def _find_handler(start_response: StartResponse) -> BaseHTTPRequestHandler | None:
    """What reads requests in wsgiref and in Django's development server."""
    owner = getattr(start_response, "__self__", None)
    handler = getattr(owner, "request_handler", None)
    return handler if isinstance(handler, BaseHTTPRequestHandler) else None


def _find_lines(
    environ: Environ, start_response: StartResponse
) -> list[tuple[bytes, bytes]] | None:
    """The header lines as they came, with names in lower case; None where they are not shown.

    Only of a server's own objects: a middleware may have put its own in between, and what that
    calls headers comes from the environ.
    """
    found: Iterable[tuple[str, str]]
    owner: Any = getattr(start_response, "__self__", None)
    handler = _find_handler(start_response)
    if handler is not None:
        found = handler.headers.items()
        # Django's development server reads no chunked body, and would take what stands in it for
        # the next request of the proxy.
        if "Transfer-Encoding" in handler.headers or "Content-Length" in handler.headers:
            handler.close_connection = True
    elif "gunicorn.socket" in environ and type(owner).__module__.startswith("gunicorn."):
        found = owner.req.headers
    else:
        return None
    return [(_bytes(name).lower(), _bytes(value)) for name, value in found]


def _lines_of_environ(
    environ: Environ, *, header: bytes, is_spelt: bool, is_single: bool
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The headers as far as an environ tells, and whether the certificate's is left out.

    Args:
        environ: The request.
        header: The header that carries the certificate.
        is_spelt: Whether its name can only have been spelt with hyphens.
        is_single: Whether it can only have come once.
    """
    lines, is_hidden = [], False
    for key, value in environ.items():
        if not (isinstance(value, str) and key.startswith(_PREFIX)):
            continue
        name = _bytes(key[len(_PREFIX) :]).lower().replace(b"_", b"-")
        if name != header:
            lines.append((name, _bytes(value)))
        elif not is_spelt:
            is_hidden = True
        else:
            # Servers join what comes twice by a comma: it counts as often as it may have come.
            values = [value] if is_single else value.split(",")
            lines += [(name, _bytes(each)) for each in values]
    return lines, is_hidden


def _drops_underscores(environ: Environ) -> bool:
    if _WAITRESS in environ:
        return True
    werkzeug = _WERKZEUG.match(str(environ.get("SERVER_SOFTWARE")))
    return (
        "werkzeug.socket" in environ
        and werkzeug is not None
        and (int(werkzeug[1]), int(werkzeug[2])) >= _WERKZEUG_DROPS
    )


def _ends(environ: Environ, connection: Any) -> tuple[Endpoint, Endpoint]:
    """The peer and the server's own end, as `TrustedPeers.include` takes them."""
    if connection is None:
        address = environ.get("REMOTE_ADDR")
        return (str(address or ""), None), None
    try:
        if connection.family == socket.AF_UNIX:
            return None, ("", None)
        return connection.getpeername(), None
    except (OSError, AttributeError):  # It is gone, or is no socket: an unknown peer.
        return None, None


def _bytes(text: str) -> bytes:
    """What stood in the request; any text that no server gives becomes bytes that prove nothing."""
    return text.encode("utf-8", "surrogatepass")


def find_claims(environ: Environ, header: str) -> list[str]:
    """The keys by which a client, or a server on its word, could name the caller.

    Args:
        environ: The request.
        header: The header that carries the certificate.
    """
    claims = _CLAIMS | {_fold(_PREFIX + header)}
    return [
        key
        for key in environ
        if key.startswith(OWN_PREFIX)
        or (folded := _fold(key)) in claims
        or folded.startswith(_CLAIM_PREFIX)
    ]


def _fold(key: str) -> str:
    return _NO_WORD.sub("_", key.upper())
