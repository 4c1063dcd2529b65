"""Does the proxy in front let in who may come in, and nobody else?

The proxy's own certificate is not verified: neurons pin its key, which is compared with the
chain's, and nothing secret is sent.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from nexus_auth.adapters.credentials.directory import CERTIFICATE_NAME, KEY_NAME
from nexus_auth.adapters.headers.names import HAND_WRITTEN_HEADER, HOTKEY_HEADER, with_underscores
from nexus_auth.adapters.proxies.table import PROXIES
from nexus_auth.entrypoints.diagnostics.findings import Finding, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nexus_auth.domain.certificate import ClientCertificate

_SUBJECT: Final = "proxy"
_TIMEOUT_SECONDS: Final = 10.0
_REFUSALS: Final = frozenset({400, 401, 403, 495, 496})
_SERVER_ERRORS: Final = range(500, 600)
_CERTIFICATE_HEADERS: Final = (
    *(proxy.header.name for proxy in PROXIES.values()),
    HAND_WRITTEN_HEADER,
)
"""All in which some proxy might pass a certificate on."""


async def check_proxy(
    url: str, folder: Path | None, certificate: ClientCertificate | None, header: str | None
) -> list[Finding]:
    """Knocks at the proxy as a stranger, as a forger, and as the owner of a key pair.

    Args:
        url: The proxy's address, `https://host:port/`.
        folder: Where the key pair is; None when there is none to try.
        certificate: The pair's certificate.
        header: The certificate in the header form that proxies send, to forge with.
    """
    stranger = _context(None)
    status = await _status(url, stranger, {})
    owner = None
    if folder is not None and certificate is not None:
        owner = await _status(url, _context(folder), {})
    # Who answers the owner is there: strangers who were cut off were turned away before they asked.
    in_handshake = isinstance(owner, int)
    findings = [_judge_stranger(status, "without a certificate", in_handshake=in_handshake)]
    if findings[0].outcome is Outcome.UNREACHABLE:
        return findings
    if certificate is not None and header is not None:
        forged = dict.fromkeys(_CERTIFICATE_HEADERS, header)
        forged |= dict.fromkeys(with_underscores(HOTKEY_HEADER), certificate.hotkey.address)
        findings.append(
            _judge_stranger(
                await _status(url, stranger, forged),
                "with forged headers and no certificate",
                in_handshake=in_handshake,
            )
        )
    if certificate is not None and owner is not None:
        findings.append(_judge_owner(owner))
        findings.append(_judge_server_key(url, certificate))
    return findings


def _context(folder: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if folder is not None:
        context.load_cert_chain(folder / CERTIFICATE_NAME, folder / KEY_NAME)
    return context


async def _status(url: str, context: ssl.SSLContext, headers: Mapping[str, str]) -> int | Exception:
    """The status of one request, or why there was none."""
    try:
        async with httpx.AsyncClient(
            verify=context, trust_env=False, timeout=_TIMEOUT_SECONDS
        ) as client:
            return (await client.get(url, headers=dict(headers))).status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as exc:
        return exc


def _shown(status: int | Exception) -> str:
    return str(status) if isinstance(status, int) else f"{type(status).__name__}: {status}"


def _judge_stranger(status: int | Exception, who: str, *, in_handshake: bool) -> Finding:
    # Who says nothing has refused nobody.
    is_silence = isinstance(status, httpx.TimeoutException)
    if isinstance(status, Exception) and in_handshake and not is_silence:
        return Finding(
            subject=_SUBJECT, outcome=Outcome.OK, text=f"refuses a client {who} (no answer)"
        )
    if isinstance(status, Exception):
        return Finding(
            subject=_SUBJECT,
            outcome=Outcome.UNREACHABLE,
            text=f"no answer to a client {who} ({_shown(status)})",
            next_step="is the proxy running at that address, and does it make the client's "
            "certificate optional?",
        )
    if status in _REFUSALS:
        return Finding(
            subject=_SUBJECT, outcome=Outcome.OK, text=f"refuses a client {who} ({status})"
        )
    if status in _SERVER_ERRORS:
        return Finding(
            subject=_SUBJECT,
            outcome=Outcome.WRONG,
            text=f"answers {status} to a client {who}",
            next_step="can the proxy reach the auth service? Its error log says why not",
        )
    return Finding(
        subject=_SUBJECT,
        outcome=Outcome.WRONG,
        text=f"LETS IN a client {who} ({status})",
        next_step="this address is open to everybody: start from nexus-auth proxy-config",
    )


def _judge_owner(status: int | Exception) -> Finding:
    if isinstance(status, int) and status not in _REFUSALS and status not in _SERVER_ERRORS:
        return Finding(
            subject=_SUBJECT, outcome=Outcome.OK, text=f"lets in the owner of the pair ({status})"
        )
    return Finding(
        subject=_SUBJECT,
        outcome=Outcome.WRONG,
        text=f"does not let in the owner of the pair ({_shown(status)})",
        next_step="the service's log names the reason; nexus-auth verify client.crt does as well",
    )


def _judge_server_key(url: str, certificate: ClientCertificate) -> Finding:
    """Says whether callers that pin the server's key will recognise this proxy."""
    subject = "server key"
    parts = httpx.URL(url)
    try:
        pem = ssl.get_server_certificate((parts.host, parts.port or 443), timeout=_TIMEOUT_SECONDS)
        key = x509.load_pem_x509_certificate(pem.encode("ascii")).public_key()
    except (OSError, ValueError) as exc:
        return Finding(
            subject=subject, outcome=Outcome.SKIPPED, text=f"not readable ({type(exc).__name__})"
        )
    if isinstance(key, Ed25519PublicKey) and key.public_bytes_raw() == certificate.public_key:
        return Finding(
            subject=subject,
            outcome=Outcome.OK,
            text="the proxy serves this pair, as callers pin it",
        )
    return Finding(
        subject=subject,
        outcome=Outcome.WARNING,
        text="the proxy serves another key than this pair's; callers that pin it will turn away",
        next_step="if this pair is the miner's, let the proxy serve client.crt and client.key",
    )
