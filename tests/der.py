"""Assembles certificates by hand, byte for byte, and takes them apart again.

`tests/builders.py` makes what an honest tool makes. This makes what no honest tool would: every
field can be replaced by arbitrary bytes, and the signature is right all the same unless told
otherwise. The reader is deliberately independent of the parser under test.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from tests.builders import NOW, a_hotkey, a_key, public_bytes

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
UTF8_STRING: Final = 0x0C
NUMERIC_STRING: Final = 0x12
PRINTABLE_STRING: Final = 0x13
T61_STRING: Final = 0x14
VIDEOTEX_STRING: Final = 0x15
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
GRAPHIC_STRING: Final = 0x19
VISIBLE_STRING: Final = 0x1A
GENERAL_STRING: Final = 0x1B
UNIVERSAL_STRING: Final = 0x1C
BMP_STRING: Final = 0x1E
SEQUENCE: Final = 0x30
SET: Final = 0x31

O_OID: Final = "2.5.4.10"
CN_OID: Final = "2.5.4.3"
C_OID: Final = "2.5.4.6"
OU_OID: Final = "2.5.4.11"
ED25519_OID: Final = "1.3.101.112"
BASIC_CONSTRAINTS_OID: Final = "2.5.29.19"
KEY_USAGE_OID: Final = "2.5.29.15"
EXTENDED_KEY_USAGE_OID: Final = "2.5.29.37"
SUBJECT_ALTERNATIVE_NAME_OID: Final = "2.5.29.17"
CLIENT_AUTH_OID: Final = "1.3.6.1.5.5.7.3.2"
SERVER_AUTH_OID: Final = "1.3.6.1.5.5.7.3.1"


def length(count: int) -> bytes:
    """X.690 §8.1.3, in the shortest form."""
    if count < 0x80:
        return bytes([count])
    size = (count.bit_length() + 7) // 8
    return bytes([0x80 + size]) + count.to_bytes(size, "big")


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element: tag, length, contents."""
    content = b"".join(parts)
    return bytes([tag]) + length(len(content)) + content


def indefinite(tag: int, *parts: bytes) -> bytes:
    """One element of indefinite length: BER, never DER."""
    return bytes([tag, 0x80]) + b"".join(parts) + b"\x00\x00"


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    encoded = bytearray()
    for arc in (first * 40 + second, *rest):
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.append(0x80 | (arc & 0x7F))
        encoded += bytes(reversed(digits))
    return tlv(OBJECT_IDENTIFIER, bytes(encoded))


def integer(value: int) -> bytes:
    """An INTEGER."""
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return tlv(INTEGER, value.to_bytes(size, "big", signed=True))


def attribute(kind: str, value: bytes, tag: int = UTF8_STRING) -> bytes:
    """One AttributeTypeAndValue."""
    return tlv(SEQUENCE, oid(kind), tlv(tag, value))


def name(*rdns: bytes | tuple[bytes, ...]) -> bytes:
    """A Name: each argument is one attribute, or a tuple of them for a multi-valued RDN.

    X.690 §11.6: the elements of a SET OF are sorted.
    """
    sets = ([rdn] if isinstance(rdn, bytes) else sorted(rdn) for rdn in rdns)
    return tlv(SEQUENCE, *(tlv(SET, *attributes) for attributes in sets))


