"""Properties of the whole decision, whatever strangers send."""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, event, example, given
from hypothesis import strategies as st

from nexus_auth.adapters.headers.formats import FORMATS
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.errors import CertificateRejected
from nexus_auth.domain.evaluate import DEFAULT_LEEWAY
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.verifier import CertificateVerifier
from tests import der
from tests.builders import NOW, a_hotkey, a_key, public_bytes
from tests.der import Parts
from tests.fakes import FakeClock, FakeRegistry
from tests.strategies import (
    NAMES,
    OTHER_KEYS,
    anything_like_a_certificate,
    hotkeys,
    one_odd_part,
    pem,
    pem_layouts,
    percent_encoded,
    percent_layouts,
    structured_certificates,
)

REGISTERED = {a_hotkey(name): public_bytes(a_key(name)) for name in NAMES}
HONEST = Parts().certificate()

# With DER that begins with another byte, `verify` takes it for PEM; a header has no such choice.
LIKE_DER = anything_like_a_certificate.map(lambda data: b"\x30" + data[1:])


def run(decision: Coroutine[Any, Any, Decision]) -> Decision:
    """Takes a decision that waits for nothing, without an event loop."""
    try:
        decision.send(None)
    except StopIteration as done:
        outcome: Decision = done.value
        return outcome
    raise AssertionError("the decision waited")


def a_verifier(registered: dict[Hotkey, bytes] | None = None) -> CertificateVerifier:
    """A fresh verifier whose registry knows alice and bob."""
    registry = FakeRegistry(REGISTERED if registered is None else registered)
    return CertificateVerifier(registry=registry, clock=FakeClock())


def verify(data: bytes | str) -> Decision:
    """Decides afresh."""
    return run(a_verifier().verify(data))


def verify_header(kind: str, value: bytes) -> Decision:
    """Decides on a header's value in one of the formats, as the service does."""

    def decode(raw: bytes) -> ClientCertificate:
        return ClientCertificate.from_der(FORMATS[kind](raw))

    return run(a_verifier().verify_encoded(value, decode=decode))


def reason_of(decision: Decision) -> DenialReason | None:
    """The code of a denial, None for a grant."""
    return decision.reason if isinstance(decision, Denied) else None


def check(data: bytes, decision: Decision) -> None:
    """What holds for every decision on every DER."""
    event(str(reason_of(decision)))
    match decision:
        case Granted(hotkey=hotkey):
            assert der.proves(
                data,
                address=hotkey.address,
                key=REGISTERED[hotkey],
                now=NOW,
                leeway=DEFAULT_LEEWAY,
            )
        case Denied(detail=detail):
            # Our own words, never the stranger's.
            assert detail.isascii()
            assert detail.isprintable()
            assert 0 < len(detail) < 100


@given(anything_like_a_certificate)
@example(HONEST)
@example(b"")
@example(b"\x30")
@example(b"\x30\x80\x00\x00")
def test_only_what_proves_itself_is_granted(data: bytes) -> None:
    """No exception escapes, and a grant is what an independent reading of the contract grants."""
    check(data, verify(data))


@given(one_odd_part, st.sampled_from(NAMES))
def test_one_odd_part_is_granted_only_where_the_proof_stands(parts: Parts, signer: str) -> None:
    """The same with certificates that are almost right, so that grants are frequent."""
    data = parts.certificate(key=a_key(signer))
    check(data, verify(data))


def test_the_oracle_is_no_rubber_stamp() -> None:
    """It grants the honest certificate and none of its neighbours."""

    def proves(data: bytes) -> bool:
        return der.proves(
            data,
            address=a_hotkey().address,
            key=public_bytes(a_key()),
            now=NOW,
            leeway=DEFAULT_LEEWAY,
        )

    assert proves(HONEST)
    assert not proves(HONEST + b"\0")
    assert not proves(Parts().certificate(key=a_key("bob")))
    assert not proves(Parts(serial=der.integer(0)).certificate())
    assert not proves(Parts(subject=der.name()).certificate())
    assert not proves(
        Parts(extensions=der.tlv(der.SEQUENCE, der.extended_key_usage())).certificate()
    )


@given(st.binary(max_size=300), st.integers(0, len(HONEST) - 1))
def test_truncated_or_extended_certificate_is_denied(more: bytes, kept: int) -> None:
    """Neither the beginning of a certificate nor one with something behind it is one."""
    assert reason_of(verify(HONEST[:kept])) is not None
    assert not more or reason_of(verify(HONEST + more)) is DenialReason.MALFORMED_CERTIFICATE


