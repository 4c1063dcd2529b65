"""Builds certificates for tests: valid by default, one deviation per call."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nexus_auth.domain.hotkey import Hotkey

NOW: Final = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
"""The moment at which unit tests take place."""

SubjectKey = (
    Ed25519PrivateKey | ed448.Ed448PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
)


def a_hotkey(name: str = "alice") -> Hotkey:
    """Makes the hotkey that goes with a name, always the same one."""
    return Hotkey(hashlib.sha256(b"hotkey " + name.encode()).digest())


def a_key(name: str = "alice") -> Ed25519PrivateKey:
    """Makes the private key that goes with a name, always the same one."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"key " + name.encode()).digest())


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The raw public half of a key."""
    return key.public_key().public_bytes_raw()


def organization(value: str) -> x509.NameAttribute[str]:
    """One O attribute."""
    return x509.NameAttribute(NameOID.ORGANIZATION_NAME, value)


DIGITAL_SIGNATURE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
CLIENT_AND_SERVER: Final = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
)


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
    holder = hotkey or a_hotkey()
    subject_key = key if key is not None else a_key()
    name = subject if subject is not None else x509.Name([organization(holder.address)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer if issuer is not None else name)
        .public_key(subject_key.public_key())
        .serial_number(serial_number)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    if signed_by is not None:
        return builder.sign(signed_by, None)
    if isinstance(subject_key, Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return builder.sign(subject_key, None)
    return builder.sign(subject_key, hashes.SHA256())


def to_der(certificate: x509.Certificate) -> bytes:
    """The certificate as DER."""
    return certificate.public_bytes(Encoding.DER)


def to_pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def to_nginx_header(certificate: x509.Certificate) -> bytes:
    """The certificate as nginx sends it: PEM, percent-encoded."""
    return quote(to_pem(certificate).decode(), safe="").encode()
