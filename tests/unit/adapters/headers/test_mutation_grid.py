"""Special bytes in every kind of place of a certificate header: one certificate, or none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from fuzz import headers
from fuzz.people import DER, a_verifier, at_once
from nexus_auth.adapters.headers.formats import FORMATS
from nexus_auth.adapters.headers.names import CertificateFormat
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Granted

SPECIAL: Final = b"\0\r\n\t \x7f\x80\xff%+,\"':;=\\{}-0A"
LENGTHS: Final = (0, 1, 2)
"""How many bytes the special one replaces."""


def places(header: bytes) -> Iterator[int]:
    """Both ends, the middle, and both sides of all that means something to a format."""
    found = {0, 1, len(header) // 2, len(header) // 2 + 1, len(header) - 1, len(header)}
    for at, byte in enumerate(header):
        if not chr(byte).isalnum() and byte not in b"%/+":
            found |= {at, at + 1}
    first_escape = header.find(b"%")
    found |= {first_escape + offset for offset in range(4) if first_escape >= 0}
    return iter(sorted(found))


@pytest.mark.parametrize("kind", CertificateFormat)
def test_special_byte_anywhere_leaves_the_certificate_or_a_denial(kind: CertificateFormat) -> None:
    """What is granted is alice's certificate to a reader that shares no code with ours."""
    honest = headers.HONEST[kind]
    verifier = a_verifier()

    def decode(value: bytes) -> ClientCertificate:
        return ClientCertificate.from_der(FORMATS[kind](value))

    def is_granted(value: bytes) -> bool:
        return isinstance(at_once(verifier.verify_encoded(value, decode=decode)), Granted)

    assert is_granted(honest)
    granted = denied = 0
    for place in places(honest):
        for byte in SPECIAL:
            for length in LENGTHS:
                changed = honest[:place] + bytes([byte]) + honest[place + length :]
                read = headers.read(kind, changed)
                if is_granted(changed):
                    assert read == DER["alice"]
                    granted += 1
                else:
                    denied += 1
    # Some changes mean nothing: white space around a value, a byte that replaces itself.
    assert granted < denied
