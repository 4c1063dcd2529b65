"""A private authority as operators make one, and servers' certificates that it signs."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.integration.real import require_program

_CONFIGURATION = """\
[req]
distinguished_name = name
x509_extensions = authority
[name]
[authority]
basicConstraints = critical, CA:TRUE
"""
"""What a distribution's own says that counts here, so that no machine's own takes part."""


class PrivateAuthority:
    """Made by `openssl req -x509`: it says nothing of its key usage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.file = folder / "authority.pem"
        key, configuration = folder / "authority.key", folder / "openssl.cnf"
        configuration.write_text(_CONFIGURATION, encoding="ascii")
        program = require_program("openssl", "apt-get install openssl")
        command = [
            *(program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-config", configuration, "-subj", "/CN=authority of ours"),
            *("-keyout", key, "-out", self.file),
        ]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        self._certificate = x509.load_pem_x509_certificate(self.file.read_bytes())
        self._key = load_pem_private_key(key.read_bytes(), password=None)
        with pytest.raises(x509.ExtensionNotFound):
            self._certificate.extensions.get_extension_for_class(x509.KeyUsage)

    def issue(self, name: str = "localhost", *, days: int = 2) -> tuple[Path, Path]:
        """Writes the certificate and key of a server; its end is so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=10))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(self._key, hashes.SHA256())  # type: ignore[arg-type] # RSA, as made above
        )
        paths = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return paths


@pytest.fixture
def strict_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this Python make contexts as Python 3.13 and later do: strict about form."""
    make = ssl.create_default_context

    def make_strictly(*args: Any, **options: Any) -> ssl.SSLContext:
        context = make(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", make_strictly)
