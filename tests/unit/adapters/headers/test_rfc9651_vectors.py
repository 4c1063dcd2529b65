"""Byte sequences of RFC 9651 in the `Client-Cert` header (RFC 9440): one spelling is accepted.

RFC 9440 §2.2 makes the field a byte sequence and nothing else. RFC 9651 §4.2.7 lets a parser accept
missing padding and non-zero trailing bits; here one certificate has one spelling.
"""

from __future__ import annotations

from typing import Final

import pytest

from nexus_auth.adapters.headers.formats import der_from_rfc9440
from nexus_auth.domain.errors import CertificateRejected
from nexus_auth.domain.reasons import DenialReason

# The rows of `binary.json` in the HTTP working group's structured-field-tests, typed in, with
# what this parser makes of each; "can fail" marks what that suite leaves to the parser.
PUBLISHED: Final[list[tuple[str, bytes, bytes | DenialReason]]] = [
    ("basic binary", b":aGVsbG8=:", b"hello"),
    ("empty binary", b"::", DenialReason.NO_CERTIFICATE),
    ("padding at beginning", b":=aGVsbG8=:", DenialReason.BAD_ENCODING),
    ("padding in middle", b":a=GVsbG8=:", DenialReason.BAD_ENCODING),
    ("bad padding (can fail)", b":aGVsbG8:", DenialReason.BAD_ENCODING),
    ("bad padding dot", b":aGVsbG8.:", DenialReason.BAD_ENCODING),
    ("bad end delimiter", b":aGVsbG8=", DenialReason.BAD_ENCODING),
    ("extra white space", b":aGVsb G8=:", DenialReason.BAD_ENCODING),
    ("all white space", b":    :", DenialReason.BAD_ENCODING),
    ("extra characters", b":aGVsbG!8=:", DenialReason.BAD_ENCODING),
    ("suffix characters", b":aGVsbG8=!:", DenialReason.BAD_ENCODING),
    ("non-zero pad bits (can fail)", b":iZ==:", DenialReason.BAD_ENCODING),
    ("non-ASCII binary", b":/+Ah:", b"\xff\xe0\x21"),
    ("base64url binary", b":_-Ah:", DenialReason.BAD_ENCODING),
]

