"""Reads the certificate that a command is given: a file, or standard input."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from nexus_auth.adapters.files import load_bytes
from nexus_auth.domain.errors import CredentialsError
from nexus_auth.entrypoints.terminal import escaped

# As PEM the largest certificate that is looked at has some 22 KB; the rest is white space.
_MAX_INPUT_BYTES: Final = 64 * 1024
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")


def load_certificate(source: str) -> bytes:
    """Reads one certificate from a file, or from standard input when the source is `-`.

    Returns:
        The bytes as they are, PEM or DER; what they hold is not checked.

    Raises:
        CredentialsError: When nothing can be read, or it is clearly no certificate.
    """
    try:
        if source == "-":
            data = sys.stdin.buffer.read(_MAX_INPUT_BYTES + 1)
        else:
            data = load_bytes(Path(source), _MAX_INPUT_BYTES + 1)
    except OSError as exc:
        raise CredentialsError(f"{escaped(source)}: {exc.strerror}") from exc
    shown = "standard input" if source == "-" else escaped(source)
    if not data.strip():
        raise CredentialsError(f"{shown}: it is empty; a certificate is expected, PEM or DER")
    if len(data) > _MAX_INPUT_BYTES:
        raise CredentialsError(f"{shown}: longer than {_MAX_INPUT_BYTES} bytes; no certificate")
    if _PRIVATE_KEY.search(data):
        raise CredentialsError(
            f"{shown}: it holds a private key; give the certificate (client.crt) alone, and "
            "share the key with nobody"
        )
    return data
