from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x448, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

import nexus_auth.domain.certificate as module
from nexus_auth.domain.certificate import (
    MAX_DER_BYTES,
    ClientCertificate,
    parse_base64_der,
    parse_pem,
)
from nexus_auth.domain.errors import CertificateRejected
from nexus_auth.domain.reasons import DenialReason
from tests import der
from tests.builders import (
    CLIENT_AND_SERVER,
    DIGITAL_SIGNATURE,
    NOW,
    a_certificate,
    a_hotkey,
    a_key,
    organization,
    public_bytes,
    to_der,
    to_pem,
)
from tests.der import Parts, attribute, extension, name, oid, tlv

ADDRESS = a_hotkey().address
MALFORMED = DenialReason.MALFORMED_CERTIFICATE
NO_ORGANIZATION = DenialReason.NO_ORGANIZATION
INVALID_HOTKEY = DenialReason.INVALID_HOTKEY
UNSUPPORTED_KEY = DenialReason.UNSUPPORTED_KEY

LATER = der.time(NOW + timedelta(days=30))
EARLIER = der.time(NOW - timedelta(days=30))
CLIENT_AUTH = der.extended_key_usage(der.CLIENT_AUTH_OID)
RSA_ALGORITHM = tlv(der.SEQUENCE, oid("1.2.840.113549.1.1.11"), tlv(der.NULL))
ED25519_WITH_NULL = tlv(der.SEQUENCE, oid(der.ED25519_OID), tlv(der.NULL))


def reason_for(data: bytes) -> DenialReason | None:
    """Why a DER certificate does not parse, or None when it does."""
    try:
        ClientCertificate.from_der(data)
    except CertificateRejected as exc:
        return exc.reason
    return None


def subject(*rdns: bytes | tuple[bytes, ...]) -> bytes:
    """A certificate with this subject."""
    return Parts(subject=name(*rdns)).certificate()


def organization_as(tag: int, value: bytes) -> bytes:
    """A certificate whose only O attribute is this string."""
    return subject(attribute(der.O_OID, value, tag))


def validity(not_before: bytes, not_after: bytes) -> bytes:
    """A certificate with these dates."""
    return Parts(validity=tlv(der.SEQUENCE, not_before, not_after)).certificate()


def extensions(*parts: bytes) -> bytes:
    """A certificate with these extensions."""
    return Parts(extensions=tlv(der.SEQUENCE, *parts)).certificate()


def key_info(algorithm: bytes, bits: bytes) -> bytes:
    """A certificate around this subject public key."""
    return Parts(key_info=tlv(der.SEQUENCE, algorithm, tlv(der.BIT_STRING, bits))).certificate()


# What a certificate says


def test_honest_certificate_says_who_and_when() -> None:
    """Every fact that decisions rest on is read from the certificate."""
    data = to_der(a_certificate())
    certificate = ClientCertificate.from_der(data)
    assert certificate.hotkey == a_hotkey()
    assert certificate.public_key == public_bytes(a_key())
    assert certificate.not_before == NOW - timedelta(days=1)
    assert certificate.not_after == NOW + timedelta(days=365)
    assert certificate.not_before.tzinfo is UTC
    assert certificate.usage_problem == ""
    assert certificate.fingerprint == hashlib.sha256(data).hexdigest()
    assert certificate.is_self_signed()


def test_repr_shows_no_bulk() -> None:
    """A log line with a certificate in it stays readable."""
    shown = repr(ClientCertificate.from_der(to_der(a_certificate())))
    assert "_signed" not in shown
    assert "_signature" not in shown


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_kind_of_buffer_is_taken(wrap: type[bytes]) -> None:
    """A caller that reads from a socket need not convert; what is kept cannot change later."""
    certificate = ClientCertificate.from_der(wrap(to_der(a_certificate())))
    assert certificate.hotkey == a_hotkey()
    assert ClientCertificate.from_pem(wrap(to_pem(a_certificate()))).hotkey == a_hotkey()


# Check 3: exactly one well-formed X.509 v3 certificate


