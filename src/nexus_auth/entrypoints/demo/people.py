"""Who takes part: names, hotkeys, and the certificates they show."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from nexus_auth.adapters.credentials.directory import CERTIFICATE_NAME, KEY_NAME
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.entrypoints.demo.ports import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """A private key and a certificate, as files."""

    key: Path
    certificate: Path

    @classmethod
    def in_directory(cls, directory: Path) -> KeyPair:
        """The pair that `nexus-auth generate` writes into a directory."""
        return cls(key=directory / KEY_NAME, certificate=directory / CERTIFICATE_NAME)


def a_hotkey(name: str) -> Hotkey:
    """Makes a hotkey for somebody in the demo; no wallet holds it."""
    return Hotkey(hashlib.sha256(f"nexus-auth demo {name}".encode()).digest())


def save_self_made(directory: Path, *, hotkey: Hotkey) -> KeyPair:
    """Makes a pair that nobody registered: anybody can write any hotkey into a certificate."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, hotkey.address)])
    certificate = _builder(name).public_key(key.public_key()).sign(key, None)
    return _save(directory, key, certificate)


def save_server_pair(directory: Path) -> KeyPair:
    """Makes a server's pair for a proxy that refuses certificates without a host name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ip_address(LOOPBACK))]
    )
    builder = _builder(name).public_key(key.public_key()).add_extension(names, critical=False)
    return _save(directory, key, builder.sign(key, hashes.SHA256()))


def public_key_pin(pair: KeyPair) -> str:
    """The SHA-256 pin of a certificate's public key, as curl's `--pinnedpubkey` takes it."""
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256//{base64.b64encode(hashlib.sha256(info).digest()).decode()}"


def _builder(name: x509.Name) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(x509.random_serial_number())
        # nginx refuses a certificate from the future, and clocks differ.
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
    )


def _save(
    directory: Path,
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
    certificate: x509.Certificate,
) -> KeyPair:
    directory.mkdir()
    pair = KeyPair.in_directory(directory)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(pair.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    pair.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    return pair
