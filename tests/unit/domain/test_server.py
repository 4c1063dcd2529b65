"""Whether a server is a hotkey: the exact key, in any certificate that does not name another."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.domain.certificate import MAX_DER_BYTES
from nexus_auth.domain.errors import ServerKeyMismatch
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.server import ServerCertificate, check_server, fingerprint_of
from tests.builders import (
    a_certificate,
    a_hotkey,
    a_key,
    organization,
    public_bytes,
    to_der,
    to_pem,
)

MINER = a_hotkey("miner")
OTHER = a_hotkey("other")
KEY = public_bytes(a_key("miner"))
REGISTRATION = Registration(public_key=KEY, expires_at=datetime(2030, 1, 1, tzinfo=UTC))

# The public key of RFC 8410 §10.1, and what `openssl dgst -sha256 -binary | base64` says of it.
RFC_8410_KEY = base64.b64decode("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")
RFC_8410_FINGERPRINT = "sha256//oekVYFTgT6yJmunydRMs3Ael28TqLCrTof/G4NJTaB8="


def shown(der: bytes) -> ServerCertificate:
    """What counts in a certificate."""
    return ServerCertificate.from_der(der)


def named(*values: str, attribute_type: Any = None) -> bytes:
    """The miner's certificate with other O attributes."""
    attributes = [
        organization(value)
        if attribute_type is None
        else x509.NameAttribute(NameOID.ORGANIZATION_NAME, value, _type=attribute_type)
        for value in values
    ]
    return to_der(a_certificate(key=a_key("miner"), subject=x509.Name(attributes)))


def accepts(der: bytes) -> bool:
    """Whether the miner is proven by a certificate."""
    try:
        check_server(shown(der), MINER, REGISTRATION)
    except ServerKeyMismatch:
        return False
    return True


def test_certificate_of_the_hotkey_around_its_key_is_accepted() -> None:
    """As `generate` makes it."""
    der = to_der(a_certificate(hotkey=MINER, key=a_key("miner")))
    assert accepts(der)
    assert shown(der) == ServerCertificate(
        fingerprint=fingerprint_of(KEY), public_key=KEY, hotkey=MINER
    )


def test_other_key_is_refused_with_both_fingerprints() -> None:
    """Whatever the certificate says."""
    with pytest.raises(ServerKeyMismatch) as refused:
        check_server(
            shown(to_der(a_certificate(hotkey=MINER, key=a_key("other")))), MINER, REGISTRATION
        )
    error = refused.value
    assert (error.hotkey, error.named) == (MINER.address, None)
    assert error.expected == fingerprint_of(KEY)
    assert error.found == fingerprint_of(public_bytes(a_key("other")))
    assert str(error) == (
        f"the server is not proven to be {MINER}: "
        f"expected the key {error.expected}, found {error.found}"
    )


def test_right_key_in_a_certificate_of_another_hotkey_is_refused() -> None:
    """The other one serves; it has not been asked to serve for the miner."""
    with pytest.raises(ServerKeyMismatch, match=f"in a certificate of {OTHER}") as refused:
        check_server(shown(named(OTHER.address)), MINER, REGISTRATION)
    assert refused.value.named == OTHER.address
    assert refused.value.found == refused.value.expected


@pytest.mark.parametrize(
    "der",
    [
        named(),
        named("a company"),
        named(MINER.address, OTHER.address),
        named(OTHER.address.lower()),
        named(MINER.address + "\0"),
        named(OTHER.address + " "),
    ],
    ids=["none", "text", "two", "lower case", "zero byte", "space"],
)
def test_certificate_that_names_no_one_hotkey_is_accepted_by_its_key(der: bytes) -> None:
    """Only the key is registered; what cannot be a hotkey names none."""
    assert accepts(der)
    assert shown(der).hotkey is None


