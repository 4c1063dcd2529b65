"""Checks the proxy in front: it lets in the owner of a registered key, and no other client.

The proxy's own certificate is not verified: neurons pin its key, which is compared with the
chain's, and nothing secret is sent.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from nexus_auth.adapters.credentials.directory import CERTIFICATE_NAME, KEY_NAME
from nexus_auth.adapters.headers.names import HAND_WRITTEN_HEADER, HOTKEY_HEADER, with_underscores
from nexus_auth.adapters.proxies.table import PROXIES
from nexus_auth.domain.certificate import ClientCertificate, silence_parser
from nexus_auth.entrypoints.diagnostics.findings import Finding, Outcome

silence_parser(__name__)

_SUBJECT: Final = "proxy"
_TIMEOUT_SECONDS: Final = 10.0
_DENIALS: Final = frozenset({400, 401, 403, 495, 496})
"""495 and 496 are nginx's own, for a bad certificate and for none."""
_SERVER_ERRORS: Final = range(500, 600)
_CERTIFICATE_HEADERS: Final = (
    *(proxy.header.name for proxy in PROXIES.values()),
    HAND_WRITTEN_HEADER,
)
"""All in which some proxy might pass a certificate on."""


async def check_proxy(
    url: str, folder: Path, certificate: ClientCertificate | None
) -> list[Finding]:
    """Sends the proxy requests without a certificate, with forged headers, and with the key pair.

    The pair is in `folder`, with this certificate; None when there is no pair to try.
    """
    without = _context(None)
    status = await _status(url, without, {})
    if certificate is None:
        return [_judge_unproven(status, "without a certificate", in_handshake=False)]
    as_owner = await _status(url, _context(folder), {})
    # Where the owner gets an answer, the proxy is there: a connection that it closes without one
    # was turned away in the handshake.
    in_handshake = isinstance(as_owner, int)
    first = _judge_unproven(status, "without a certificate", in_handshake=in_handshake)
    if first.outcome is Outcome.UNREACHABLE:
        return [first]
    # The certificate as proxies send it, in every header in which one of them might.
    header = quote((folder / CERTIFICATE_NAME).read_text(encoding="ascii"), safe="")
    forged = dict.fromkeys(_CERTIFICATE_HEADERS, header)
    forged |= dict.fromkeys(with_underscores(HOTKEY_HEADER), certificate.hotkey.address)
    status = await _status(url, without, forged)
    kind = "with forged headers and no certificate"
    return [
        first,
        _judge_unproven(status, kind, in_handshake=in_handshake),
        _judge_owner(as_owner),
        _judge_server_key(url, certificate),
    ]


def _context(folder: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if folder is not None:
        context.load_cert_chain(folder / CERTIFICATE_NAME, folder / KEY_NAME)
    return context


async def _status(url: str, context: ssl.SSLContext, headers: Mapping[str, str]) -> int | Exception:
    """The status of one request, or the error in its place."""
    try:
        async with httpx.AsyncClient(
            verify=context, trust_env=False, timeout=_TIMEOUT_SECONDS
        ) as client:
            return (await client.get(url, headers=dict(headers))).status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as exc:
        return exc


def _shown(status: int | Exception) -> str:
    return str(status) if isinstance(status, int) else f"{type(status).__name__}: {status}"


def _judge_unproven(status: int | Exception, kind: str, *, in_handshake: bool) -> Finding:
    """Judges the answer to a request that proves no key.

    Args:
        status: The answer, or the error in its place.
        kind: What the client did, as in "a client without a certificate".
        in_handshake: Whether a closed connection counts as a denial.
    """
    outcome, next_step = Outcome.WRONG, ""
    if isinstance(status, int) and status in _DENIALS:
        outcome, text = Outcome.OK, f"refuses a client {kind} ({status})"
    elif isinstance(status, int) and status in _SERVER_ERRORS:
        text = f"answers {status} to a client {kind}"
        next_step = "can the proxy reach the auth service? Its error log says why not"
    elif isinstance(status, int):
        text = f"LETS IN a client {kind} ({status})"
        next_step = "this address is open to every client: start from nexus-auth proxy-config"
    elif in_handshake and not isinstance(status, httpx.TimeoutException):
        outcome, text = Outcome.OK, f"refuses a client {kind} (no answer)"
    else:
        # A timeout is no denial.
        outcome, text = Outcome.UNREACHABLE, f"no answer to a client {kind} ({_shown(status)})"
        next_step = (
            "is the proxy running at that address, and does it make the client's certificate "
            "optional?"
        )
    return Finding(_SUBJECT, outcome, text, next_step)


def _judge_owner(status: int | Exception) -> Finding:
    if isinstance(status, int) and status not in _DENIALS and status not in _SERVER_ERRORS:
        return Finding(_SUBJECT, Outcome.OK, f"lets in the owner of the pair ({status})")
    next_step = "the service's log names the reason; nexus-auth verify client.crt does as well"
    if isinstance(status, httpx.RemoteProtocolError):
        next_step = (
            "where the service's log has a grant, nginx could not keep it: is the disk of its "
            "cache full, read-only or another user's? Its error log names the file"
        )
    elif isinstance(status, int) and status in _SERVER_ERRORS:
        next_step = (
            "where the service's log has a grant, the application gave no answer; otherwise the "
            "auth service gave none. The proxy's error log says which"
        )
    text = f"does not let in the owner of the pair ({_shown(status)})"
    return Finding(_SUBJECT, Outcome.WRONG, text, next_step)


def _judge_server_key(url: str, certificate: ClientCertificate) -> Finding:
    """Says whether callers that pin the server's key will recognise this proxy."""
    subject = "server key"
    parts = httpx.URL(url)
    try:
        pem = ssl.get_server_certificate((parts.host, parts.port or 443), timeout=_TIMEOUT_SECONDS)
        key = x509.load_pem_x509_certificate(pem.encode("ascii")).public_key()
    except (OSError, ValueError) as exc:
        return Finding(subject, Outcome.SKIPPED, f"not readable ({type(exc).__name__})")
    if isinstance(key, Ed25519PublicKey) and key.public_bytes_raw() == certificate.public_key:
        return Finding(subject, Outcome.OK, "the proxy serves this pair, as callers pin it")
    return Finding(
        subject,
        Outcome.WARNING,
        "the proxy serves another key than this pair's; callers that pin it will not accept it",
        "if this pair is the miner's, let the proxy serve client.crt and client.key",
    )
