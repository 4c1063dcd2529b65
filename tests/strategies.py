"""Hypothesis strategies for what strangers may send."""

from __future__ import annotations

import base64
import textwrap
from datetime import timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import strategies as st

from nexus_auth.domain.hotkey import Hotkey
from tests import der
from tests.builders import NOW, a_hotkey, a_key, public_bytes
from tests.der import Parts, tlv

NAMES: Final = ("alice", "bob")
"""Those who are registered where these strategies are used."""

ADDRESSES: Final = tuple(a_hotkey(name).address for name in (*NAMES, "mallory"))

hotkeys = st.binary(min_size=32, max_size=32).map(Hotkey)
people = st.sampled_from((*NAMES, "mallory"))


INTRUDERS: Final = (
    *("\0", "\r\n", "\n", " ", "\t", "\x85", "\u00a0", "\u200b", "\u202e", "\ufeff"),
    *("\u0430", "\u0435", "\uff15", "1", "5", "0", "O", ",", ";", '"', "="),
    *("/", "\\", "../", "%00"),
)
"""What is put into an address: invisible, look-alike, or with a meaning somewhere else."""


@st.composite
def hostile_addresses(draw: st.DrawFn) -> str:
    """An address, nearly an address, or a name that means something elsewhere."""
    address = draw(st.sampled_from(ADDRESSES))
    place = draw(st.integers(0, len(address)))
    intruder = draw(st.sampled_from(INTRUDERS))
    return draw(
        st.sampled_from(
            [
                address,
                address,
                address,
                address[:place] + intruder + address[place:],
                address[:place] + intruder + address[place + 1 :],
                intruder + address,
                address + intruder,
                address[:place],
                address * 2,
                address.lower(),
                address.upper(),
                f"{address}\r\nX-Hotkey: {ADDRESSES[0]}",
                "self",
                "latest",
                "",
                "../../etc/passwd",
                "0x" + a_hotkey().account_id.hex(),
                a_hotkey().account_id.decode("latin-1"),
            ]
        )
        | st.text(max_size=60)
    )


STRING_ENCODINGS: Final = (
    (der.UTF8_STRING, "utf-8"),
    (der.UTF8_STRING, "utf-8"),
    (der.UTF8_STRING, "utf-8"),
    (der.PRINTABLE_STRING, "utf-8"),
    (der.PRINTABLE_STRING, "ascii"),
    (der.BMP_STRING, "utf-16-be"),
    (der.BMP_STRING, "utf-16-le"),
    (der.BMP_STRING, "utf-8"),
    (der.UNIVERSAL_STRING, "utf-32-be"),
    (der.UNIVERSAL_STRING, "utf-16-be"),
    (der.UTF8_STRING, "utf-16-be"),
    (der.T61_STRING, "latin-1"),
    (der.IA5_STRING, "ascii"),
    (der.IA5_STRING, "latin-1"),
    (der.NUMERIC_STRING, "ascii"),
    (der.VISIBLE_STRING, "ascii"),
    (der.GENERAL_STRING, "latin-1"),
    (der.GRAPHIC_STRING, "latin-1"),
    (der.VIDEOTEX_STRING, "latin-1"),
    (der.OCTET_STRING, "utf-8"),
    (der.BIT_STRING, "utf-8"),
    (der.UTC_TIME, "utf-8"),
    (der.GENERALIZED_TIME, "utf-8"),
    (der.INTEGER, "utf-8"),
    (der.NULL, "utf-8"),
    (der.SEQUENCE, "utf-8"),
)


@st.composite
def hostile_attributes(draw: st.DrawFn) -> bytes:
    """One attribute of a name, most often O, of any string type."""
    kind = draw(
        st.sampled_from(
            [der.O_OID] * 6 + [der.CN_OID, der.OU_OID, der.C_OID, "2.5.4.45", "2.5.4.97", "1.2.3"]
        )
    )
    tag, encoding = draw(st.sampled_from(STRING_ENCODINGS))
    text = draw(hostile_addresses())
    value = text.encode(encoding, "replace")
    if tag == der.BIT_STRING:
        value = b"\0" + value
    if draw(st.integers(0, 19)) == 0:
        value = draw(st.binary(max_size=80)) * draw(st.sampled_from([1, 1, 40]))
    return der.attribute(kind, value, tag)


