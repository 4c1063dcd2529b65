"""Keys and signatures that no honest signer makes: what is refused, by which check, and why.

The classes are those of "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko, 2020) and RFC
8032 §8.4 and §8.7; every signature is made here, from the equations in `tests/edwards.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import CertificateRejected
from nexus_auth.domain.evaluate import evaluate
from nexus_auth.domain.ports import Registration
from nexus_auth.domain.reasons import DenialReason
from tests import edwards
from tests.builders import NOW, a_key, public_bytes
from tests.der import Parts, ed25519_key_info
from tests.edwards import BASE, GROUP_ORDER, NEUTRAL, P, Secret, encode, times, torsion

# Source: Table 1 of "Taming the many EdDSAs", and libsodium's list of refused points. Which order
# each point has, and whether the encoding is the canonical one.
LOW_ORDER: Final = {
    "0100000000000000000000000000000000000000000000000000000000000000": (1, True),
    "0100000000000000000000000000000000000000000000000000000000000080": (1, False),
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": (1, False),
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff": (1, False),
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": (2, True),
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff": (2, False),
    "0000000000000000000000000000000000000000000000000000000000000000": (4, True),
    "0000000000000000000000000000000000000000000000000000000000000080": (4, True),
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f": (4, False),
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff": (4, False),
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05": (8, True),
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85": (8, True),
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a": (8, True),
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa": (8, True),
}

ALICE: Final = Secret.of_seed(a_key().private_bytes_raw())
KEY: Final = public_bytes(a_key())
PARTS: Final = Parts()
MESSAGE: Final = PARTS.signed()
NONCE: Final = 2**100 + 12345


def join(r: bytes, s: int) -> bytes:
    """A signature of its two halves."""
    return r + s.to_bytes(32, "little")


@cache
def honest_halves() -> tuple[bytes, int]:
    """R and S of an honest signature with a nonce of our choice."""
    r = encode(times(NONCE, BASE))
    return r, ALICE.answer(NONCE, r, KEY, MESSAGE)


def verifies(key: bytes, signature: bytes, message: bytes) -> bool:
    """What the library says that the service uses."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def is_granted(certificate: bytes, key: bytes) -> bool:
    """The decision, where exactly this key is registered."""
    registration = Registration(public_key=key, expires_at=NOW.replace(year=NOW.year + 1))
    match evaluate(ClientCertificate.from_der(certificate), registration, NOW):
        case Granted():
            return True
        case Denied(reason=reason):
            assert reason is DenialReason.BAD_SIGNATURE
            return False


def test_the_equations_agree_with_the_library() -> None:
    """The curve of these tests is the curve: an honest key and signature come out the same."""
    assert encode(ALICE.point) == KEY
    signature = a_key().sign(MESSAGE)
    assert edwards.satisfies(KEY, signature, MESSAGE)
    assert not edwards.satisfies(KEY, signature, MESSAGE + b"!")
    assert verifies(KEY, join(*honest_halves()), MESSAGE)
    assert is_granted(PARTS.certificate(signature=join(*honest_halves())), KEY)


def test_the_published_list_is_what_the_curve_gives() -> None:
    """Fourteen encodings, eight of them canonical, with the orders that the table says."""
    derived = {raw for _, y in torsion() for raw in edwards.encodings(y)}
    assert derived == {bytes.fromhex(text) for text in LOW_ORDER}
    for text, (order, is_canonical) in LOW_ORDER.items():
        point = edwards.decode_leniently(bytes.fromhex(text))
        assert point is not None
        assert next(n for n in (1, 2, 4, 8) if times(n, point) == NEUTRAL) == order
        assert (encode(point) == bytes.fromhex(text)) == is_canonical


@pytest.mark.parametrize("text", LOW_ORDER)
def test_key_of_low_order_is_refused_by_check_6_and_can_never_be_registered(text: str) -> None:
    """Though the library takes it, and though a signature under it can be made by anyone."""
    raw = bytes.fromhex(text)
    parts = Parts(key_info=ed25519_key_info(raw))
    with pytest.raises(CertificateRejected) as caught:
        ClientCertificate.from_der(parts.certificate(signature=join(encode(NEUTRAL), 0)))
    assert caught.value.reason is DenialReason.UNSUPPORTED_KEY
    with pytest.raises(ValueError, match="small order"):
        Registration(public_key=raw, expires_at=NOW)
    # R of small order and S = 0 satisfy the equation for some messages: no private key is needed.
    forged = [join(encode(point), 0) for point in torsion()]
    messages = [b"message %d" % number for number in range(8)]
    assert any(verifies(raw, each, message) for each in forged for message in messages)


SECOND_SPELLINGS: Final = [
    (y + P | sign << 255).to_bytes(32, "little")
    for y in range(19)
    if edwards.points_with(y)
    for sign in (0, 1)
]
"""Every encoding of a point by a height of p or more: 2^255 leaves room for 19 such heights."""


@pytest.mark.parametrize("raw", SECOND_SPELLINGS, ids=bytes.hex)
def test_second_spelling_of_a_key_is_refused_by_check_6(raw: bytes) -> None:
    """RFC 8032 §5.1.3, step 1: decoding fails. OpenSSL decodes it, so we look."""
    Ed25519PublicKey.from_public_bytes(raw)
    assert not is_usable_public_key(raw)
    with pytest.raises(CertificateRejected) as caught:
        ClientCertificate.from_der(Parts(key_info=ed25519_key_info(raw)).certificate())
    assert caught.value.reason is DenialReason.UNSUPPORTED_KEY