MALFORMED_TABLE = {
    "nothing": b"",
    "text": b"not a certificate",
    "cut": to_der(a_certificate())[:-1],
    "trailing byte": to_der(a_certificate()) + b"\0",
    "twice": to_der(a_certificate()) * 2,
    "trailing inside": Parts(trailing=tlv(der.NULL)).certificate(),
    "trailing inside the signed part": Parts(after_signed=tlv(der.NULL)).certificate(),
    "indefinite length": der.indefinite(
        der.SEQUENCE, Parts().signed(), der.ED25519, tlv(der.BIT_STRING, bytes(65))
    ),
    "length in too many bytes": b"\x30\x83\0" + Parts().certificate()[2:],
    "version 1": Parts(version=b"", extensions=None).certificate(),
    "version 1, whose serial number is as long as a version": Parts(
        version=b"", serial=tlv(der.INTEGER, b"\1\2\3"), extensions=None
    ).certificate(),
    "version 1 with extensions": Parts(version=b"").certificate(),
    "version 1 written out": Parts(version=tlv(0xA0, der.integer(0))).certificate(),
    "version 2": Parts(version=tlv(0xA0, der.integer(1))).certificate(),
    "version 4": Parts(version=tlv(0xA0, der.integer(3))).certificate(),
    "version -1": Parts(version=tlv(0xA0, der.integer(-1))).certificate(),
    "huge version": Parts(version=tlv(0xA0, der.integer(2**512))).certificate(),
    "serial number 0": Parts(serial=der.integer(0)).certificate(),
    "negative serial number": Parts(serial=der.integer(-5)).certificate(),
    "most negative serial number of its size": Parts(
        serial=tlv(der.INTEGER, b"\x80\0\0\0")
    ).certificate(),
    "hugely negative serial number": Parts(serial=der.integer(-(2**2000))).certificate(),
    "padded serial number": Parts(serial=tlv(der.INTEGER, b"\0\1")).certificate(),
    "empty serial number": Parts(serial=tlv(der.INTEGER)).certificate(),
    "year 0": validity(tlv(der.GENERALIZED_TIME, b"00000101000000Z"), LATER),
    "no seconds": validity(tlv(der.UTC_TIME, b"2501010000Z"), LATER),
    "offset": validity(tlv(der.UTC_TIME, b"250101000000+0100"), LATER),
    "fraction": validity(EARLIER, tlv(der.GENERALIZED_TIME, b"20510101000000.5Z")),
    "second 60": validity(EARLIER, tlv(der.UTC_TIME, b"270101000060Z")),
    "30 February": validity(EARLIER, tlv(der.UTC_TIME, b"270230000000Z")),
    "dates of letters": validity(EARLIER, tlv(der.UTC_TIME, b"ABCDEFGHIJKLM")),
    "one extension twice": extensions(CLIENT_AUTH, CLIENT_AUTH),
    "unknown extension twice": extensions(extension("1.2.3", b""), extension("1.2.3", b"")),
    "garbage extension": extensions(extension(der.SUBJECT_ALTERNATIVE_NAME_OID, b"x")),
    "garbage after an extension": extensions(
        extension(der.EXTENDED_KEY_USAGE_OID, tlv(der.SEQUENCE, oid(der.CLIENT_AUTH_OID)) + b"x")
    ),
    "critical as another true": extensions(
        tlv(der.SEQUENCE, oid("1.2.3"), tlv(der.BOOLEAN, b"\1"), tlv(der.OCTET_STRING, b""))
    ),
    "wrong count of unused bits": Parts(unused_bits=1).certificate(),
    "absurd count of unused bits": Parts(unused_bits=9).certificate(),
    "null parameters outside": Parts(outer_algorithm=ED25519_WITH_NULL).certificate(),
    "null parameters inside": Parts(inner_algorithm=ED25519_WITH_NULL).certificate(),
    "null parameters in both": Parts(
        inner_algorithm=ED25519_WITH_NULL, outer_algorithm=ED25519_WITH_NULL
    ).certificate(),
    "null parameters of the key": key_info(ED25519_WITH_NULL, b"\0" + public_bytes(a_key())),
    "subject of another type": Parts(subject=tlv(der.SET)).certificate(),
    "unsorted set": Parts(
        subject=tlv(
            der.SEQUENCE,
            tlv(
                der.SET,
                attribute(der.O_OID, ADDRESS.encode()),
                attribute(der.CN_OID, b"x"),
            ),
        )
    ).certificate(),
    "invalid UTF-8": organization_as(der.UTF8_STRING, b"\xff" * 48),
    "odd BMPString": organization_as(der.BMP_STRING, b"\0" * 47),
    "surrogate in UniversalString": organization_as(der.UNIVERSAL_STRING, b"\0\0\xd8\0"),
    "O is a number": organization_as(der.INTEGER, b"\5"),
    "O is a sequence": organization_as(der.SEQUENCE, b""),
}


@pytest.mark.parametrize("data", MALFORMED_TABLE.values(), ids=MALFORMED_TABLE.keys())
def test_malformed_certificate_is_refused_as_such(data: bytes) -> None:
    """One row for each way not to be exactly one well-formed v3 certificate."""
    assert reason_for(data) is MALFORMED


@pytest.mark.parametrize(("padding", "expected"), [(0, None), (1, MALFORMED), (60_000, MALFORMED)])
def test_size_is_bounded_to_the_byte(padding: int, expected: DenialReason | None) -> None:
    """16 KiB are read, one byte more is not."""
    assert MAX_DER_BYTES == 16 * 1024
    around = len(extensions(CLIENT_AUTH, extension("1.2.3", bytes(8000)))) - 8000
    data = extensions(CLIENT_AUTH, extension("1.2.3", bytes(MAX_DER_BYTES - around + padding)))
    assert len(data) == MAX_DER_BYTES + padding or padding > 1
    assert reason_for(data) is expected


