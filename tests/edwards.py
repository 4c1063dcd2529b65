"""The curve of Ed25519 and its signatures by the equations: slow, plain, and no library's code.

With it a test makes signatures that no signing library makes. Source: RFC 8032 §5.1; the points are
affine, and nothing takes the same time twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

# -x^2 + y^2 = 1 + d x^2 y^2 over the integers modulo p (RFC 8032 §5.1).
P: Final = 2**255 - 19
D: Final = -121665 * pow(121666, -1, P) % P
SQRT_OF_MINUS_1: Final = pow(2, (P - 1) // 4, P)
GROUP_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_SIGN: Final = 1 << 255

Point = tuple[int, int]
NEUTRAL: Final[Point] = (0, 1)


def add(a: Point, b: Point) -> Point:
    """RFC 8032 §5.1.4, affine."""
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P
    return x, y


def negative(point: Point) -> Point:
    """The point that adds up to nothing with it."""
    x, y = point
    return -x % P, y


def times(count: int, point: Point) -> Point:
    """Double and add, in the coordinates of RFC 8032 §5.1.4 that need no division."""
    result, power = _extended(NEUTRAL), _extended(point)
    while count:
        if count & 1:
            result = _add_extended(result, power)
        power = _add_extended(power, power)
        count >>= 1
    x, y, z, _ = result
    inverse = pow(z, -1, P)
    return x * inverse % P, y * inverse % P


def _extended(point: Point) -> tuple[int, int, int, int]:
    x, y = point
    return x, y, 1, x * y % P


def _add_extended(
    a: tuple[int, int, int, int], b: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    difference = (a[1] - a[0]) * (b[1] - b[0]) % P
    total = (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * D * a[3] * b[3] % P, 2 * a[2] * b[2] % P
    e, f, g, h = total - difference, d - c, d + c, total + difference
    return e * f % P, g * h % P, f * g % P, e * h % P


def points_with(y: int) -> list[Point]:
    """The points of that height: none, one or two."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    if (root * root - square) % P:
        root = root * SQRT_OF_MINUS_1 % P
    if (root * root - square) % P:
        return []
    return sorted({(root, y), (-root % P, y)})


# RFC 8032 §5.1: the base point has the height 4/5 and a positive (even) x.
BASE: Final = next(point for point in points_with(4 * pow(5, -1, P) % P) if point[0] % 2 == 0)


@cache
def torsion() -> tuple[Point, ...]:
    """The eight points of small order, as multiples of one of order eight."""
    y = 2
    while True:
        for point in points_with(y):
            generator = times(GROUP_ORDER, point)
            if times(4, generator) != NEUTRAL:
                return tuple(times(count, generator) for count in range(8))
        y += 1


def encode(point: Point) -> bytes:
    """RFC 8032 §5.1.2: the one right encoding."""
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def encodings(y: int) -> set[bytes]:
    """Every 32 bytes that a lenient decoder takes for this height, whatever the sign bit."""
    return {
        (value | sign).to_bytes(32, "little")
        for value in range(y, 2**255, P)
        for sign in (0, _SIGN)
    }


def decode_leniently(raw: bytes) -> Point | None:
    """The point that bytes stand for, where y may be p or more and a wrong sign of zero passes."""
    value = int.from_bytes(raw, "little")
    points = points_with(value % _SIGN % P)
    sign = value >> 255
    return next((point for point in points if point[0] & 1 == sign), points[0] if points else None)


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    """RFC 8032 §5.1.6, step 4: what R, key and message determine."""
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % GROUP_ORDER


@dataclass(frozen=True)
class Secret:
    """The secret scalar of a key, and its public point (RFC 8032 §5.1.5)."""

    scalar: int

    @classmethod
    def of_seed(cls, seed: bytes) -> Secret:
        """The scalar that every library derives from the 32 bytes of a private key."""
        value = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
        return cls(value & ((1 << 254) - 8) | 1 << 254)

    @cached_property
    def point(self) -> Point:
        """The public point."""
        return times(self.scalar, BASE)

    def answer(self, nonce: int, r: bytes, key: bytes, message: bytes) -> int:
        """S, for any encoding of R and of the key (RFC 8032 §5.1.6, step 5)."""
        return (nonce + challenge(r, key, message) * self.scalar) % GROUP_ORDER


def satisfies(key: bytes, signature: bytes, message: bytes, *, cofactor: int = 1) -> bool:
    """The equation of RFC 8032 §5.1.7 alone: [c][S]B = [c]R + [c][k]A, with lenient decoding."""
    a, r = decode_leniently(key), decode_leniently(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None:
        return False
    right = add(r, times(challenge(signature[:32], key, message), a))
    return times(cofactor * s, BASE) == times(cofactor, right)
