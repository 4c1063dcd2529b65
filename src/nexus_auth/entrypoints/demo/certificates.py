"""The hotkeys of the demo, and certificates that no chain knows."""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.files import PUBLIC_MODE, replace_file
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuing import build_credentials

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
    directory.mkdir()
    pair = CredentialsDirectory(directory)
    replace_file(pair.key_path, credentials.key_pem)
    replace_file(pair.certificate_path, credentials.certificate_pem, mode=PUBLIC_MODE)
    return pair


def public_key_pin(pair: CredentialsDirectory) -> str:
    """The SHA-256 pin of a certificate's public key, as curl's `--pinnedpubkey` takes it."""
    certificate = x509.load_pem_x509_certificate(pair.certificate_path.read_bytes())
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256//{base64.b64encode(hashlib.sha256(info).digest()).decode()}"