WELL_FORMED_TABLE = {
    "serial number 1": Parts(serial=der.integer(1)),
    "serial number of 20 bytes": Parts(serial=der.integer(2**159 - 1)),
    "serial number of 21 bytes": Parts(serial=der.integer(2**160)),
    "serial number of 300 bytes": Parts(serial=der.integer(2**2390)),
    "year 1": Parts(
        validity=tlv(der.SEQUENCE, tlv(der.GENERALIZED_TIME, b"00010101000000Z"), LATER)
    ),
    "year 9999": Parts(
        validity=tlv(der.SEQUENCE, EARLIER, tlv(der.GENERALIZED_TIME, b"99991231235959Z"))
    ),
    "no extensions": Parts(extensions=None),
    "empty list of extensions": Parts(extensions=tlv(der.SEQUENCE)),
    "unique identifiers": Parts(unique_ids=tlv(0x81, b"\0x") + tlv(0x82, b"\0y")),
    "issuer without attributes": Parts(issuer=name()),
    "unknown extension": Parts(extensions=tlv(der.SEQUENCE, CLIENT_AUTH, extension("1.2.3", b"?"))),
    "big extension": Parts(
        extensions=tlv(der.SEQUENCE, CLIENT_AUTH, extension("1.2.3", bytes(4000)))
    ),
    "multi-valued RDN": Parts(
        subject=name((attribute(der.O_OID, ADDRESS.encode()), attribute(der.CN_OID, b"x")))
    ),
    "long common name": Parts(
        subject=name(attribute(der.CN_OID, b"x" * 5000), attribute(der.O_OID, ADDRESS.encode()))
    ),
    "country of three letters": Parts(
        subject=name(attribute(der.C_OID, b"PLL"), attribute(der.O_OID, ADDRESS.encode()))
    ),
}


@pytest.mark.parametrize("parts", WELL_FORMED_TABLE.values(), ids=WELL_FORMED_TABLE.keys())
def test_odd_but_well_formed_certificate_is_read(parts: Parts) -> None:
    """The neighbours of the refusals: unusual, and still signed by the holder of the key."""
    certificate = ClientCertificate.from_der(parts.certificate())
    assert certificate.hotkey == a_hotkey()
    assert certificate.public_key == public_bytes(a_key())
    assert certificate.is_self_signed()


# Checks 4 and 5: one O attribute, an SS58 address


