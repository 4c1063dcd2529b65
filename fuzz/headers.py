"""Any bytes as a certificate header, and honest headers that were changed."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from fuzz.people import DER, ESCAPED, REGISTERED
from fuzz.promises import require, require_plain
from nexus_auth.adapters.headers.formats import FORMATS
from nexus_auth.adapters.headers.names import CertificateFormat
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.errors import CertificateRejected
from nexus_auth.domain.reasons import DenialReason

MAX_BYTES: Final = 4096
WORDS: Final = (
    *(b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----", b"%20", b"%0A", b"%2B", b"+"),
    *(
        b"Cert=",
        b'";',
        b'",',
        b"URI=",
        b"DNS=",
        b'\\"',
        b":",
        b"==",
        b",",
        b"{http.request.tls.client.",
    ),
)

_REASONS: Final = {
    DenialReason.NO_CERTIFICATE,
    DenialReason.BAD_ENCODING,
    DenialReason.MALFORMED_CERTIFICATE,
}
_FORMATS: Final = tuple(CertificateFormat)
_CHANGES: Final = 0x80
"""Set in the first byte: what follows changes an honest header. Its lower bits are the format."""

HONEST: Final = {
    CertificateFormat.PERCENT_ENCODED_PEM: ESCAPED["alice"],
    CertificateFormat.RFC9440: b":" + base64.b64encode(DER["alice"]) + b":",
    CertificateFormat.XFCC: b'Hash=ab;Cert="' + ESCAPED["alice"] + b'";Subject="O=a,CN=b";DNS=c',
    CertificateFormat.BASE64_DER: base64.b64encode(DER["alice"]),
}


def check(data: bytes) -> None:
    """Reads a header of the format that the first byte chooses."""
    kind = _FORMATS[data[0] % 0x40 % len(_FORMATS)] if data else _FORMATS[0]
    if data and data[0] & _CHANGES:
        header = _changed(HONEST[kind], data[1:])
        der = read(kind, header)
        if der is not None and der != DER["alice"]:
            require(not _proves_a_registered_key(der), "a changed header is no other caller's")
        return
    read(kind, data[1:])


def read(kind: CertificateFormat, header: bytes) -> bytes | None:
    """The DER in a header, None where it was rejected."""
    try:
        der = FORMATS[kind](header)
    except CertificateRejected as exc:
        require(exc.reason in _REASONS, "a reason of the checks 1 to 3")
        require_plain(exc.detail)
        return None
    value = header.strip(b" \t")
    match kind:
        case CertificateFormat.BASE64_DER:
            require(value == base64.b64encode(der), "the one spelling in base64")
        case CertificateFormat.RFC9440:
            require(value == b":" + base64.b64encode(der) + b":", "the one byte sequence")
        case CertificateFormat.PERCENT_ENCODED_PEM:
            require(_reads_as(value, der), "what any reader of PEM finds")
        case CertificateFormat.XFCC:
            pieces = re.split(rb'[",;]', value.replace(b"\\", b""))
            pieces += [piece.partition(b"=")[2] for piece in pieces]
            require(any(_reads_as(each, der) for each in pieces), "what stands there somewhere")
    return der


def _reads_as(value: bytes, der: bytes) -> bool:
    """Whether a lenient reader of percent-encoded PEM finds one certificate, and this one."""
    text = unquote_to_bytes(value)
    found = re.fullmatch(
        rb"\s*(?:-----BEGIN CERTIFICATE-----)?([A-Za-z0-9+/=\s]*)"
        rb"(?:-----END CERTIFICATE-----)?\s*",
        text,
    )
    try:
        return found is not None and base64.b64decode(found[1]) == der
    except binascii.Error:
        return False


def _proves_a_registered_key(der: bytes) -> bool:
    try:
        certificate = ClientCertificate.from_der(der)
    except CertificateRejected:
        return False
    return certificate.public_key in REGISTERED.values() and certificate.is_self_signed()


def _changed(header: bytes, changes: bytes) -> bytes:
    """Replaces pieces: each line is a place (two bytes), how many bytes go, and what comes."""
    for change in changes.split(b"\n")[:4]:
        place, removed, added = change[:2], change[2:3], change[3:]
        if removed:
            at = int.from_bytes(place, "big") % (len(header) + 1)
            header = header[:at] + added + header[at + removed[0] :]
    return header


def seeds() -> dict[str, bytes]:
    """An honest header of each format, and typical noise."""
    found = {}
    for number, kind in enumerate(_FORMATS):
        first = bytes([number])
        found[kind.value] = first + HONEST[kind]
        found[f"{kind.value}-spaced"] = first + b" \t" + HONEST[kind] + b"\t "
        found[f"{kind.value}-twice"] = first + HONEST[kind] + b", " + HONEST[kind]
        found[f"{kind.value}-short"] = (
            first
            + {
                CertificateFormat.PERCENT_ENCODED_PEM: b"-----BEGIN%20CERTIFICATE-----%0AMA%3D%3d",
                CertificateFormat.RFC9440: b":MA==:;a=1",
                CertificateFormat.XFCC: b'By=a;Hash=b;Subject="CN=\\"c\\"";URI=,cert="MA=="',
                CertificateFormat.BASE64_DER: b"{http.request.tls.client.certificate_der_base64}",
            }[kind]
        )
        found[f"{kind.value}-changed"] = (
            bytes([number | _CHANGES]) + b'\x00\x20\x01"\n\x01\x00\x00,'
        )
    return found
