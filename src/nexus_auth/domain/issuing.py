"""Builds a client certificate around a key pair, and reads such a pair back.

Pure, apart from the random serial number where none is given. Nothing here proves that a key is
on chain, nor that the chain has it for that hotkey.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.errors import CertificateRejected, CredentialsError
from nexus_auth.domain.hotkey import Hotkey

BACKDATING: Final = timedelta(minutes=5)
"""How long before its making a certificate becomes valid: nginx refuses one from the future, and
clocks differ."""

LAST_MOMENT: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280 §4.1.2.5: the last date that a certificate can say."""

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
"""All that an Ed25519 key can do in TLS."""
CLIENT_AND_SERVER: Final = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
)
"""Both: a neuron shows the same pair when it calls and when it is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A private key and the certificate around it. They belong together.

    Attributes:
        key_pem: The private key, PKCS#8 PEM, unencrypted.
        certificate_pem: The certificate, PEM.
        certificate: The same, parsed.
    """

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes = field(repr=False)
    certificate: ClientCertificate

    @classmethod
    def from_pem(cls, *, key_pem: bytes, certificate_pem: bytes) -> Self:
        """Reads a pair back and checks that its halves belong together.

        Raises:
            CredentialsError: If one of them is malformed, or they are not a pair. No byte of the
                key is repeated.
        """
        key = parse_private_key(key_pem)
        try:
            certificate = ClientCertificate.from_pem(certificate_pem)
        except CertificateRejected as exc:
            problem = f"the certificate is not one of a hotkey ({exc})"
            raise CredentialsError(problem) from None
        if certificate.public_key != key.public_key().public_bytes_raw():
            raise CredentialsError("the private key is not that of the certificate")
        return cls(key_pem=key_pem, certificate_pem=certificate_pem, certificate=certificate)


def parse_private_key(pem: bytes) -> Ed25519PrivateKey:
    """Reads an unencrypted Ed25519 private key.

    Raises:
        CredentialsError: If it is anything else; no byte of it is repeated.
    """
    key: object = None
    with suppress(Exception):  # the parser reports bad input by several exception types
        key = load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        # Raised out here so that the parser's own exception, and its frames, stay behind.
        raise CredentialsError("the private key is not an unencrypted Ed25519 key in PEM")
    return key


def build_credentials(
    *,
    hotkey: Hotkey,
    private_key: bytes,
    now: datetime,
    valid_for: timedelta,
    names: Sequence[x509.GeneralName] = (),
    serial_number: int | None = None,
) -> Credentials:
    """Builds a self-signed client certificate for a hotkey around a private key.

    Args:
        hotkey: Becomes O in the subject, and CN: Envoy and Caddy serve no certificate without a
            CN or an alternative name.
        private_key: The 32-byte seed of an Ed25519 key.
        now: The present moment (aware, UTC).
        valid_for: How long from now; more than nothing, and to the year 9999 at most.
        names: Alternative names, for clients that check the name of the server that they call.
        serial_number: 1 to 159 bits; random by default.

    Raises:
        ValueError: If the time span is impossible.
    """
    not_after = validity_end(now, valid_for)
    key = Ed25519PrivateKey.from_private_bytes(private_key)
    name = x509.Name(
        x509.NameAttribute(attribute, hotkey.address)
        for attribute in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() if serial_number is None else serial_number)
        .not_valid_before(now - BACKDATING)
        .not_valid_after(not_after)
        .add_extension(DIGITAL_SIGNATURE, critical=True)
        .add_extension(CLIENT_AND_SERVER, critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(key, None)
    return Credentials.from_pem(
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate_pem=certificate.public_bytes(Encoding.PEM),
    )


def validity_end(now: datetime, valid_for: timedelta) -> datetime:
    """When a certificate made now ends.

    Raises:
        ValueError: If that is not after now, or after the year 9999.
    """
    if valid_for <= timedelta():
        raise ValueError("a certificate must be valid for some time")
    if valid_for > LAST_MOMENT - now:
        raise ValueError("no certificate can be valid beyond the year 9999")
    return now + valid_for