SUBJECT_TABLE: dict[str, tuple[bytes, DenialReason | None]] = {
    "no attributes": (subject(), NO_ORGANIZATION),
    "no O": (subject(attribute(der.CN_OID, ADDRESS.encode())), NO_ORGANIZATION),
    "OU instead": (subject(attribute(der.OU_OID, ADDRESS.encode())), NO_ORGANIZATION),
    "empty O": (organization_as(der.UTF8_STRING, b""), NO_ORGANIZATION),
    "two equal O": (subject(*[attribute(der.O_OID, ADDRESS.encode())] * 2), NO_ORGANIZATION),
    "two O, bad first": (
        subject(attribute(der.O_OID, b"x"), attribute(der.O_OID, ADDRESS.encode())),
        NO_ORGANIZATION,
    ),
    "two O in one RDN": (
        subject((attribute(der.O_OID, b"x"), attribute(der.O_OID, ADDRESS.encode()))),
        NO_ORGANIZATION,
    ),
    "O and an empty O": (
        subject(attribute(der.O_OID, ADDRESS.encode()), attribute(der.O_OID, b"")),
        NO_ORGANIZATION,
    ),
    "UTF8String": (organization_as(der.UTF8_STRING, ADDRESS.encode()), None),
    "PrintableString": (organization_as(der.PRINTABLE_STRING, ADDRESS.encode()), None),
    "TeletexString": (organization_as(der.T61_STRING, ADDRESS.encode()), None),
    "BMPString": (organization_as(der.BMP_STRING, ADDRESS.encode("utf-16-be")), None),
    "UniversalString": (organization_as(der.UNIVERSAL_STRING, ADDRESS.encode("utf-32-be")), None),
    "IA5String": (organization_as(der.IA5_STRING, ADDRESS.encode()), None),
    "VisibleString": (organization_as(der.VISIBLE_STRING, ADDRESS.encode()), None),
    "NumericString of letters": (
        organization_as(der.NUMERIC_STRING, ADDRESS.encode()),
        INVALID_HOTKEY,
    ),
    "OCTET STRING": (organization_as(der.OCTET_STRING, ADDRESS.encode()), INVALID_HOTKEY),
    "UTCTime": (organization_as(der.UTC_TIME, ADDRESS.encode()), INVALID_HOTKEY),
    "GeneralizedTime": (organization_as(der.GENERALIZED_TIME, ADDRESS.encode()), INVALID_HOTKEY),
    "48 other letters": (organization_as(der.UTF8_STRING, b"x" * 48), INVALID_HOTKEY),
    "48 bytes of longer characters": (
        organization_as(der.UTF8_STRING, "é".encode() * 24),
        INVALID_HOTKEY,
    ),
    "UTF-16 in a UTF8String": (
        organization_as(der.UTF8_STRING, ADDRESS.encode("utf-16-be")),
        INVALID_HOTKEY,
    ),
    "space after": (organization_as(der.UTF8_STRING, ADDRESS.encode() + b" "), INVALID_HOTKEY),
    "space before": (organization_as(der.UTF8_STRING, b" " + ADDRESS.encode()), INVALID_HOTKEY),
    "newline after": (organization_as(der.UTF8_STRING, ADDRESS.encode() + b"\n"), INVALID_HOTKEY),
    "CR LF and a header": (
        organization_as(der.UTF8_STRING, ADDRESS.encode() + b"\r\nX-Hotkey: other"),
        INVALID_HOTKEY,
    ),
    "NUL after": (organization_as(der.UTF8_STRING, ADDRESS.encode() + b"\0"), INVALID_HOTKEY),
    "NUL before": (organization_as(der.UTF8_STRING, b"\0" + ADDRESS.encode()), INVALID_HOTKEY),
    "byte order mark": (
        organization_as(der.UTF8_STRING, ("\ufeff" + ADDRESS).encode()),
        INVALID_HOTKEY,
    ),
    "zero-width space": (
        organization_as(der.UTF8_STRING, (ADDRESS + "\u200b").encode()),
        INVALID_HOTKEY,
    ),
    "Cyrillic letter": (
        organization_as(der.UTF8_STRING, ADDRESS.replace("c", "\u0441", 1).encode()),
        INVALID_HOTKEY,
    ),
    "path": (organization_as(der.UTF8_STRING, b"../" + ADDRESS.encode()), INVALID_HOTKEY),
    "self": (organization_as(der.UTF8_STRING, b"self"), INVALID_HOTKEY),
    "latest": (organization_as(der.UTF8_STRING, b"latest"), INVALID_HOTKEY),
    "two addresses": (
        organization_as(der.UTF8_STRING, f"{ADDRESS},{ADDRESS}".encode()),
        INVALID_HOTKEY,
    ),
    "over-long": (organization_as(der.UTF8_STRING, ADDRESS.encode() * 200), INVALID_HOTKEY),
}


@pytest.mark.parametrize(("data", "expected"), SUBJECT_TABLE.values(), ids=SUBJECT_TABLE.keys())
def test_subject_names_exactly_one_address(data: bytes, expected: DenialReason | None) -> None:
    """Nothing is trimmed or repaired, and no second O hides anywhere."""
    assert reason_for(data) is expected


@pytest.mark.parametrize("beside", [(), (attribute(der.CN_OID, b"x"),)], ids=["alone", "with CN"])
@pytest.mark.parametrize(
    ("tag", "encoding"),
    [
        (der.PRINTABLE_STRING, "ascii"),
        (der.T61_STRING, "ascii"),
        (der.IA5_STRING, "ascii"),
        (der.VISIBLE_STRING, "ascii"),
        (der.BMP_STRING, "utf-16-be"),
        (der.UNIVERSAL_STRING, "utf-32-be"),
    ],
)
def test_organization_of_another_string_type_is_the_same_hotkey(
    tag: int, encoding: str, beside: tuple[bytes, ...]
) -> None:
    """The type of the string is no part of the name: one account id has one address."""
    utf8 = ClientCertificate.from_der(organization_as(der.UTF8_STRING, ADDRESS.encode()))
    other = ClientCertificate.from_der(
        subject(attribute(der.O_OID, ADDRESS.encode(encoding), tag), *beside)
    )
    assert other.hotkey == utf8.hotkey
    assert other.hotkey.address == utf8.hotkey.address == ADDRESS
    assert other.is_self_signed()
    assert other.fingerprint != utf8.fingerprint


O_ATTRIBUTE: Final = attribute(der.O_OID, ADDRESS.encode())
CN_ATTRIBUTE: Final = attribute(der.CN_OID, ADDRESS.encode())