OTHER_SPELLINGS: Final[list[tuple[str, bytes, bytes | DenialReason]]] = [
    ("spaces around", b"  :aGVsbG8=:  ", b"hello"),
    ("tabs around, RFC 9110", b"\t:aGVsbG8=:\t", b"hello"),
    ("no-break space around", b"\xa0:aGVsbG8=:", DenialReason.BAD_ENCODING),
    ("line feed around", b":aGVsbG8=:\n", DenialReason.BAD_ENCODING),
    ("NUL behind", b":aGVsbG8=:\0", DenialReason.BAD_ENCODING),
    ("vertical tab around", b"\x0b:aGVsbG8=:", DenialReason.BAD_ENCODING),
    ("nothing", b"", DenialReason.NO_CERTIFICATE),
    ("white space alone", b" \t ", DenialReason.NO_CERTIFICATE),
    ("one colon", b":", DenialReason.BAD_ENCODING),
    ("three colons", b":::", DenialReason.BAD_ENCODING),
    ("padding alone", b":=:", DenialReason.BAD_ENCODING),
    ("all padding", b":====:", DenialReason.BAD_ENCODING),
    ("one digit", b":a:", DenialReason.BAD_ENCODING),
    ("one digit, padded", b":a===:", DenialReason.BAD_ENCODING),
    ("two digits", b":aA==:", b"h"),
    ("two digits, one pad", b":aA=:", DenialReason.BAD_ENCODING),
    ("two digits, three pads", b":aA===:", DenialReason.BAD_ENCODING),
    ("two digits, loose bits", b":aB==:", DenialReason.BAD_ENCODING),
    ("three digits", b":aGU=:", b"he"),
    ("three digits, loose bits", b":aGV=:", DenialReason.BAD_ENCODING),
    ("four digits", b":aGVs:", b"hel"),
    ("four digits, padded", b":aGVs=:", DenialReason.BAD_ENCODING),
    ("four digits, a group of padding", b":aGVs====:", DenialReason.BAD_ENCODING),
    ("two padded groups", b":aA==aA==:", DenialReason.BAD_ENCODING),
    ("line feed inside", b":aGVs\nbG8=:", DenialReason.BAD_ENCODING),
    ("carriage return inside", b":aGVs\r\nbG8=:", DenialReason.BAD_ENCODING),
    ("tab inside", b":aGVs\tbG8=:", DenialReason.BAD_ENCODING),
    ("space before the end", b":aGVsbG8= :", DenialReason.BAD_ENCODING),
    ("space after the beginning", b": aGVsbG8=:", DenialReason.BAD_ENCODING),
    ("percent-encoded padding", b":aGVsbG8%3D:", DenialReason.BAD_ENCODING),
    ("not ASCII inside", b":aGVs\xc3\xa4G8=:", DenialReason.BAD_ENCODING),
    ("0xff inside", b":aGVs\xffG8=:", DenialReason.BAD_ENCODING),
    ("DEL inside", b":aGVs\x7fG8=:", DenialReason.BAD_ENCODING),
    ("asterisks, as in a draft", b"*aGVsbG8=*", DenialReason.BAD_ENCODING),
    ("a parameter", b":aGVsbG8=:;a", DenialReason.BAD_ENCODING),
    ("a parameter with a byte sequence", b":aGVsbG8=:;a=:aGVs:", DenialReason.BAD_ENCODING),
    ("an empty parameter", b":aGVsbG8=:;", DenialReason.BAD_ENCODING),
    ("a list of one and nothing", b":aGVsbG8=:,", DenialReason.MALFORMED_CERTIFICATE),
    ("a list", b":aGVsbG8=:, :aGVsbG8=:", DenialReason.MALFORMED_CERTIFICATE),
    ("an inner list", b"(:aGVsbG8=:)", DenialReason.BAD_ENCODING),
    ("an inner list of two", b"(:aGVs: :bG8=:)", DenialReason.BAD_ENCODING),
    ("two without a comma", b":aGVs: :bG8=:", DenialReason.BAD_ENCODING),
    ("two joined", b":aGVs::bG8=:", DenialReason.BAD_ENCODING),
    ("a dictionary", b"a=:aGVsbG8=:", DenialReason.BAD_ENCODING),
    ("a string", b'"aGVsbG8="', DenialReason.BAD_ENCODING),
    ("a token", b"aGVsbG8", DenialReason.BAD_ENCODING),
    ("an integer", b"1", DenialReason.BAD_ENCODING),
    ("a boolean", b"?1", DenialReason.BAD_ENCODING),
    ("a date", b"@1659578233", DenialReason.BAD_ENCODING),
    ("a display string", b'%"aGVsbG8="', DenialReason.BAD_ENCODING),
]


@pytest.mark.parametrize(
    ("header", "expected"),
    [row[1:] for row in (*PUBLISHED, *OTHER_SPELLINGS)],
    ids=[row[0] for row in (*PUBLISHED, *OTHER_SPELLINGS)],
)
def test_byte_sequence_has_one_spelling(header: bytes, expected: bytes | DenialReason) -> None:
    """It is read, or refused with its reason; nothing is repaired."""
    if isinstance(expected, bytes):
        assert der_from_rfc9440(header) == expected
        return
    with pytest.raises(CertificateRejected) as caught:
        der_from_rfc9440(header)
    assert caught.value.reason is expected


def test_each_byte_that_is_no_base64_is_refused_in_every_place() -> None:
    """All 256 bytes in all places of a sequence: 65 of them may stand there."""
    for place in range(1, 9):
        for byte in range(256):
            header = bytearray(b":aGVsbG8=:")
            header[place] = byte
            try:
                read = der_from_rfc9440(bytes(header))
            except CertificateRejected:
                continue
            assert len(read) == (6 if header[8] != ord("=") else 5)
            assert chr(byte).isalnum() or chr(byte) in "+/="
