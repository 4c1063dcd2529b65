"""The callers of a benchmark: key pairs, certificates, and a Pylon that knows them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nexus_auth.domain.hotkey import Hotkey

COUNT: Final = 256
"""As many as a subnet has neurons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One registered caller."""

    hotkey: Hotkey
    public_key: bytes
    pem: bytes

    @property
    def header(self) -> str:
        """The certificate as nginx writes it into a header."""
        return quote(self.pem.decode("ascii"), safe="")


def _seed(number: int) -> bytes:
    return hashlib.sha256(f"bench {number}".encode()).digest()


def key_pem(number: int) -> bytes:
    """The private key of the caller of that number."""
    key = Ed25519PrivateKey.from_private_bytes(_seed(number))
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def a_caller(number: int) -> Caller:
    """The caller of that number, with the same keys in every run."""
    seed = _seed(number)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    hotkey = Hotkey(hashlib.sha256(seed).digest())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, hotkey.address)])
    now = datetime.now(UTC)
    usage = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .sign(key, None)
    )
    return Caller(
        hotkey=hotkey,
        public_key=key.public_key().public_bytes_raw(),
        pem=certificate.public_bytes(Encoding.PEM),
    )


def callers(count: int = COUNT) -> list[Caller]:
    """So many callers."""
    return [a_caller(number) for number in range(count)]