@pytest.mark.parametrize(
    "data",
    [
        organization_as(der.UTF8_STRING, ADDRESS.encode()),
        organization_as(der.PRINTABLE_STRING, ADDRESS.encode()),
        subject(O_ATTRIBUTE, CN_ATTRIBUTE),
    ],
)
def test_usual_subject_is_read_without_the_parser(
    monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """As openssl (PrintableString or UTF8String) and we ourselves (with a CN) write it."""

    def unusual(attribute: x509.NameAttribute[str]) -> int:
        raise AssertionError("looked at the parser's attribute")

    monkeypatch.setattr(module, "_type_of", unusual)
    assert ClientCertificate.from_der(data).hotkey.address == ADDRESS


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ((CN_ATTRIBUTE, O_ATTRIBUTE), None),
        ((O_ATTRIBUTE, attribute(der.CN_OID, a_hotkey("bob").address.encode())), None),
        ((O_ATTRIBUTE, attribute(der.CN_OID, ADDRESS.encode(), der.PRINTABLE_STRING)), None),
        ((O_ATTRIBUTE, CN_ATTRIBUTE, CN_ATTRIBUTE), None),
        ((O_ATTRIBUTE, O_ATTRIBUTE), NO_ORGANIZATION),
        ((O_ATTRIBUTE, CN_ATTRIBUTE, O_ATTRIBUTE), NO_ORGANIZATION),
        ((CN_ATTRIBUTE, CN_ATTRIBUTE), NO_ORGANIZATION),
        ((attribute(der.O_OID, b"x" * 48), attribute(der.CN_OID, b"x" * 48)), INVALID_HOTKEY),
    ],
)
def test_cn_never_counts(attributes: tuple[bytes, ...], expected: DenialReason | None) -> None:
    """What differs in one detail from the subject that we write is read as before: O alone says."""
    assert reason_for(subject(*attributes)) is expected
    if expected is None:
        assert ClientCertificate.from_der(subject(*attributes)).hotkey.address == ADDRESS


def test_bytes_as_organization_are_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the parser ever show an O that is no text, it is refused."""

    class Subject:
        def get_attributes_for_oid(self, kind: object) -> list[x509.NameAttribute[bytes]]:
            unique = x509.NameAttribute(
                NameOID.X500_UNIQUE_IDENTIFIER, b"x", x509.name._ASN1Type.BitString
            )
            return [unique]

    class Certificate:
        subject = Subject()

    with pytest.raises(CertificateRejected) as caught:
        module._only_organization(Certificate(), b"")  # type: ignore[arg-type] # A stand-in.
    assert caught.value.reason is INVALID_HOTKEY


# Check 6: an Ed25519 key


OTHER_KEYS = {
    "RSA": rsa.generate_private_key(65537, 2048),
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "Ed448": ed448.Ed448PrivateKey.generate(),
    "X25519": x25519.X25519PrivateKey.generate(),
    "X448": x448.X448PrivateKey.generate(),
}


def key_info_of(key: dsa.DSAPrivateKey | x25519.X25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    """The SubjectPublicKeyInfo of a key."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("kind", OTHER_KEYS)
def test_key_of_another_kind_is_refused(kind: str) -> None:
    """Even where the rest of the certificate, and its signature, would do."""
    data = Parts(key_info=key_info_of(OTHER_KEYS[kind])).certificate()  # type: ignore[arg-type] # All have public_key().
    assert reason_for(data) is UNSUPPORTED_KEY


KEY = public_bytes(a_key())
KEY_TABLE = {
    "31 bytes": key_info(der.ED25519, b"\0" + KEY[:31]),
    "33 bytes": key_info(der.ED25519, b"\0" + KEY + b"\0"),
    "no bytes": key_info(der.ED25519, b"\0"),
    "unused bits": key_info(der.ED25519, b"\x01" + KEY[:31] + bytes([KEY[31] & 0xFE])),
    "unknown algorithm": key_info(tlv(der.SEQUENCE, oid("1.2.3")), b"\0" + KEY),
    "small order": key_info(der.ED25519, b"\0\1" + bytes(31)),
    "RSA that is none": key_info(
        tlv(der.SEQUENCE, oid("1.2.840.113549.1.1.1"), tlv(der.NULL)), b"\0" + KEY
    ),
}


@pytest.mark.parametrize("data", KEY_TABLE.values(), ids=KEY_TABLE.keys())
def test_unusable_key_is_refused(data: bytes) -> None:
    """Garbage where the key should be, and keys that prove nothing."""
    assert reason_for(data) is UNSUPPORTED_KEY


# Check 8: made for authenticating a client


EKU_SERVER = der.extended_key_usage(der.SERVER_AUTH_OID)
USAGE_TABLE = {
    "client and server": (
        extensions(der.extended_key_usage(der.SERVER_AUTH_OID, der.CLIENT_AUTH_OID)),
        "",
    ),
    "client": (extensions(CLIENT_AUTH), ""),
    "none": (extensions(), ""),
    "server only": (extensions(EKU_SERVER), "extended key usage"),
    "any purpose": (extensions(der.extended_key_usage("2.5.29.37.0")), "extended key usage"),
    "CA": (
        extensions(
            extension(der.BASIC_CONSTRAINTS_OID, tlv(der.SEQUENCE, tlv(der.BOOLEAN, b"\xff")))
        ),
        "CA certificate",
    ),
    "explicitly no CA": (
        extensions(CLIENT_AUTH, extension(der.BASIC_CONSTRAINTS_OID, tlv(der.SEQUENCE))),
        "",
    ),
    "digital signature": (
        extensions(extension(der.KEY_USAGE_OID, tlv(der.BIT_STRING, b"\x07\x80"))),
        "",
    ),
    "no digital signature": (
        extensions(extension(der.KEY_USAGE_OID, tlv(der.BIT_STRING, b"\x05\x20"))),
        "digitalSignature",
    ),
    "unknown critical": (
        extensions(CLIENT_AUTH, extension("1.2.3", b"", critical=True)),
        "critical",
    ),
    "unknown, not critical": (extensions(CLIENT_AUTH, extension("1.2.3", b"")), ""),
    "known critical": (
        extensions(
            extension(
                der.EXTENDED_KEY_USAGE_OID,
                tlv(der.SEQUENCE, oid(der.CLIENT_AUTH_OID)),
                critical=True,
            )
        ),
        "",
    ),
}


