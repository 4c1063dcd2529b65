"""The hotkeys of the demo, and the certificates that its callers and its proxy show."""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.files import PUBLIC_MODE, replace_file
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuing import BACKDATING, build_credentials

_VALID_FOR: Final = timedelta(days=1)


def a_hotkey(name: str) -> Hotkey:
    """Makes a hotkey for a name; no wallet holds it."""
    return Hotkey(hashlib.sha256(f"nexus-auth demo {name}".encode()).digest())


def save_self_made(directory: Path, *, hotkey: Hotkey) -> CredentialsDirectory:
    """Makes a pair that is not registered: any hotkey can be written into a certificate."""
    credentials = build_credentials(
        hotkey=hotkey,
        private_key=secrets.token_bytes(32),
        now=datetime.now(UTC),
        valid_for=_VALID_FOR,
    )
    return _save(directory, credentials.key_pem, credentials.certificate_pem)


def save_server_pair(directory: Path) -> CredentialsDirectory:
    """Makes a server's pair for a proxy that does not serve a certificate without a host name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATING)
        .not_valid_after(now + _VALID_FOR)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _save(directory, key_pem, certificate.public_bytes(Encoding.PEM))


def public_key_pin(pair: CredentialsDirectory) -> str:
    """The SHA-256 pin of a certificate's public key, as curl's `--pinnedpubkey` takes it."""
    certificate = x509.load_pem_x509_certificate(pair.certificate_path.read_bytes())
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256//{base64.b64encode(hashlib.sha256(info).digest()).decode()}"


def _save(directory: Path, key_pem: bytes, certificate_pem: bytes) -> CredentialsDirectory:
    directory.mkdir()
    pair = CredentialsDirectory(directory)
    replace_file(pair.key_path, key_pem)
    replace_file(pair.certificate_path, certificate_pem, mode=PUBLIC_MODE)
    return pair