@st.composite
def hostile_subjects(draw: st.DrawFn) -> bytes:
    """A subject with none, one or several O attributes, in one RDN or in several."""
    rdns = draw(
        st.lists(
            hostile_attributes() | st.lists(hostile_attributes(), max_size=3).map(tuple),
            max_size=4,
        )
    )
    honest = der.attribute(der.O_OID, draw(st.sampled_from(ADDRESSES)).encode())
    return draw(
        st.sampled_from(
            [
                der.name(*rdns),
                der.name(honest),
                der.name(honest, *rdns),
                der.name(*rdns, honest),
                # A SET that is not sorted, one that is empty, one too many layers.
                tlv(der.SEQUENCE, tlv(der.SET, *sorted([honest, honest[::-1]], reverse=True))),
                tlv(der.SEQUENCE, tlv(der.SET), tlv(der.SET, honest)),
                tlv(der.SEQUENCE, der.name(honest)),
            ]
        )
    )


EDGES: Final = tuple(
    NOW + side * offset
    for side in (-1, 1)
    for offset in (
        timedelta(0),
        timedelta(seconds=299),
        timedelta(seconds=300),
        timedelta(seconds=301),
        timedelta(days=30),
    )
)
moments = st.sampled_from(EDGES) | st.integers(-70 * 365, 170 * 365).map(
    lambda days: NOW + timedelta(days=days)
)
odd_times = st.sampled_from(
    [
        tlv(der.GENERALIZED_TIME, b"00000101000000Z"),
        tlv(der.GENERALIZED_TIME, b"00010101000000Z"),
        tlv(der.GENERALIZED_TIME, b"99991231235959Z"),
        tlv(der.GENERALIZED_TIME, b"20260601120000Z"),
        tlv(der.GENERALIZED_TIME, b"20260601120000.5Z"),
        tlv(der.GENERALIZED_TIME, b"20260601120000+0000"),
        tlv(der.GENERALIZED_TIME, b"20260601120000"),
        tlv(der.UTC_TIME, b"2606011200Z"),
        tlv(der.UTC_TIME, b"260601120000-0500"),
        tlv(der.UTC_TIME, b"260601120060Z"),
        tlv(der.UTC_TIME, b"260631120000Z"),
        tlv(der.UTC_TIME, b"-60601120000Z"),
        tlv(der.UTC_TIME, b""),
        tlv(der.UTC_TIME, b"\xff" * 13),
        tlv(der.UTF8_STRING, b"260601120000Z"),
    ]
)
times = moments.map(der.time) | odd_times
validities = st.one_of(
    st.just(Parts().validity),
    st.tuples(times, times).map(lambda pair: tlv(der.SEQUENCE, *pair)),
    times.map(lambda one: tlv(der.SEQUENCE, one)),
)

serials = st.one_of(
    st.integers(-(2**170), 2**170).map(der.integer),
    st.sampled_from([0, -1, 1, 127, 128, 2**159 - 1, 2**160, 2**1015, 2**1023, 2**2400]).map(
        der.integer
    ),
    st.binary(max_size=25).map(lambda raw: tlv(der.INTEGER, raw)),
)
versions = st.sampled_from(
    [
        b"",
        der.VERSION_3,
        tlv(0xA0, der.integer(0)),
        tlv(0xA0, der.integer(1)),
        tlv(0xA0, der.integer(3)),
        tlv(0xA0, der.integer(-1)),
        tlv(0xA0, der.integer(2**300)),
        tlv(0xA0, der.integer(2), der.integer(2)),
        tlv(0xA0, tlv(der.INTEGER, b"\0\2")),
        tlv(0x80, der.integer(2)),
        der.integer(2),
    ]
)
algorithms = st.sampled_from(
    [
        der.ED25519,
        tlv(der.SEQUENCE, der.oid(der.ED25519_OID), tlv(der.NULL)),
        tlv(der.SEQUENCE, der.oid(der.ED25519_OID), der.ED25519),
        tlv(der.SEQUENCE, der.oid("1.3.101.113")),
        tlv(der.SEQUENCE, der.oid("1.3.101.110")),
        tlv(der.SEQUENCE, der.oid("1.2.840.113549.1.1.11"), tlv(der.NULL)),
        tlv(der.SEQUENCE, der.oid("1.2.840.113549.1.1.10"), tlv(der.SEQUENCE)),
        tlv(der.SEQUENCE, der.oid("1.2.840.10045.4.3.2")),
        tlv(der.SEQUENCE, der.oid("1.2.3"), tlv(der.OCTET_STRING, Parts().signed(), der.ED25519)),
        tlv(der.SEQUENCE),
        tlv(der.NULL),
        b"",
    ]
)