@pytest.mark.parametrize(("data", "problem"), USAGE_TABLE.values(), ids=USAGE_TABLE.keys())
def test_usage_is_read_from_the_extensions(data: bytes, problem: str) -> None:
    """What keeps a certificate from authenticating a client is a fact of the certificate."""
    for _ in range(2):  # The second time from what was kept.
        found = ClientCertificate.from_der(data).usage_problem
        assert problem in found
        assert bool(found) is bool(problem)


def test_kept_usages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers can neither fill the memory with extensions nor change what others' mean."""
    kept: dict[bytes, str] = {}
    monkeypatch.setattr(module, "_known_usages", kept)
    ClientCertificate.from_der(extensions(CLIENT_AUTH, extension("1.2.3", bytes(1000))))
    assert not kept
    for number in range(200):
        ClientCertificate.from_der(extensions(EKU_SERVER, extension(f"1.2.{number}", b"")))
    assert len(kept) == 128
    assert ClientCertificate.from_der(extensions(CLIENT_AUTH)).usage_problem == ""
    assert len(kept) == 128


def test_kept_usage_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 512 bytes of extensions, byte for byte."""

    def of_size(size: int) -> bytes:
        filler = extension("1.2.4", bytes(300))
        around = len(tlv(0xA3, tlv(der.SEQUENCE, CLIENT_AUTH, filler))) - 300
        return extensions(CLIENT_AUTH, extension("1.2.4", bytes(size - around)))

    kept: dict[bytes, str] = {}
    monkeypatch.setattr(module, "_known_usages", kept)
    ClientCertificate.from_der(of_size(512))
    ClientCertificate.from_der(of_size(513))
    assert [(len(encoded), problem) for encoded, problem in kept.items()] == [(512, "")]
    monkeypatch.setattr(module, "_find_usage_problem", None)
    assert ClientCertificate.from_der(of_size(512)).usage_problem == ""


# Check 11: the signature


def test_certificate_signed_by_somebody_else_is_no_proof() -> None:
    """The neighbour of the honest certificate: another key made the signature."""
    assert not ClientCertificate.from_der(Parts().certificate(key=a_key("bob"))).is_self_signed()


SIGNED = a_key().sign(Parts().signed())
ED25519_AND_MORE = tlv(
    der.SEQUENCE, oid("1.2.3"), tlv(der.OCTET_STRING, Parts().signed(), der.ED25519)
)
SIGNATURE_TABLE = {
    "empty": Parts().certificate(signature=b""),
    "short": Parts().certificate(signature=SIGNED[:63]),
    "long": Parts().certificate(signature=SIGNED + b"\0"),
    "zero": Parts().certificate(signature=bytes(64)),
    "S not reduced": Parts().certificate(
        signature=SIGNED[:32]
        + (
            int.from_bytes(SIGNED[32:], "little") + 2**252 + 27742317777372353535851937790883648493
        ).to_bytes(32, "little")
    ),
    "of another certificate": Parts().certificate(
        signature=a_key().sign(Parts(serial=der.integer(7)).signed())
    ),
    "RSA outside": Parts(outer_algorithm=RSA_ALGORITHM).certificate(),
    "RSA inside": Parts(inner_algorithm=RSA_ALGORITHM).certificate(),
    "RSA in both": Parts(
        inner_algorithm=RSA_ALGORITHM, outer_algorithm=RSA_ALGORITHM
    ).certificate(),
    "unknown in both": Parts(
        inner_algorithm=tlv(der.SEQUENCE, oid("1.2.3")),
        outer_algorithm=tlv(der.SEQUENCE, oid("1.2.3")),
    ).certificate(),
    "the signed part repeated in the algorithm": Parts(
        outer_algorithm=ED25519_AND_MORE
    ).certificate(),
}


@pytest.mark.parametrize("data", SIGNATURE_TABLE.values(), ids=SIGNATURE_TABLE.keys())
def test_wrong_signature_is_no_proof(data: bytes) -> None:
    """Well-formed certificates for the right hotkey and key that nobody can show to have made."""
    assert not ClientCertificate.from_der(data).is_self_signed()


def test_key_that_is_no_point_is_no_proof() -> None:
    """A key off the curve is as good as no signature."""
    off_curve = next(
        raw
        for raw in (bytes([number]) + bytes(31) for number in range(2, 20))
        if not _is_point(raw)
    )
    data = Parts(key_info=der.ed25519_key_info(off_curve)).certificate()
    assert not ClientCertificate.from_der(data).is_self_signed()


def _is_point(raw: bytes) -> bool:
    p = 2**255 - 19
    y = int.from_bytes(raw, "little")
    d = -121665 * pow(121666, -1, p) % p
    square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
    return square == 0 or pow(square, (p - 1) // 2, p) == 1


def test_every_flipped_bit_spoils_the_certificate() -> None:
    """No single bit of a valid certificate can change without its being refused or unproven."""
    original = to_der(a_certificate())
    unproven = 0
    for place in range(len(original) * 8):
        changed = bytearray(original)
        changed[place // 8] ^= 1 << place % 8
        try:
            certificate = ClientCertificate.from_der(bytes(changed))
        except CertificateRejected:
            continue
        unproven += 1
        assert not certificate.is_self_signed(), place
    assert unproven > 1000  # Most of them still parse: the loop tests something.


# PEM


BODY = to_pem(a_certificate()).split(b"-----")[2]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(to_pem(a_certificate()), id="as written"),
        pytest.param(to_pem(a_certificate()).strip(), id="no newline at the end"),
        pytest.param(b"\r\n " + to_pem(a_certificate()) + b"\t\n", id="white space around"),
        pytest.param(to_pem(a_certificate()).replace(b"\n", b"\r\n"), id="CR LF"),
        pytest.param(to_pem(a_certificate()).replace(b"\n", b" "), id="spaces for newlines"),
        pytest.param(
            b"-----BEGIN CERTIFICATE-----\n"
            + b"".join(BODY.split())
            + b"\n-----END CERTIFICATE-----",
            id="one line",
        ),
    ],
)
def test_pem_layout_does_not_matter(text: bytes) -> None:
    """White space between base64 characters says nothing."""
    assert parse_pem(text) == to_der(a_certificate())
    assert ClientCertificate.from_pem(text.decode()).hotkey == a_hotkey()


def _spelled_differently(body: bytes) -> bytes:
    """The same bytes under other trailing bits (RFC 4648 §3.5), if there are any."""
    packed = b"".join(body.split())
    last = packed.rstrip(b"=")[-1:]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return (
        packed.rstrip(b"=")[:-1]
        + alphabet[alphabet.index(last) + 1 :][:1]
        + b"=" * packed.count(b"=")
    )


def _armour(body: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"-----BEGIN CERTIFICATE-----", id="begin only"),
        pytest.param(b"-----BEGIN CERTIFICATE----------END CERTIFICATE-----", id="no body"),
        pytest.param(_armour(b""), id="empty body"),
        pytest.param(to_pem(a_certificate()) * 2, id="two"),
        pytest.param(b"x" + to_pem(a_certificate()), id="text before"),
        pytest.param(to_pem(a_certificate()) + b"x", id="text after"),
        pytest.param(to_pem(a_certificate()).lower(), id="lower case"),
        pytest.param(_armour(b"*" + BODY), id="not base64"),
        pytest.param(_armour(BODY.strip()[:-1]), id="one character short"),
        pytest.param(_armour(BODY.strip() + b"A"), id="one character more"),
        pytest.param(_armour(BODY.strip() + b"===="), id="more padding"),
        pytest.param(_armour(b"=" + BODY), id="padding first"),
        pytest.param(_armour(BODY.replace(b"A", b"\0A", 1)), id="NUL"),
        pytest.param(_armour(BODY.replace(b"\n", b"\x85", 1)), id="NEL for a newline"),
        pytest.param(
            to_pem(a_certificate()).replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
            id="another label",
        ),
        pytest.param(to_pem(a_certificate()).replace(b"BEGIN CERT", b"BEGIN  CERT"), id="space"),
        # As long as the right ones, so that what is between them is a certificate.
        pytest.param(
            to_pem(a_certificate()).replace(b"BEGIN CERTIFICATE", b"BEGIN CERTIFICATX"),
            id="another label at the beginning",
        ),
        pytest.param(
            to_pem(a_certificate()).replace(b"END CERTIFICATE", b"END CERTIFICATX"),
            id="another label at the end",
        ),
        pytest.param(
            to_pem(a_certificate()).replace(b"-----\n", b"-----", 1),
            id="no newline after the label",
        ),
        pytest.param(
            to_pem(a_certificate()).replace(b"-----\n", b"-----x\n", 1), id="text after the label"
        ),
        pytest.param(_armour(base64.b64encode(bytes(40_000))), id="too long"),
        pytest.param(_armour(b"A\n" * 30_000), id="much too long"),
    ],
)
def test_anything_but_one_pem_certificate_is_refused(text: bytes) -> None:
    """PEM is read as RFC 7468 writes it, and nothing around it is skipped."""
    with pytest.raises(CertificateRejected) as caught:
        ClientCertificate.from_pem(text)
    assert caught.value.reason is MALFORMED


@pytest.mark.parametrize(
    ("parse", "text"),
    [(parse_pem, to_pem(a_certificate())), (parse_base64_der, BODY)],
    ids=["PEM", "bare base64"],
)
def test_text_is_bounded_to_the_byte(parse: Callable[[bytes], bytes], text: bytes) -> None:
    """With the armour or without it, white space included."""
    full = text + b"\n" * (module._MAX_PEM_BYTES - len(text))
    assert parse(full) == to_der(a_certificate())
    with pytest.raises(CertificateRejected) as caught:
        parse(full + b"\n")
    assert caught.value.reason is MALFORMED


@pytest.mark.parametrize("white_space", [b"\n", b"\r\n", b" ", b"\t"])
def test_any_white_space_ends_the_first_line(white_space: bytes) -> None:
    """Some proxies fold the lines into one, each with another character."""
    text = to_pem(a_certificate()).replace(b"\n", white_space)
    assert parse_pem(text) == to_der(a_certificate())


def test_base64_has_one_spelling() -> None:
    """Other bits behind the last byte would be a second spelling of the same certificate."""
    for padding in range(3):
        parts = Parts(extensions=tlv(der.SEQUENCE, CLIENT_AUTH, extension("1.2.3", bytes(padding))))
        packed = base64.b64encode(parts.certificate())
        if packed.endswith(b"="):
            with pytest.raises(CertificateRejected):
                parse_pem(_armour(_spelled_differently(packed)))
        assert parse_pem(_armour(packed)) == parts.certificate()


@pytest.mark.parametrize("text", ["é", "\ud800", to_pem(a_certificate()).decode() + "\u2028"])
def test_pem_text_is_ascii(text: str) -> None:
    """Text beyond ASCII is refused, not decoded somehow."""
    with pytest.raises(CertificateRejected) as caught:
        ClientCertificate.from_pem(text)
    assert caught.value.reason is MALFORMED


# The parser underneath


def test_panic_in_the_parser_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic in native code arrives as a BaseException, and must not end the process."""

    class PanicException(BaseException):
        pass

    def panic(data: bytes) -> x509.Certificate:
        raise PanicException

    monkeypatch.setattr(x509, "load_der_x509_certificate", panic)
    assert reason_for(to_der(a_certificate())) is MALFORMED


