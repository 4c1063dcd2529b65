"""What the development Pylon knows: neurons, identities, and tokens as salted digests."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Final, Self

from nexus_auth.adapters.addresses import MAX_PORT
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron

DEFAULT_NETUID: Final = 1
"""The subnet that is meant where none is named."""

MAX_NETUID: Final = 65_535
MAX_IDENTITY_NAME_LENGTH: Final = 128

_MAX_PROTOCOL: Final = 255
_SALT_BYTES: Final = 16
_DIGEST_BYTES: Final = 32
HTTP_AXON: Final = 4
"""Pylon's number for an axon that speaks HTTP."""


def check_netuid(netuid: int) -> None:
    """Raises ValueError unless this can be a subnet's number."""
    if not 0 <= netuid <= MAX_NETUID:
        raise ValueError(f"a netuid is a whole number from 0 to {MAX_NETUID}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axon:
    """Where a neuron can be called; the default is "not serving", as on chain."""

    ip: str = "0.0.0.0"  # noqa: S104 - what the chain says of a neuron that serves nothing
    port: int = 0
    protocol: int = HTTP_AXON

    def __post_init__(self) -> None:
        ipaddress.ip_address(self.ip)
        if not 0 <= self.port <= MAX_PORT:
            raise ValueError(f"a port is a whole number from 0 to {MAX_PORT}")
        if not 0 <= self.protocol <= _MAX_PROTOCOL:
            raise ValueError(f"an axon protocol is a whole number from 0 to {_MAX_PROTOCOL}")


PLACEHOLDER_AXON: Final = Axon(port=1)
"""The least that a neuron has to serve before the chain takes a key of it."""


@unique
class ChainRefusal(StrEnum):
    """Why the chain takes no key, in subtensor's own terms (pallet `serving.rs`)."""

    NOT_REGISTERED = "HotKeyNotRegisteredInNetwork"
    RATE_LIMIT = "ServingRateLimitExceeded"
    NO_AXON = "InvalidPort"


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronRecord(Neuron):
    """A neuron registered on a subnet. A new one is active, without stake and without permit.

    `axon_block` is the block in which it last served an axon, with or without a key; 0 is long ago.
    """

    hotkey: Hotkey
    coldkey: Hotkey
    active: bool = True
    validator_permit: bool = False
    alpha: float = 0.0
    tao: float = 0.0
    total: float = 0.0
    axon: Axon = Axon()
    axon_block: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityRecord:
    """A wallet that Pylon acts for, and the subnet it does so on. Its token stays in the store."""

    name: str
    netuid: int
    hotkey: Hotkey

    def __post_init__(self) -> None:
        check_netuid(self.netuid)
        usable = self.name.isprintable() and "/" not in self.name
        if not usable or not 0 < len(self.name) <= MAX_IDENTITY_NAME_LENGTH:
            raise ValueError(
                f"an identity's name is 1 to {MAX_IDENTITY_NAME_LENGTH} printable characters "
                "without '/'"
            )


@dataclass(frozen=True, slots=True)
class TokenDigest:
    """Recognises a bearer token without holding it.

    One fast hash: it protects generated tokens, not guessable ones. Enough for development.
    """

    encoded: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.encoded) != _SALT_BYTES + _DIGEST_BYTES:
            raise ValueError("not the digest of a token")

    @classmethod
    def of(cls, token: str) -> Self:
        """Digests a token.

        Raises:
            ValueError: If it could not travel in a header: it is not printable ASCII, has spaces
                in it or is empty.
        """
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("a token is printable ASCII without spaces")
        salt = secrets.token_bytes(_SALT_BYTES)
        return cls(salt + _digest(salt, token))

    def matches(self, token: str) -> bool:
        """Whether this is the token; takes the same time for every wrong one."""
        salt, expected = self.encoded[:_SALT_BYTES], self.encoded[_SALT_BYTES:]
        return hmac.compare_digest(expected, _digest(salt, token))


def _digest(salt: bytes, token: str) -> bytes:
    # A header is read as Latin-1, so every token that arrives can be encoded.
    return hashlib.blake2b(
        token.encode("utf-8", "surrogateescape"), salt=salt, digest_size=_DIGEST_BYTES
    ).digest()