def _key_info_of(
    key: rsa.RSAPrivateKey
    | dsa.DSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed448.Ed448PrivateKey
    | x448.X448PrivateKey
    | x25519.X25519PrivateKey,
) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


OTHER_KEYS: Final = {
    "RSA": _key_info_of(rsa.generate_private_key(65537, 2048)),
    "P-256": _key_info_of(ec.generate_private_key(ec.SECP256R1())),
    "secp256k1": _key_info_of(ec.generate_private_key(ec.SECP256K1())),
    "Ed448": _key_info_of(ed448.Ed448PrivateKey.generate()),
    "X25519": _key_info_of(x25519.X25519PrivateKey.generate()),
    "X448": _key_info_of(x448.X448PrivateKey.generate()),
    # Source: RFC 3279 §2.3.2 with small numbers; making real parameters takes seconds.
    "DSA": tlv(
        der.SEQUENCE,
        tlv(
            der.SEQUENCE,
            der.oid("1.2.840.10040.4.1"),
            tlv(der.SEQUENCE, der.integer(2**1023 + 1), der.integer(2**159 + 1), der.integer(2)),
        ),
        tlv(der.BIT_STRING, b"\0" + der.integer(4)),
    ),
}
"""Keys that are no Ed25519 keys, by kind, as SubjectPublicKeyInfo."""

key_infos = st.one_of(
    people.map(lambda name: der.ed25519_key_info(public_bytes(a_key(name)))),
    st.sampled_from(list(OTHER_KEYS.values())),
    st.binary(max_size=40).map(der.ed25519_key_info),
    st.sampled_from([0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18]).map(
        lambda y: der.ed25519_key_info(y.to_bytes(32, "little"))
    ),
    st.tuples(algorithms, st.binary(max_size=40)).map(
        lambda pair: tlv(der.SEQUENCE, pair[0], tlv(der.BIT_STRING, pair[1]))
    ),
)


def _nested(depth: int) -> bytes:
    element = b""
    for _ in range(depth):
        element = tlv(der.SEQUENCE, element)
    return element


extension_kinds = st.sampled_from(
    [der.EXTENDED_KEY_USAGE_OID] * 2
    + [der.KEY_USAGE_OID, der.BASIC_CONSTRAINTS_OID, der.SUBJECT_ALTERNATIVE_NAME_OID]
    + [f"2.5.29.{last}" for last in (14, 18, 30, 31, 32, 33, 35, 36, 46, 54, 99)]
    + ["1.3.6.1.5.5.7.1.1", "1.3.6.1.4.1.11129.2.4.2", "1.3.6.1.5.5.7.1.24", "1.2.3.4"]
)
extension_values = st.one_of(
    st.sampled_from(
        [
            tlv(der.SEQUENCE, der.oid(der.CLIENT_AUTH_OID)),
            tlv(der.SEQUENCE, der.oid(der.SERVER_AUTH_OID)),
            tlv(der.SEQUENCE, der.oid("2.5.29.37.0")),
            tlv(der.SEQUENCE),
            tlv(der.SEQUENCE, tlv(der.BOOLEAN, b"\xff")),
            tlv(der.SEQUENCE, tlv(der.BOOLEAN, b"\xff"), der.integer(0)),
            tlv(der.SEQUENCE, tlv(der.BOOLEAN, b"\0")),
            tlv(der.BIT_STRING, b"\x07\x80"),
            tlv(der.BIT_STRING, b"\x05\x20"),
            tlv(der.BIT_STRING, b"\0"),
            tlv(der.SEQUENCE, tlv(0x82, b"example.org\0.example.com")),
            tlv(der.SEQUENCE, tlv(0x87, b"123")),
            tlv(der.SEQUENCE, tlv(0xA4, der.name(der.attribute(der.O_OID, b"x")))),
            tlv(der.OCTET_STRING, b"x" * 20),
            tlv(der.NULL),
            b"",
        ]
    ),
    st.binary(max_size=30),
    st.integers(1, 60).map(_nested),
)


