"""A hotkey: the name of a participant, a checked SS58 address."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from nexus_auth.domain.errors import InvalidHotkey

ACCOUNT_ID_BYTES: Final = 32
SS58_PREFIX: Final = 42
"""Generic Substrate network prefix, the one that Bittensor uses."""

_CHECKSUM_BYTES: Final = 2
_CHECKSUM_CONTEXT: Final = b"SS58PRE"
_PREFIX_BYTE: Final = bytes([SS58_PREFIX])
_RAW_ADDRESS_BYTES: Final = 1 + ACCOUNT_ID_BYTES + _CHECKSUM_BYTES

# One prefix byte of 42, 32 bytes and a two-byte checksum are always exactly 48 base58 digits, the
# first of which is a 5; and whatever matches this pattern fits 35 bytes.
_ADDRESS: Final = re.compile(r"5[1-9A-HJ-NP-Za-km-z]{47}")
_ADDRESS_DIGITS: Final = 48

# Base58 is done here because the width is fixed: it is shorter than the care that a general
# decoder needs (it may strip white space, it maps leading ones to zero bytes), and six times as
# fast, which counts where the certificate of every unknown caller is parsed.
_DIGITS: Final = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE: Final = len(_DIGITS)
_DIGIT_VALUES: Final = bytes.maketrans(_DIGITS, bytes(range(_BASE)))


def _neighbours(bits: int) -> tuple[int, int, int]:
    """For lanes of so many bits: the width, what a left neighbour counts, the right lanes' mask."""
    mask = int.from_bytes((bytes(bits // 8) + b"\xff" * (bits // 8)) * (256 // bits), "big")
    return bits, _BASE ** (bits // 8), mask


_FOLDS: Final = tuple(_neighbours(bits) for bits in (8, 16, 32, 64, 128, 256))


def _checksum(payload: bytes) -> bytes:
    """SS58 checksum: the first bytes of blake2b-512 over a context and the payload.

    Source: SS58 address format, Substrate documentation.
    """
    return hashlib.blake2b(_CHECKSUM_CONTEXT + payload).digest()[:_CHECKSUM_BYTES]


def _decode_digits(address: str) -> bytes:
    # One byte holds one digit at first. Each fold joins all neighbours at once, so that half as
    # many lanes of twice the width and twice the digits remain.
    number = int.from_bytes(address.encode("ascii").translate(_DIGIT_VALUES), "big")
    for bits, weight, right_lanes in _FOLDS:
        number = (number >> bits & right_lanes) * weight + (number & right_lanes)
    return number.to_bytes(_RAW_ADDRESS_BYTES, "big")


def _encode_account(account_id: bytes) -> str:
    payload = _PREFIX_BYTE + account_id
    number = int.from_bytes(payload + _checksum(payload), "big")
    digits = bytearray(_ADDRESS_DIGITS)
    for place in reversed(range(_ADDRESS_DIGITS)):
        number, value = divmod(number, _BASE)
        digits[place] = _DIGITS[value]
    return digits.decode("ascii")


@dataclass(frozen=True, slots=True)
class Hotkey:
    """A participant of the network, named by a 32-byte account id.

    One account id has exactly one text form here, `address`; two hotkeys are equal when their
    account ids are. An existing instance is valid. It proves nothing about registration.
    """

    account_id: bytes
    address: str = field(init=False, repr=False, compare=False)
    """The SS58 address, encoded anew from the account id."""

    def __post_init__(self) -> None:
        # Nothing but bytes: a bytearray could change later, and 32 characters are no account id.
        if type(self.account_id) is not bytes or len(self.account_id) != ACCOUNT_ID_BYTES:
            raise InvalidHotkey(f"an account id has exactly {ACCOUNT_ID_BYTES} bytes")
        object.__setattr__(self, "address", _encode_account(self.account_id))

    @classmethod
    def parse(cls, text: str) -> Hotkey:
        """Reads an SS58 address exactly as it stands; nothing is trimmed or repaired.

        Args:
            text: 48 base58 characters with the network prefix 42 and a right checksum.

        Raises:
            InvalidHotkey: If the text is anything else.
        """
        if _ADDRESS.fullmatch(text) is None:
            raise InvalidHotkey("not an SS58 address: 48 base58 characters beginning with 5")
        raw = _decode_digits(text)
        payload, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
        if payload[:1] != _PREFIX_BYTE:
            raise InvalidHotkey(f"not an SS58 address with the network prefix {SS58_PREFIX}")
        if checksum != _checksum(payload):
            raise InvalidHotkey("not an SS58 address: the checksum is wrong")
        # What was read is the one text form of its account id: encoding it again, which costs
        # three times as much, would give the same.
        hotkey = object.__new__(cls)
        object.__setattr__(hotkey, "account_id", payload[1:])
        object.__setattr__(hotkey, "address", text)
        return hotkey

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"Hotkey.parse({self.address!r})"