@given(st.integers(0, len(HONEST) * 8 - 1))
def test_flipped_bit_is_denied(place: int) -> None:
    """Any one bit turns a grant into a denial."""
    changed = bytearray(HONEST)
    changed[place // 8] ^= 1 << place % 8
    assert reason_of(verify(bytes(changed))) is not None


@pytest.mark.parametrize("kind", OTHER_KEYS)
def test_key_of_another_kind_is_denied(kind: str) -> None:
    """Whatever algorithm the key claims, and however short its mathematics."""
    decision = verify(Parts(key_info=OTHER_KEYS[kind]).certificate())
    assert reason_of(decision) is DenialReason.UNSUPPORTED_KEY


@given(st.binary(max_size=2000) | st.text(max_size=500))
@example("\ud800")
@example(b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----")
@example("-----BEGIN CERTIFICATE-----\n" + "=" * 64 + "\n-----END CERTIFICATE-----")
def test_any_input_gets_a_decision(data: bytes | str) -> None:
    """Garbage is denied, never an exception, and never granted."""
    assert isinstance(verify(data), Denied)


@given(
    st.sampled_from(sorted(FORMATS)),
    st.one_of(
        st.binary(max_size=500),
        st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.text(alphabet='%0123456789abcdefABCDEF-+/= :;,"\\CertBEGIN', max_size=300).map(
            str.encode
        ),
    ),
)
@example("percent-encoded-pem", b"%")
@example("percent-encoded-pem", b"%00")
@example("percent-encoded-pem", b"%F0%9F")
@example("xfcc", b'Cert="')
@example("rfc9440", b"::")
def test_any_header_gets_a_decision(kind: str, value: bytes) -> None:
    """The same for every format that proxies write."""
    assert isinstance(verify_header(kind, value), Denied)


@given(
    st.sampled_from(sorted(FORMATS)),
    st.sampled_from(list(range(5))),
    st.integers(0, 2000),
    st.binary(min_size=1, max_size=3),
)
def test_damaged_header_is_the_same_certificate_or_denied(
    kind: str, how: int, place: int, noise: bytes
) -> None:
    """Noise in an honest header changes nothing or spoils it; it never makes another caller."""
    header = bytearray(HEADERS[kind](HONEST))
    at = place % len(header)
    changes: dict[int, tuple[int, bytes]] = {
        0: (at, noise),
        1: (at + 1, noise),
        2: (at + len(noise), b""),
        3: (len(header), noise),
        4: (len(header), b""),
    }
    until, instead = changes[how]
    header[at:until] = instead
    decision = verify_header(kind, bytes(header))
    if isinstance(decision, Granted):
        assert FORMATS[kind](bytes(header)) == HONEST


def _percent_encoded(data: bytes) -> bytes:
    return quote(pem(data), safe="").encode()


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "percent-encoded-pem": _percent_encoded,
    "rfc9440": lambda data: b":" + base64.b64encode(data) + b":",
    "xfcc": lambda data: b'Hash=0;Cert="' + _percent_encoded(data) + b'"',
    "base64-der": base64.b64encode,
}


def test_every_format_is_fuzzed() -> None:
    """A new header format needs a line above."""
    assert HEADERS.keys() == FORMATS.keys()


@given(LIKE_DER)
@example(HONEST)
def test_verdict_does_not_depend_on_the_encoding(data: bytes) -> None:
    """The same DER gets the same decision as DER, as PEM, and in the header of every proxy."""
    expected = verify(data)
    assert verify(pem(data)) == expected
    assert verify(pem(data).decode()) == expected
    for kind, write in HEADERS.items():
        assert verify_header(kind, write(data)) == expected


@given(LIKE_DER, pem_layouts, percent_layouts)
def test_verdict_does_not_depend_on_the_layout(
    data: bytes, layout: dict[str, Any], escapes: dict[str, Any]
) -> None:
    """Line ends, line widths and the choice of escapes say nothing."""
    text = pem(data, **layout)
    expected = verify(data)
    assert verify(text) == expected
    assert verify_header("percent-encoded-pem", percent_encoded(text, **escapes)) == expected


@given(structured_certificates(), st.dictionaries(hotkeys, st.just(b"\x05" * 32), max_size=5))
def test_unrelated_entries_change_nothing(data: bytes, others: dict[Hotkey, bytes]) -> None:
    """Who else is registered never matters."""
    assume(not others.keys() & REGISTERED.keys())
    assert run(a_verifier(REGISTERED | others).verify(data)) == verify(data)


@given(structured_certificates(), structured_certificates())
def test_order_of_callers_changes_nothing(one: bytes, other: bytes) -> None:
    """What was presented before, remembered or refused, never changes a decision."""
    verifier = a_verifier()
    expected = [verify(data) for data in (one, other, one, HONEST, other)]
    found = [run(verifier.verify(data)) for data in (one, other, one, HONEST, other)]
    assert found == expected
    for data, decision in zip((one, other), expected, strict=False):
        remembered = verifier.verify_remembered(data)
        assert remembered is None if isinstance(decision, Denied) else remembered == decision


@given(hotkeys, st.binary(min_size=32, max_size=32), st.sampled_from(sorted(FORMATS)))
def test_issued_certificate_survives_every_wrapping(hotkey: Hotkey, seed: bytes, kind: str) -> None:
    """Hotkey and key that went in are the hotkey and the key that come out."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    data = Parts(
        subject=der.name(der.attribute(der.O_OID, hotkey.address.encode())),
        key_info=der.ed25519_key_info(public_bytes(key)),
    ).certificate(key=key)
    read = ClientCertificate.from_der(FORMATS[kind](HEADERS[kind](data)))
    assert (read.hotkey, read.public_key) == (hotkey, public_bytes(key))
    assert read.is_self_signed()


@given(anything_like_a_certificate)
def test_parser_raises_its_own_error_with_one_of_its_own_reasons(data: bytes) -> None:
    """Checks 3 to 6, and no other code, come from the certificate alone."""
    try:
        ClientCertificate.from_der(data)
    except CertificateRejected as exc:
        reason = exc.reason
        assert reason in {
            DenialReason.MALFORMED_CERTIFICATE,
            DenialReason.NO_ORGANIZATION,
            DenialReason.INVALID_HOTKEY,
            DenialReason.UNSUPPORTED_KEY,
        }
