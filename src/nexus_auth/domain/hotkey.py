"""A hotkey: the name of a participant, a checked SS58 address."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Self

import base58

from nexus_auth.domain.errors import InvalidHotkey

ACCOUNT_ID_BYTES: Final = 32
SS58_PREFIX: Final = 42
"""Generic Substrate network prefix, the one that Bittensor uses."""

_CHECKSUM_BYTES: Final = 2
_CHECKSUM_CONTEXT: Final = b"SS58PRE"
_PREFIX_BYTE: Final = bytes([SS58_PREFIX])
# One prefix byte of 42, 32 bytes and a two-byte checksum are always exactly 48 base58 digits.
# The pattern stands before the decoder because that one strips white space, and we repair nothing.
_ADDRESS: Final = re.compile(r"5[1-9A-HJ-NP-Za-km-z]{47}")


def _checksum(payload: bytes) -> bytes:
    """SS58 checksum: the first bytes of blake2b-512 over a context and the payload.

    Source: SS58 address format, Substrate documentation.
    """
    return hashlib.blake2b(_CHECKSUM_CONTEXT + payload).digest()[:_CHECKSUM_BYTES]


@dataclass(frozen=True, slots=True)
class Hotkey:
    """A participant of the network, named by a 32-byte account id.

    One account id has exactly one text form here, `address`; two hotkeys are equal when their
    account ids are. An existing instance is valid. It proves nothing about registration.
    """

    account_id: bytes

    def __post_init__(self) -> None:
        if len(self.account_id) != ACCOUNT_ID_BYTES:
            raise InvalidHotkey(f"an account id has exactly {ACCOUNT_ID_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads an SS58 address exactly as it stands; nothing is trimmed or repaired.

        Args:
            text: 48 base58 characters with the network prefix 42 and a right checksum.

        Raises:
            InvalidHotkey: If the text is anything else.
        """
        if _ADDRESS.fullmatch(text) is None:
            raise InvalidHotkey("not an SS58 address: 48 base58 characters beginning with 5")
        raw = base58.b58decode(text)
        payload, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
        if len(payload) != 1 + ACCOUNT_ID_BYTES or payload[:1] != _PREFIX_BYTE:
            raise InvalidHotkey(f"not an SS58 address with the network prefix {SS58_PREFIX}")
        if checksum != _checksum(payload):
            raise InvalidHotkey("not an SS58 address: the checksum is wrong")
        return cls(payload[1:])

    @property
    def address(self) -> str:
        """The SS58 address, encoded anew from the account id."""
        payload = _PREFIX_BYTE + self.account_id
        return base58.b58encode(payload + _checksum(payload)).decode("ascii")

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"Hotkey.parse({self.address!r})"