@pytest.mark.parametrize("times_added", range(1, 16))
def test_s_of_the_group_order_or_more_is_refused(times_added: int) -> None:
    """RFC 8032 §5.1.7, step 1: S + n L satisfies the equation, and would be a second signature."""
    r, s = honest_halves()
    greater = s + times_added * GROUP_ORDER
    if greater >= 2**256:
        pytest.skip("it does not fit 32 bytes")
    signature = join(r, greater)
    assert edwards.satisfies(KEY, signature, MESSAGE)
    assert not verifies(KEY, signature, MESSAGE)
    assert not is_granted(PARTS.certificate(signature=signature), KEY)


@pytest.mark.parametrize("text", LOW_ORDER)
def test_r_of_low_order_is_refused_unless_it_is_the_canonical_neutral_element(text: str) -> None:
    """With S = k a, which only the holder can make, and which gives the private key away.

    The neutral element in its one right encoding is a signature by RFC 8032; it proves what any
    other proves.
    """
    r = bytes.fromhex(text)
    signature = join(r, ALICE.answer(0, r, KEY, MESSAGE))
    assert edwards.satisfies(KEY, signature, MESSAGE, cofactor=8)
    expected = r == encode(NEUTRAL)
    assert verifies(KEY, signature, MESSAGE) == expected
    assert is_granted(PARTS.certificate(signature=signature), KEY) == expected


def test_low_order_r_without_the_private_key_proves_nothing() -> None:
    """Under an honest key, S = 0 satisfies nothing, whatever R of small order."""
    for text in LOW_ORDER:
        signature = join(bytes.fromhex(text), 0)
        assert not is_granted(PARTS.certificate(signature=signature), KEY)


@pytest.mark.parametrize("place", range(1, 8))
def test_r_of_mixed_order_is_refused(place: int) -> None:
    """It satisfies the equation only with the cofactor; the service verifies without."""
    r = encode(edwards.add(times(NONCE, BASE), torsion()[place]))
    signature = join(r, ALICE.answer(NONCE, r, KEY, MESSAGE))
    assert edwards.satisfies(KEY, signature, MESSAGE, cofactor=8)
    assert not edwards.satisfies(KEY, signature, MESSAGE)
    assert not verifies(KEY, signature, MESSAGE)
    assert not is_granted(PARTS.certificate(signature=signature), KEY)


@pytest.mark.parametrize("place", [1, 2, 4])
def test_key_of_mixed_order_proves_the_same_secret(place: int) -> None:
    """A + T is another key than A: each needs the secret of A, and neither stands for the other.

    RFC 8032 does not ask for points of prime order. A key with a small part takes the signatures of
    its holder whose challenge makes that part vanish, and no others.
    """
    key = encode(edwards.add(ALICE.point, torsion()[place]))
    assert is_usable_public_key(key)
    parts = Parts(key_info=ed25519_key_info(key))
    outcomes = set()
    for nonce in range(NONCE, NONCE + 24):
        r = encode(times(nonce, BASE))
        signature = join(r, ALICE.answer(nonce, r, key, parts.signed()))
        vanishes = times(edwards.challenge(r, key, parts.signed()) % 8, torsion()[place]) == NEUTRAL
        certificate = parts.certificate(signature=signature)
        assert is_granted(certificate, key) == vanishes
        outcomes.add(vanishes)
        other = Registration(public_key=KEY, expires_at=NOW)
        decision = evaluate(ClientCertificate.from_der(certificate), other, NOW)
        assert isinstance(decision, Denied)
        assert decision.reason is DenialReason.KEY_MISMATCH
    assert False in outcomes


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(bytes(64), id="zeros"),
        pytest.param(b"\xff" * 64, id="ones"),
        pytest.param(join(honest_halves()[0], GROUP_ORDER), id="S = L"),
        pytest.param(join(honest_halves()[0], 0), id="S = 0"),
        pytest.param(join(honest_halves()[0], GROUP_ORDER - honest_halves()[1]), id="-S"),
        pytest.param(
            join(encode(edwards.negative(times(NONCE, BASE))), honest_halves()[1]), id="-R"
        ),
        pytest.param(join((P - 1).to_bytes(32, "little"), 1), id="R of order 2"),
        pytest.param(join((2).to_bytes(32, "little"), 1), id="R not on the curve"),
        pytest.param(honest_halves()[1].to_bytes(32, "little") + honest_halves()[0], id="S, R"),
    ],
)
def test_what_satisfies_no_equation_is_refused(signature: bytes) -> None:
    """Neither by the library nor by the decision."""
    assert not verifies(KEY, signature, MESSAGE)
    assert not is_granted(PARTS.certificate(signature=signature), KEY)


@pytest.mark.parametrize("y", [y for y in range(2, 20) if not edwards.points_with(y)])
def test_key_that_is_no_point_is_refused_by_check_11(y: int) -> None:
    """Nothing verifies under it; whether a height has a point is left to the library."""
    key = y.to_bytes(32, "little")
    parts = Parts(key_info=ed25519_key_info(key))
    assert is_usable_public_key(key)
    for signature in (None, join(encode(NEUTRAL), 0), join(key, 0), bytes(64)):
        assert not is_granted(parts.certificate(signature=signature), key)
