from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.domain import ed25519
from nexus_auth.domain.ed25519 import is_usable_public_key
from tests.builders import a_key, public_bytes

# The curve -x^2 + y^2 = 1 + d x^2 y^2 over the integers modulo p (RFC 8032 §5.1).
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
SQRT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def add(a: Point, b: Point) -> Point:
    """RFC 8032 §5.1.4, affine."""
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P
    return x, y


def times(count: int, point: Point) -> Point:
    """Double and add."""
    result = NEUTRAL
    while count:
        if count & 1:
            result = add(result, point)
        point = add(point, point)
        count >>= 1
    return result


def points_with(y: int) -> list[Point]:
    """The points of that height: none, one or two."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    if (root * root - square) % P:
        root = root * SQRT_OF_MINUS_1 % P
    if (root * root - square) % P:
        return []
    return sorted({(root, y), (-root % P, y)})


def small_order_points() -> set[Point]:
    """The torsion subgroup: what is left of points when the large prime factor is taken away."""
    found = {NEUTRAL}
    y = 2
    while len(found) < 8:
        for point in points_with(y):
            generator = times(GROUP_ORDER, point)
            found |= {times(count, generator) for count in range(8)}
        y += 1
    return found


def encodings(y: int) -> set[bytes]:
    """Every 32 bytes that a lenient decoder takes for this height, whatever the sign bit."""
    return {
        (value | sign << 255).to_bytes(32, "little")
        for value in range(y, 2**255, P)
        for sign in (0, 1)
    }


def test_refused_list_is_the_torsion_subgroup() -> None:
    """The list in the code follows from the curve equation: no encoding missing, none too many."""
    torsion = small_order_points()
    assert len(torsion) == 8
    assert all(times(8, point) == NEUTRAL for point in torsion)
    derived = {raw for _, y in torsion for raw in encodings(y)}
    assert len(derived) == 14
    assert all(not is_usable_public_key(raw) for raw in derived)
    assert {y for y in derived if not y[31] & 0x80} == ed25519._SMALL_ORDER_Y


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
