"""Which 32 bytes may serve as an Ed25519 public key."""

from __future__ import annotations

from typing import Final

PUBLIC_KEY_BYTES: Final = 32

# The heights of the points of small order. Under such a "key" anyone can make signatures that
# verify, so that it proves nothing about its holder. Source: Curve25519 torsion subgroup, RFC 8032
# §5.1.7 and the tests beside this module, which derive the list from the curve equation.
_P: Final = 2**255 - 19
_Y_OF_ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P - 1, _Y_OF_ORDER_8, _P - _Y_OF_ORDER_8})
_WITHOUT_SIGN: Final = 2**255 - 1


def is_usable_public_key(raw: bytes) -> bool:
    """Says whether bytes may be taken for a public key: 32 of them, canonical, of large order.

    A height of p or more is a second spelling of a point (RFC 8032 §5.1.3, step 1: decoding
    fails), which OpenSSL accepts. It is not proven that the point is on the curve, nor that the
    private key exists.
    """
    if len(raw) != PUBLIC_KEY_BYTES:
        return False
    y = int.from_bytes(raw, "little") & _WITHOUT_SIGN
    return y < _P and y not in _SMALL_ORDER_Y
