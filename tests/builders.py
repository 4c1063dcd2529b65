"""Builds certificates for tests: valid at `NOW` by default, one deviation per call.

The builder itself is the one that `nexus_auth.testing` offers to everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.testing import (
    CLIENT_AND_SERVER,
    DIGITAL_SIGNATURE,
    SubjectKey,
    build_certificate,
    hotkey_named,
    key_named,
)

__all__ = [
    "CLIENT_AND_SERVER",
    "DIGITAL_SIGNATURE",
    "NOW",
    "SubjectKey",
    "a_certificate",
    "a_hotkey",
    "a_key",
    "organization",
    "public_bytes",
    "to_der",
    "to_nginx_header",
    "to_pem",
]

NOW: Final = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
"""The moment at which unit tests take place."""


@lru_cache(maxsize=4096)
def a_hotkey(name: str = "alice") -> Hotkey:
    """Makes the hotkey that goes with a name, always the same one."""
    return hotkey_named(name)


@lru_cache(maxsize=4096)
def a_key(name: str = "alice") -> Ed25519PrivateKey:
    """Makes the private key that goes with a name, always the same one."""
    return key_named(name)


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The raw public half of a key."""
    return key.public_key().public_bytes_raw()


def organization(value: str) -> x509.NameAttribute[str]:
    """One O attribute."""
    return x509.NameAttribute(NameOID.ORGANIZATION_NAME, value)


def a_certificate(
    *,
    hotkey: Hotkey | None = None,
    key: SubjectKey | None = None,
    signed_by: Ed25519PrivateKey | None = None,
    subject: x509.Name | None = None,
    issuer: x509.Name | None = None,
    not_before: datetime = NOW - timedelta(days=1),
    not_after: datetime = NOW + timedelta(days=365),
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (
        (DIGITAL_SIGNATURE, True),
        (CLIENT_AND_SERVER, False),
    ),
    serial_number: int = 0x1234567890,
) -> x509.Certificate:
    """Builds a self-signed client certificate for alice, with the deviations that are named."""
    return build_certificate(
        hotkey=hotkey or a_hotkey(),
        key=a_key() if key is None else key,
        signed_by=signed_by,
        subject=subject,
        issuer=issuer,
        not_before=not_before,
        not_after=not_after,
        extensions=extensions,
        serial_number=serial_number,
    )


def to_der(certificate: x509.Certificate) -> bytes:
    """The certificate as DER."""
    return certificate.public_bytes(Encoding.DER)


def to_pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def to_nginx_header(certificate: x509.Certificate) -> bytes:
    """The certificate as nginx sends it: PEM, percent-encoded."""
    return quote(to_pem(certificate).decode(), safe="").encode()
