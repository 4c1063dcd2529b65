"""What the development Pylon knows: neurons and identities."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Final

from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron

DEFAULT_NETUID: Final = 1
"""The subnet that is meant where none is named."""

MAX_NETUID: Final = 65_535
MAX_IDENTITY_NAME_LENGTH: Final = 128

_MAX_PORT: Final = 65_535
_MAX_PROTOCOL: Final = 255
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
        if not 0 <= self.port <= _MAX_PORT:
            raise ValueError(f"a port is a whole number from 0 to {_MAX_PORT}")
        if not 0 <= self.protocol <= _MAX_PROTOCOL:
            raise ValueError(f"an axon protocol is a whole number from 0 to {_MAX_PROTOCOL}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NeuronRecord(Neuron):
    """A neuron registered on a subnet. A new one is active, without stake and without permit.

    Attributes:
        hotkey: Its name.
        coldkey: The owner's address.
        axon: Where it can be called.
    """

    hotkey: Hotkey
    coldkey: Hotkey
    active: bool = True
    validator_permit: bool = False
    alpha: float = 0.0
    tao: float = 0.0
    total: float = 0.0
    axon: Axon = Axon()


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


def derive_coldkey(hotkey: Hotkey) -> Hotkey:
    """Makes the coldkey of a neuron for which none was given."""
    return Hotkey(hashlib.sha256(b"coldkey of " + hotkey.account_id).digest())