def time(moment: datetime) -> bytes:
    """A Time as RFC 5280 §4.1.2.5 wants it: UTCTime before 2050."""
    if 1950 <= moment.year < 2050:
        return tlv(UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(GENERALIZED_TIME, f"{moment.year:04d}{moment:%m%d%H%M%S}Z".encode())


def extension(kind: str, value: bytes, *, critical: bool = False) -> bytes:
    """One Extension around the DER of its value."""
    mark = tlv(BOOLEAN, b"\xff") if critical else b""
    return tlv(SEQUENCE, oid(kind), mark, tlv(OCTET_STRING, value))


def extended_key_usage(*purposes: str) -> bytes:
    """An ExtendedKeyUsage extension."""
    return extension(EXTENDED_KEY_USAGE_OID, tlv(SEQUENCE, *(oid(purpose) for purpose in purposes)))


ED25519: Final = tlv(SEQUENCE, oid(ED25519_OID))
VERSION_3: Final = tlv(0xA0, integer(2))


def ed25519_key_info(raw: bytes) -> bytes:
    """A SubjectPublicKeyInfo (RFC 8410 §4)."""
    return tlv(SEQUENCE, ED25519, tlv(BIT_STRING, b"\x00" + raw))


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The pieces of a certificate, each DER already; valid for alice unless replaced."""

    version: bytes = VERSION_3
    serial: bytes = integer(0x1234567890)
    inner_algorithm: bytes = ED25519
    issuer: bytes = name(attribute(O_OID, b"issuer"))
    validity: bytes = tlv(
        SEQUENCE, time(NOW.replace(year=NOW.year - 1)), time(NOW.replace(year=NOW.year + 1))
    )
    subject: bytes = name(attribute(O_OID, a_hotkey().address.encode()))
    key_info: bytes = ed25519_key_info(public_bytes(a_key()))
    unique_ids: bytes = b""
    extensions: bytes | None = tlv(SEQUENCE, extended_key_usage(CLIENT_AUTH_OID, SERVER_AUTH_OID))
    outer_algorithm: bytes = ED25519
    unused_bits: int = 0
    after_signed: bytes = b""
    trailing: bytes = b""

    def signed(self) -> bytes:
        """The TBSCertificate."""
        return tlv(
            SEQUENCE,
            self.version,
            self.serial,
            self.inner_algorithm,
            self.issuer,
            self.validity,
            self.subject,
            self.key_info,
            self.unique_ids,
            b"" if self.extensions is None else tlv(0xA3, self.extensions),
            self.after_signed,
        )

    def certificate(
        self, *, key: Ed25519PrivateKey | None = None, signature: bytes | None = None
    ) -> bytes:
        """The whole certificate, signed with alice's key unless told otherwise."""
        signed = self.signed()
        if signature is None:
            signature = (key or a_key()).sign(signed)
        return tlv(
            SEQUENCE,
            signed,
            self.outer_algorithm,
            tlv(BIT_STRING, bytes([self.unused_bits]) + signature),
            self.trailing,
        )


class NotDer(Exception):
    """Bytes are no DER certificate, as far as this reader looks."""


@dataclass(frozen=True)
class Element:
    """One element with its place: `whole` is tag, length and contents."""

    tag: int
    content: bytes
    whole: bytes

    def children(self) -> list[Element]:
        """The elements inside."""
        found = []
        rest = self.content
        while rest:
            element = read_element(rest)
            found.append(element)
            rest = rest[len(element.whole) :]
        return found


def read_element(data: bytes) -> Element:
    """Reads the element at the beginning, in definite and shortest form."""
    if len(data) < 2 or data[0] & 0x1F == 0x1F:
        raise NotDer
    count, start = data[1], 2
    if count > 0x7F:
        size = count - 0x80
        count, start = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
    if data[1:start] != length(count) or len(data) < start + count:
        raise NotDer
    return Element(data[0], data[start : start + count], data[: start + count])


_ENCODINGS: Final = {
    UTF8_STRING: "utf-8",
    PRINTABLE_STRING: "ascii",
    T61_STRING: "ascii",
    IA5_STRING: "ascii",
    VISIBLE_STRING: "ascii",
    BMP_STRING: "utf-16-be",
    UNIVERSAL_STRING: "utf-32-be",
}


def _moment(element: Element) -> datetime:
    text = element.content.decode("ascii")
    if element.tag == UTC_TIME:
        text = ("20" if text < "50" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def proves(data: bytes, *, address: str, key: bytes, now: datetime, leeway: timedelta) -> bool:
    """Says whether a certificate proves, at that time, that the holder of a key is an address.

    The oracle for every grant: written from the contract, without any of the code under test.
    """
    try:
        return _proves(data, address, key, now, leeway)
    except (NotDer, ValueError, LookupError):
        return False


def _proves(data: bytes, address: str, key: bytes, now: datetime, leeway: timedelta) -> bool:
    certificate = read_element(data)
    signed, outer_algorithm, signature = certificate.children()
    version, serial, inner_algorithm, _, dates, subject, key_info, *rest = signed.children()
    begin, end = (_moment(date) for date in dates.children())
    attributes = [
        (kind.whole, value)
        for rdn in subject.children()
        for kind, value in (pair.children() for pair in rdn.children())
    ]
    organizations = [value for kind, value in attributes if kind == oid(O_OID)]
    extensions = {}
    for element in rest:
        if element.tag == 0xA3:
            for one in element.children()[0].children():
                kind, *_, value = one.children()
                if kind.whole in extensions:
                    return False
                extensions[kind.whole] = value.content
    usage = extensions.get(oid(EXTENDED_KEY_USAGE_OID))
    constraints = extensions.get(oid(BASIC_CONSTRAINTS_OID), tlv(SEQUENCE))
    if not (
        certificate.whole == data
        and version.whole == VERSION_3
        and int.from_bytes(serial.content, "big", signed=True) > 0
        and inner_algorithm.whole == outer_algorithm.whole == ED25519
        and [value.content.decode(_ENCODINGS[value.tag]) for value in organizations] == [address]
        and key_info.whole == ed25519_key_info(key)
        and begin <= end
        # Year 9999 has no room for a leeway: it is `now` that moves.
        and begin <= now + leeway
        and now <= end
        and (usage is None or oid(CLIENT_AUTH_OID) in usage)
        and tlv(BOOLEAN, b"\xff") not in constraints
        and signature.tag == BIT_STRING
        and signature.content[:1] == b"\0"
    ):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature.content[1:], signed.whole)
    except InvalidSignature:
        return False
    return True
