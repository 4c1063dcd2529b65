"""Real requests over real mutual TLS, and what came of them."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nexus_auth.entrypoints.demo.errors import DemoFailed
from nexus_auth.entrypoints.demo.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from nexus_auth.entrypoints.demo.people import KeyPair

_TIMEOUT_SECONDS: Final = 15.0
_MAX_BODY_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a caller got, and what the application behind the proxy saw of the request.

    Attributes:
        status: The HTTP status.
        reason: Why access was denied, as the auth service says it; None where it says nothing.
        seen: The headers that the application saw, names in lower case; None when the answer is
            not the application's.
    """

    status: int
    reason: str | None
    seen: tuple[tuple[str, str], ...] | None

    def seen_values(self, name: str) -> list[str]:
        """Every value of one header that the application saw."""
        return [value for each, value in self.seen or () if each == name.lower()]


def fetch_answer(
    port: int,
    *,
    server_certificate: Path,
    client: KeyPair | None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Makes one request on a connection of its own.

    Args:
        port: The proxy's port on loopback.
        server_certificate: The one certificate that the proxy must show: it is pinned.
        client: What the caller shows; None shows nothing.
        headers: What the caller claims besides.

    Raises:
        DemoFailed: When there is no answer.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the pin says more: this key and no other
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(server_certificate)
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    connection = http.client.HTTPSConnection(
        LOOPBACK, port, timeout=_TIMEOUT_SECONDS, context=context
    )
    try:
        connection.request("GET", "/hello", headers=dict(headers or {}))
        response = connection.getresponse()
        body = response.read(_MAX_BODY_BYTES)
    except (OSError, http.client.HTTPException) as exc:
        raise DemoFailed(f"the proxy did not answer: {type(exc).__name__}: {exc}") from exc
    finally:
        connection.close()
    reason = response.headers["X-Nexus-Auth-Reason"]
    return Answer(status=response.status, reason=reason, seen=_seen(body))


def _seen(body: bytes) -> tuple[tuple[str, str], ...] | None:
    try:
        lines = [str(line).partition(": ") for line in json.loads(body)["headers"]]
    except (ValueError, KeyError, TypeError):
        return None  # a page of the proxy's own
    return tuple((name.lower(), value) for name, _, value in lines)