def test_interruption_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of parsing remains Ctrl-C."""

    def interrupt(data: bytes) -> x509.Certificate:
        raise KeyboardInterrupt

    monkeypatch.setattr(x509, "load_der_x509_certificate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ClientCertificate.from_der(to_der(a_certificate()))


@pytest.mark.parametrize(
    "data",
    [
        MALFORMED_TABLE["serial number 0"],
        WELL_FORMED_TABLE["country of three letters"].certificate(),
    ],
    ids=["serial", "country"],
)
def test_parser_warnings_reach_nobody(data: bytes) -> None:
    """Strangers cannot fill a log with the parser's warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        module.silence_parser()
        reason_for(data)
        assert not caught
        warnings.warn("of another module", UserWarning, stacklevel=1)
    assert len(caught) == 1


def test_parser_warnings_are_silenced_by_the_import_alone() -> None:
    """A program that uses us need not know of them; pytest has filters of its own."""
    program = (
        "import sys; from nexus_auth.domain.certificate import ClientCertificate;"
        "ClientCertificate.from_der(sys.stdin.buffer.read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=WELL_FORMED_TABLE["country of three letters"].certificate(),
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""


def test_dates_do_not_depend_on_the_extremes() -> None:
    """Year 9999 is read as it stands."""
    parts = WELL_FORMED_TABLE["year 9999"]
    certificate = ClientCertificate.from_der(parts.certificate())
    assert certificate.not_after == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_short_cuts_agree_with_the_parser() -> None:
    """What is read from known byte patterns is what the parser says of the same certificate."""
    for built in (
        a_certificate(),
        a_certificate(subject=x509.Name([organization(ADDRESS)])),
        a_certificate(
            hotkey=a_hotkey("bob"),
            key=Ed25519PrivateKey.generate(),
            extensions=[(DIGITAL_SIGNATURE, True), (CLIENT_AND_SERVER, False)],
        ),
    ):
        certificate = ClientCertificate.from_der(to_der(built))
        (attribute_,) = built.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        assert certificate.hotkey.address == attribute_.value
        key = built.public_key()
        assert isinstance(key, Ed25519PublicKey)
        assert certificate.public_key == key.public_bytes_raw()
        assert certificate._signed == built.tbs_certificate_bytes
        assert certificate._signature == built.signature
