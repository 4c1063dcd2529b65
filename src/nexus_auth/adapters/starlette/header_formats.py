"""How reverse proxies write a client certificate into a header: from header bytes to DER.

Each function is pure and strict, and raises `CertificateRejected` and nothing else.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from nexus_auth.domain.certificate import parse_base64_der, parse_pem
from nexus_auth.domain.decision import DenialReason
from nexus_auth.domain.errors import CertificateRejected

MAX_HEADER_BYTES: Final = 96 * 1024
"""16 KiB of DER as PEM in which every single character is percent-encoded, and some room."""

# Visible ASCII and space; a percent sign only before two hexadecimal digits (RFC 3986 §2.1).
_PERCENT_ENCODED: Final = re.compile(rb"(?:[\x20-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})+")


def der_from_percent_encoded_pem(value: bytes) -> bytes:
    """Reads percent-encoded PEM: nginx, ingress-nginx, AWS ALB.

    A plus sign is a plus sign, never a space. The PEM armour may be missing, as the original
    service allows; the base64 body then stands alone.

    Raises:
        CertificateRejected: `bad-encoding` for wrong escapes, `malformed-certificate` for
            anything but exactly one certificate.
    """
    if len(value) > MAX_HEADER_BYTES:
        raise CertificateRejected(
            DenialReason.MALFORMED_CERTIFICATE,
            f"the header is longer than {MAX_HEADER_BYTES} bytes",
        )
    if _PERCENT_ENCODED.fullmatch(value) is None:
        raise CertificateRejected(DenialReason.BAD_ENCODING, "not percent-encoded ASCII")
    text = unquote_to_bytes(value)
    if b"-----BEGIN" not in text:
        return parse_base64_der(text)
    return parse_pem(text)
