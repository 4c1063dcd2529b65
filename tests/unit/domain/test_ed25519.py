from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.domain import ed25519
from nexus_auth.domain.ed25519 import is_usable_public_key
from tests.builders import a_key, public_bytes
from tests.edwards import NEUTRAL, times, torsion


def test_refused_list_is_the_torsion_subgroup() -> None:
    """The list in the code follows from the curve equation: no height missing, none too many."""
    assert len(set(torsion())) == 8
    assert all(times(8, point) == NEUTRAL for point in torsion())
    assert {y for _, y in torsion()} == ed25519._SMALL_ORDER_Y


@given(st.binary(max_size=64))
def test_any_bytes_get_an_answer(raw: bytes) -> None:
    """Length decides first; nothing raises."""
    assert is_usable_public_key(raw) <= (len(raw) == 32)


def test_honest_key_is_usable() -> None:
    """A key made by the usual tool passes."""
    assert is_usable_public_key(public_bytes(a_key()))


def test_signature_under_a_small_order_key_can_be_forged() -> None:
    """Why the list exists: under the neutral element somebody without any key can sign."""
    neutral = (1).to_bytes(32, "little")
    forged = neutral + bytes(32)  # R is the neutral element, S is zero.
    attempts = [b"message %d" % number for number in range(32)]
    key = Ed25519PublicKey.from_public_bytes(neutral)
    assert any(_verifies(key, forged, message) for message in attempts)
    assert not is_usable_public_key(neutral)


def _verifies(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
