"""What the test node writes: SCALE, the keys of storage maps, and the chain's own records.

Written from the public sources of Substrate and subtensor with hash functions from elsewhere than
the code under test, so that each checks the other.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import xxhash

U64_MAX: Final = 2**64 - 1

SELECTIVE_FIELDS: Final = 74
"""`SelectiveMetagraph` of spec 318: the netuid and 73 options."""


def twox128(text: str) -> bytes:
    """Two 64-bit hashes with the seeds 0 and 1, little-endian."""
    return b"".join(
        xxhash.xxh64_intdigest(text.encode(), seed=seed).to_bytes(8, "little") for seed in (0, 1)
    )


def prefix(pallet: str, item: str) -> bytes:
    """What the keys of a storage item begin with."""
    return twox128(pallet) + twox128(item)


def u16(number: int) -> bytes:
    """Two bytes, little-endian."""
    return number.to_bytes(2, "little")


def u64(number: int) -> bytes:
    """Eight bytes, little-endian."""
    return number.to_bytes(8, "little")


def compact(number: int) -> bytes:
    """A number in as few bytes as it needs; the two lowest bits say how many."""
    if number < 2**6:
        return bytes([number << 2])
    if number < 2**14:
        return (number << 2 | 1).to_bytes(2, "little")
    if number < 2**30:
        return (number << 2 | 2).to_bytes(4, "little")
    digits = number.to_bytes((number.bit_length() + 7) // 8, "little")
    return bytes([(len(digits) - 4) << 2 | 3]) + digits


def vector(items: Sequence[bytes]) -> bytes:
    """A `Vec` of what is encoded already."""
    return compact(len(items)) + b"".join(items)


def of_subnet(item: str, netuid: int) -> bytes:
    """The key of a map by subnet; netuids are their own hash (Identity)."""
    return prefix("SubtensorModule", item) + u16(netuid)


def of_account(item: str, netuid: int, account: bytes) -> bytes:
    """The key of a map by subnet and account (Blake2_128Concat)."""
    return of_subnet(item, netuid) + hashlib.blake2b(account, digest_size=16).digest() + account


def of_uid(item: str, netuid: int, uid: int) -> bytes:
    """The key of a map by subnet and uid (both Identity)."""
    return of_subnet(item, netuid) + u16(uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axon:
    """Where a neuron serves, as `serve_axon` stores it."""

    block: int = 0
    ip: str = "0.0.0.0"  # noqa: S104 - what the chain has of a neuron that never served
    port: int = 0
    protocol: int = 4
    version: int = 1

    def encode(self) -> bytes:
        """The chain's `AxonInfo`."""
        address = ipaddress.ip_address(self.ip)
        return (
            u64(self.block)
            + self.version.to_bytes(4, "little")
            + int(address).to_bytes(16, "little")
            + u16(self.port)
            + bytes([address.version, self.protocol, 0, 0])
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A place on the subnet with what the chain computes for it. Stakes are rao."""

    account: bytes
    validator_permit: bool = False
    active: bool = True
    alpha: int = 0
    tao: int = 0
    total: int = 0
    last_update: int = 0
    axon: Axon = Axon()


def _bools(values: Iterable[bool]) -> bytes:
    return vector([bytes([value]) for value in values])


def _compacts(values: Iterable[int]) -> bytes:
    return vector([compact(value) for value in values])


def selective_metagraph(netuid: int, seats: Sequence[Seat], indexes: Sequence[int]) -> bytes:
    """The answer of `SubnetInfoRuntimeApi_get_selective_metagraph`."""
    known = {
        52: vector([seat.account for seat in seats]),
        56: _bools(seat.active for seat in seats),
        57: _bools(seat.validator_permit for seat in seats),
        67: _compacts(seat.alpha for seat in seats),
        68: _compacts(seat.tao for seat in seats),
        69: _compacts(seat.total for seat in seats),
    }
    # The netuid is that of the root network unless it is asked for, as on the chain.
    head = b"\1" + compact(netuid if 0 in indexes else 0)
    return head + b"".join(
        b"\1" + known[index] if index in indexes else b"\0" for index in range(1, SELECTIVE_FIELDS)
    )


def subnet_state(netuid: int, seats: Sequence[Seat]) -> bytes:
    """The answer of `SubnetInfoRuntimeApi_get_subnet_state`."""
    zeros = _compacts(0 for _ in seats)
    return b"".join(
        [
            b"\1" + compact(netuid),
            vector([seat.account for seat in seats]),  # hotkeys
            vector([seat.account for seat in seats]),  # coldkeys
            _bools(seat.active for seat in seats),
            _bools(seat.validator_permit for seat in seats),
            _compacts([]),  # pruning scores, no longer computed
            _compacts(seat.last_update for seat in seats),
            zeros * 6,  # emission, dividends, incentives, consensus, trust, rank
            zeros,  # block at registration
            _compacts(seat.alpha for seat in seats),
            _compacts(seat.tao for seat in seats),
            _compacts(seat.total for seat in seats),
            vector([zeros]),  # emission history, a list a subnet
        ]
    )


def neurons_lite(netuid: int, seats: Sequence[Seat]) -> bytes:
    """The answer of `NeuronInfoRuntimeApi_get_neurons_lite`."""
    return vector(
        [
            b"".join(
                [
                    seat.account * 2,  # hotkey, coldkey
                    compact(uid) + compact(netuid),
                    bytes([seat.active]),
                    seat.axon.encode(),
                    bytes(31),  # prometheus
                    vector([seat.account + compact(seat.alpha)]),
                    compact(0) * 7,  # rank to dividends
                    compact(seat.last_update),
                    bytes([seat.validator_permit]),
                    compact(0),  # pruning score
                ]
            )
            for uid, seat in enumerate(seats)
        ]
    )