@pytest.mark.parametrize("kind", ["UTF8String", "PrintableString", "BMPString", "T61String"])
def test_name_counts_in_every_type_of_text(kind: str) -> None:
    """The other's name is the other's name, however it is encoded."""
    kinds: Any = x509.name._ASN1Type
    assert not accepts(named(OTHER.address, attribute_type=getattr(kinds, kind)))
    assert accepts(named(MINER.address, attribute_type=getattr(kinds, kind)))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ec.generate_private_key(ec.SECP256R1()),
        ed448.Ed448PrivateKey.generate(),
    ],
    ids=["rsa", "ecdsa", "ed448"],
)
def test_key_of_another_kind_is_refused_with_its_fingerprint(key: Any) -> None:
    """It is no registered key, but it can be named."""
    found = shown(to_der(a_certificate(hotkey=MINER, key=key, signed_by=a_key("miner"))))
    assert found.public_key is None
    assert found.fingerprint is not None
    with pytest.raises(ServerKeyMismatch, match=r"sha256//.*sha256//"):
        check_server(found, MINER, REGISTRATION)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\0",
        b"\x30\x80",
        to_der(a_certificate(hotkey=MINER, key=a_key("miner")))[:-1],
        to_der(a_certificate(hotkey=MINER, key=a_key("miner"))) + b"\0",
        to_pem(a_certificate(hotkey=MINER, key=a_key("miner"))),
        b"\x30\x84" + (MAX_DER_BYTES * 2).to_bytes(4) + bytes(MAX_DER_BYTES * 2),
    ],
    ids=["none", "zero", "open", "short", "long", "pem", "giant"],
)
def test_what_is_no_certificate_is_refused(der: bytes) -> None:
    """No key was found, and the text says so."""
    assert shown(der) == ServerCertificate()
    with pytest.raises(ServerKeyMismatch, match="found none") as refused:
        check_server(shown(der), MINER, REGISTRATION)
    assert refused.value.found is None


def test_giant_certificate_is_not_read() -> None:
    """Around the right key too: no miner needs so much, and what is read costs time."""
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(MAX_DER_BYTES))
    der = to_der(a_certificate(hotkey=MINER, key=a_key("miner"), extensions=((extension, False),)))
    assert shown(der) == ServerCertificate()
    assert not accepts(der)


def test_nothing_shown_is_no_match_for_nothing() -> None:
    """None is no key."""
    with pytest.raises(ServerKeyMismatch):
        check_server(ServerCertificate(), MINER, REGISTRATION)
    with pytest.raises(ServerKeyMismatch):
        check_server(ServerCertificate(hotkey=MINER), MINER, REGISTRATION)


@given(st.binary(max_size=600))
@example(to_der(a_certificate(hotkey=MINER, key=a_key("other"))))
def test_any_bytes_are_read_and_none_are_accepted(der: bytes) -> None:
    """Reading never raises; chance finds no key."""
    assert not accepts(der)


_GOOD = to_der(a_certificate(hotkey=MINER, key=a_key("miner")))
_AT = _GOOD.index(KEY)


@given(st.integers(0, len(_GOOD) - 1), st.integers(0, 255), st.integers(0, 3), st.integers(0, 40))
def test_changed_certificate_is_accepted_only_around_the_exact_key(
    place: int, byte: int, more: int, cut: int
) -> None:
    """Whatever else a change does, the 32 bytes of the key stand in what is accepted."""
    changed = bytearray(_GOOD)
    changed[place] = byte
    changed[place + 1 : place + 1 + cut * (more == 1)] = bytes(more)
    if accepts(bytes(changed)):
        assert KEY in changed
        assert shown(bytes(changed)).public_key == KEY


@given(st.integers(0, 31), st.integers(1, 255))
def test_key_that_differs_in_any_byte_is_refused(place: int, difference: int) -> None:
    """No prefix and no part of a key is enough."""
    changed = bytearray(_GOOD)
    changed[_AT + place] ^= difference
    assert not accepts(bytes(changed))


@given(st.binary(min_size=32, max_size=32))
def test_any_other_key_is_refused(seed: bytes) -> None:
    """Only the registered one is accepted."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    der = to_der(a_certificate(hotkey=MINER, key=key))
    assert accepts(der) is (public_bytes(key) == KEY)


def test_fingerprint_of_a_known_key() -> None:
    """Over the whole SubjectPublicKeyInfo, not the 32 bytes alone."""
    assert fingerprint_of(RFC_8410_KEY[-32:]) == RFC_8410_FINGERPRINT
