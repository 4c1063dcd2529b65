"""How the chain stores what is read here: keys of its state, and the bytes under them.

Every `parse_*` takes what a node wrote, JSON or raw bytes, and raises `NodeAnswerInvalid` for
anything else. Bytes are never read as text: libraries give a key as a string where its bytes happen
to be UTF-8. Source: storage of Substrate (twox128 of pallet and item; Identity and
Blake2_128Concat), SCALE, and subtensor's pallet: `NeuronCertificates`, `Axons`, `Uids`,
`ServingRateLimit`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from nexus_auth.adapters.chain.rpc import Json, NodeAnswerInvalid
from nexus_auth.domain.ed25519 import PUBLIC_KEY_BYTES, is_usable_public_key
from nexus_auth.domain.hotkey import ACCOUNT_ID_BYTES, Hotkey
from nexus_auth.domain.neuron import Place

DEFAULT_RATE_LIMIT_BLOCKS: Final = 50
"""How many blocks lie between two axons where a subnet says nothing else: subtensor's
`InitialServingRateLimit`."""

# The twox128 hashes of the names; the tests derive them anew.
_PALLET: Final = bytes.fromhex("658faa385070e074c85bf6b568cf0555")
_CERTIFICATES: Final = _PALLET + bytes.fromhex("805f1c4b7f54d8f4208070bfc777e2db")
_AXONS: Final = _PALLET + bytes.fromhex("b4e0c7b1d5f74994fcd58c28ab601fec")
_UIDS: Final = _PALLET + bytes.fromhex("aab1b4e78e1ea8305462ee53b3686dc8")
_RATE_LIMIT: Final = _PALLET + bytes.fromhex("1fbba053865c94fcc1b417b41cc9e63a")
NOW_KEY: Final = bytes.fromhex("f0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb")
"""Where the time of a block is: `Timestamp.Now`."""

_ED25519: Final = 1
"""The algorithm's byte. The chain gives it no meaning; Pylon and the owner's tools write 1."""
_CERTIFICATE_BYTES: Final = 1 + PUBLIC_KEY_BYTES + 1
_CERTIFICATE_LENGTH: Final = bytes([PUBLIC_KEY_BYTES << 2])  # SCALE compact, one byte below 64
_HASH_BYTES: Final = 16
_AXON_BYTES: Final = 34

_HASH: Final = re.compile(r"0x[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"0x[0-9a-f]{1,15}")
_BYTES: Final = re.compile(r"0x(?:[0-9a-f]{2})*")


def certificates_prefix(netuid: int) -> bytes:
    """What the keys of all certificates of a subnet begin with, and no other key."""
    return _CERTIFICATES + netuid.to_bytes(2, "little")


def certificate_key(netuid: int, hotkey: Hotkey) -> bytes:
    """Where the certificate of a hotkey is."""
    return _of_account(_CERTIFICATES, netuid, hotkey.account_id)


def axon_key(netuid: int, hotkey: Hotkey) -> bytes:
    """Where the axon of a hotkey is."""
    return _of_account(_AXONS, netuid, hotkey.account_id)


def uid_key(netuid: int, hotkey: Hotkey) -> bytes:
    """Where the uid of a hotkey is; nothing is there without a place on the subnet."""
    return _of_account(_UIDS, netuid, hotkey.account_id)


def rate_limit_key(netuid: int) -> bytes:
    """Where it says how many blocks lie between two axons."""
    return _RATE_LIMIT + netuid.to_bytes(2, "little")


def _of_account(item: bytes, netuid: int, account_id: bytes) -> bytes:
    hashed = hashlib.blake2b(account_id, digest_size=_HASH_BYTES).digest()
    return item + netuid.to_bytes(2, "little") + hashed + account_id


def to_hex(data: bytes) -> str:
    """Bytes as a node takes them."""
    return f"0x{data.hex()}"


def parse_hash(answer: Json) -> str:
    """Reads the hash of a block, as it stands."""
    if not isinstance(answer, str) or _HASH.fullmatch(answer) is None:
        raise NodeAnswerInvalid("gave no hash of a block")
    return answer


def parse_height(answer: Json) -> int:
    """Reads the number in the header of a block."""
    number = answer.get("number") if isinstance(answer, dict) else None
    if not isinstance(number, str) or _NUMBER.fullmatch(number) is None:
        raise NodeAnswerInvalid("does not know the block that it named, or gave no header of it")
    return int(number, 16)


def _parse_bytes(answer: Json) -> bytes:
    if not isinstance(answer, str) or _BYTES.fullmatch(answer) is None:
        raise NodeAnswerInvalid("gave no bytes in hexadecimal")
    return bytes.fromhex(answer[2:])


def parse_page(answer: Json, *, netuid: int, after: bytes, limit: int) -> list[bytes]:
    """Reads one page of the keys of certificates.

    Args:
        answer: The result of `state_getKeysPaged`.
        netuid: The subnet.
        after: The key that the page begins after, or what all of them begin with.
        limit: How many keys were asked for.

    Returns:
        The keys: growing, each a hotkey's on this subnet, with the right hash in it. So no key
        comes twice, and pages end.
    """
    if not isinstance(answer, list) or len(answer) > limit:
        raise NodeAnswerInvalid("gave no page of keys, or a longer one than asked for")
    keys: list[bytes] = []
    for each in answer:
        key = _parse_bytes(each)
        if key <= after:
            raise NodeAnswerInvalid("gave keys that repeat or go backwards")
        if key != _of_account(_CERTIFICATES, netuid, key[-ACCOUNT_ID_BYTES:]):
            raise NodeAnswerInvalid("gave the key of something else than a certificate")
        keys.append(key)
        after = key
    return keys


def hotkey_of(key: bytes) -> Hotkey:
    """The hotkey in one of the keys that `parse_page` gives."""
    return Hotkey(key[-ACCOUNT_ID_BYTES:])


def parse_values(
    answer: Json, *, keys: Sequence[bytes], block_hash: str
) -> Mapping[bytes, bytes | None]:
    """Reads what is stored under keys at one block: for each of them a value, or None.

    A node says null for a key without a value. One that leaves the key out means the same.

    Args:
        answer: The result of `state_queryStorageAt`.
        keys: What was asked for, each once.
        block_hash: The block.
    """
    match answer:
        case [{"block": str(said), "changes": list(changes)}] if said == block_hash:
            pass
        case _:
            raise NodeAnswerInvalid("gave no values of the block that was asked for")
    values = dict(_parse_changes(changes, most=len(keys)))
    if len(values) != len(changes) or not values.keys() <= set(keys):
        raise NodeAnswerInvalid("gave values twice, or others than asked for")
    return dict.fromkeys(keys) | values


def _parse_changes(changes: list[Json], *, most: int) -> Iterable[tuple[bytes, bytes | None]]:
    if len(changes) > most:
        raise NodeAnswerInvalid("gave more values than asked for")
    for change in changes:
        match change:
            case [key, None]:
                yield _parse_bytes(key), None
            case [key, value]:
                yield _parse_bytes(key), _parse_bytes(value)
            case _:
                raise NodeAnswerInvalid("gave values without keys")


def parse_certificate(value: bytes) -> bytes | None:
    """Reads a certificate of the chain: the raw Ed25519 public key in it.

    Returns:
        None where it is anything else: an owner may publish a key of another kind, or none. The
        value is SCALE: the compact length of the key, the key, the algorithm's byte.
    """
    key = value[1:-1]
    if (
        len(value) != _CERTIFICATE_BYTES
        or value[:1] != _CERTIFICATE_LENGTH
        or value[-1] != _ED25519
        or not is_usable_public_key(key)
    ):
        return None
    return key


def parse_milliseconds(value: bytes) -> int:
    """Reads the time of a block: milliseconds since 1970."""
    return _parse_number(value, "the time")


def _parse_number(value: bytes | None, what: str) -> int:
    if value is None or len(value) != 8:  # noqa: PLR2004 - a u64
        raise NodeAnswerInvalid(f"gave something else than {what}")
    return int.from_bytes(value, "little")


def parse_place(axon: bytes | None, rate_limit: bytes | None, *, height: int) -> Place:
    """Reads the place of a hotkey that has a uid.

    Args:
        axon: The value under `axon_key`: block u64, version u32, ip u128, port u16, ip type u8,
            protocol u8 and two placeholders of a byte.
        rate_limit: The value under `rate_limit_key`.
        height: The block that says so. A transaction comes into a later one: the time to wait is
            an upper bound.
    """
    limit = DEFAULT_RATE_LIMIT_BLOCKS
    if rate_limit is not None:
        limit = _parse_number(rate_limit, "the rate limit")
    if axon is None:
        return Place(ip="0.0.0.0", port=0, blocks_to_wait=0)  # noqa: S104 - nothing listens there
    if len(axon) != _AXON_BYTES:
        raise NodeAnswerInvalid("gave something else than an axon")
    served = int.from_bytes(axon[:8], "little")
    ip = int.from_bytes(axon[12:28], "little")
    port = int.from_bytes(axon[28:30], "little")
    is_v4 = axon[30] != 6 and ip < 2**32  # noqa: PLR2004 - the type of IPv6, and all of IPv4
    address = ipaddress.IPv4Address(ip) if is_v4 else ipaddress.IPv6Address(ip)
    # `axon_passes_rate_limit`: a first axon passes at any time.
    wait = max(0, served + limit - height) if served and limit else 0
    return Place(ip=str(address), port=port, blocks_to_wait=wait)