extension_lists = st.lists(
    st.builds(der.extension, extension_kinds, extension_values, critical=st.booleans()),
    max_size=4,
).map(lambda parts: tlv(der.SEQUENCE, *parts))


@st.composite
def hostile_parts(draw: st.DrawFn) -> Parts:
    """Certificates in which any number of parts are not what they should be."""
    replacements: dict[str, st.SearchStrategy[Any]] = {
        "version": versions,
        "serial": serials,
        "inner_algorithm": algorithms,
        "issuer": hostile_subjects(),
        "validity": validities,
        "subject": hostile_subjects(),
        "key_info": key_infos,
        "unique_ids": st.sampled_from([tlv(0x81, b"\0x"), tlv(0x82, b"\0y"), tlv(0x81)]),
        "extensions": st.none() | extension_lists,
        "outer_algorithm": algorithms,
        "unused_bits": st.sampled_from([0, 1, 7, 8, 255]),
        "after_signed": st.sampled_from([b"", tlv(der.NULL), b"\0"]),
        "trailing": st.sampled_from([b"", tlv(der.NULL), b"\0"]),
    }
    replaced = draw(st.sets(st.sampled_from(sorted(replacements)), max_size=4))
    return Parts(**{part: draw(replacements[part]) for part in sorted(replaced)})


one_odd_part = st.one_of(
    hostile_subjects().map(lambda value: Parts(subject=value)),
    validities.map(lambda value: Parts(validity=value)),
    extension_lists.map(lambda value: Parts(extensions=value)),
    serials.map(lambda value: Parts(serial=value)),
    key_infos.map(lambda value: Parts(key_info=value)),
    algorithms.map(lambda value: Parts(outer_algorithm=value)),
    algorithms.map(lambda value: Parts(inner_algorithm=value, outer_algorithm=value)),
)
"""Certificates in which one part may be odd, so that many of them are granted."""


@st.composite
def structured_certificates(draw: st.DrawFn) -> bytes:
    """A certificate whose parts are hostile and whose signature is right, wrong or garbage."""
    parts = draw(one_odd_part | hostile_parts())
    signer = a_key(draw(people))
    signature = draw(st.none() | st.none() | st.none() | st.binary(max_size=70))
    return parts.certificate(key=signer, signature=signature)


@st.composite
def damaged_certificates(draw: st.DrawFn) -> bytes:
    """A good or hostile certificate, cut, or with bytes replaced, put in or taken out."""
    data = bytearray(draw(st.just(Parts().certificate()) | structured_certificates()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        instead = draw(st.binary(max_size=4) | st.just(bytes(8)))
        until = draw(st.sampled_from([at, at + 1, at + 4, at + len(instead), len(data)]))
        data[at:until] = instead
    return bytes(data)


anything_like_a_certificate = st.one_of(
    structured_certificates(),
    structured_certificates(),
    damaged_certificates(),
    st.binary(max_size=600),
    st.binary(max_size=100).map(lambda raw: b"\x30\x82" + raw),
)
"""Bytes that somebody may present as DER."""


def pem(data: bytes, *, line_end: bytes = b"\n", width: int = 64) -> bytes:
    """DER as PEM, in lines of some width."""
    lines = textwrap.wrap(base64.b64encode(data).decode(), width) or [""]
    return line_end.join(
        [
            b"-----BEGIN CERTIFICATE-----",
            *(line.encode() for line in lines),
            b"-----END CERTIFICATE-----",
            b"",
        ]
    )


pem_layouts = st.fixed_dictionaries(
    {"line_end": st.sampled_from([b"\n", b"\r\n", b" "]), "width": st.sampled_from([64, 76, 4096])}
)


def percent_encoded(text: bytes, *, safe: str = "", lower: bool = False) -> bytes:
    """One of the ways to percent-encode a text: which characters stay, and in which case."""
    return "".join(
        chr(byte)
        if chr(byte).isalnum() or chr(byte) in safe
        else (f"%{byte:02x}" if lower else f"%{byte:02X}")
        for byte in text
    ).encode("ascii")


percent_layouts = st.fixed_dictionaries(
    {"safe": st.sampled_from(["", "-", "+/=", "-. /+=:"]), "lower": st.booleans()}
)
