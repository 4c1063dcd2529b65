"""SS58 in all its forms, of which one names a hotkey.

Source: the SS58 address format of Substrate's documentation: a prefix of one byte (0 to 63) or two
(64 to 16383), an account of 1, 2, 4, 8, 32 or 33 bytes, and a checksum of 1 to 8 bytes of
blake2b-512 over `SS58PRE`, prefix and account.
"""

from __future__ import annotations

import hashlib
from typing import Final

import base58
import pytest

from nexus_auth.domain.errors import InvalidHotkey
from nexus_auth.domain.hotkey import SS58_PREFIX, Hotkey

PREFIXES: Final = 16384
ONE_BYTE_PREFIXES: Final = 64

# The development accounts of Substrate (`subkey inspect //Alice` and so on): published names and
# public keys.
DEVELOPMENT_ACCOUNTS: Final = {
    "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY": (
        "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
    ),
    "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty": (
        "8eaf04151687736326c9fea17e25fc5287613693c912909cb226aa4794f26a48"
    ),
    "5FLSigC9HGRKVhB9FiEo4Y3koPsNmBmLJbpXg2mp1hXcS59Y": (
        "90b5ab205c6974c9ea841be688864633dc9ca8a357843eeacf2314649965fe22"
    ),
    "5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy": (
        "306721211d5404bd9da88e0204360a1a9ab8b87c66c1bc2fcdd37f3c2222cc20"
    ),
    "5HGjWAeFDfFCWPsjFQdVV2Msvz2XtMktvgocEZcCj68kUMaw": (
        "e659a7a1628cdd93febc04a4e0646ea20e9f5f0ce097d9a05290d4a9e054df4e"
    ),
    "5CiPPseXPECbkjWCa6MnjNokrgYjMqmKndv2rSnekmSK2DjL": (
        "1cbd2d43530a44705ad088af313e18f80b53ef16b36177cd4b77b846f2a5f07c"
    ),
}
ALICE: Final = bytes.fromhex(next(iter(DEVELOPMENT_ACCOUNTS.values())))

# Alice on other networks: prefix 0 (Polkadot) and 2 (Kusama).
ALICE_ELSEWHERE: Final = {
    0: "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5",
    2: "HNZata7iMYWmk5RvZRTiAsSDhV8366zq2YGb3tLH5Upf74F",
}


def prefix_bytes(prefix: int, *, size: int | None = None) -> bytes:
    """A network's prefix: one byte, or two with the marker and the bits in SS58's order."""
    if size == 1 or (size is None and prefix < ONE_BYTE_PREFIXES):
        return bytes([prefix])
    return bytes([0x40 | prefix >> 2 & 0x3F, prefix >> 8 | (prefix & 0x03) << 6])


def ss58(payload: bytes, *, checksum_bytes: int = 2, flip: int = 0) -> str:
    """An address by the general library; `flip` spoils bits of the checksum."""
    checksum = hashlib.blake2b(b"SS58PRE" + payload).digest()[:checksum_bytes]
    spoilt = int.from_bytes(checksum, "big") ^ flip
    return base58.b58encode(payload + spoilt.to_bytes(checksum_bytes, "big")).decode("ascii")


def is_hotkey(text: str) -> bool:
    """Whether the text names a hotkey; nothing but our own error may come instead."""
    try:
        return Hotkey.parse(text).address == text
    except InvalidHotkey:
        return False


@pytest.mark.parametrize(("address", "account"), DEVELOPMENT_ACCOUNTS.items())
def test_published_addresses_have_their_published_accounts(address: str, account: str) -> None:
    """Both ways."""
    assert Hotkey.parse(address).account_id == bytes.fromhex(account)
    assert Hotkey(bytes.fromhex(account)).address == address


@pytest.mark.parametrize(("prefix", "address"), ALICE_ELSEWHERE.items())
def test_published_addresses_of_other_networks_are_refused(prefix: int, address: str) -> None:
    """The same account under another network's prefix is no name here."""
    assert ss58(prefix_bytes(prefix) + ALICE) == address
    assert not is_hotkey(address)


def test_of_all_prefixes_one_is_accepted() -> None:
    """All 16,384 of them, with the right account and the right checksum."""
    accepted = [each for each in range(PREFIXES) if is_hotkey(ss58(prefix_bytes(each) + ALICE))]
    assert accepted == [SS58_PREFIX]


def test_a_small_prefix_in_two_bytes_is_refused() -> None:
    """A second spelling of the networks below 64, ours among them."""
    for prefix in range(ONE_BYTE_PREFIXES):
        assert not is_hotkey(ss58(prefix_bytes(prefix, size=2) + ALICE))


def test_a_large_prefix_in_one_byte_is_refused() -> None:
    """The bytes 64 to 255 begin two-byte prefixes, or are reserved."""
    for prefix in range(ONE_BYTE_PREFIXES, 256):
        assert not is_hotkey(ss58(prefix_bytes(prefix, size=1) + ALICE))
        assert not is_hotkey(ss58(prefix_bytes(prefix, size=1) + ALICE[1:]))


def test_of_all_lengths_and_checksums_one_is_accepted() -> None:
    """Accounts of 1 to 40 bytes with checksums of 1 to 8: 32 and 2."""
    account = (ALICE + ALICE)[:40]
    accepted = [
        (size, checksum_bytes)
        for size in range(1, 41)
        for checksum_bytes in range(1, 9)
        if is_hotkey(
            ss58(prefix_bytes(SS58_PREFIX) + account[:size], checksum_bytes=checksum_bytes)
        )
    ]
    assert accepted == [(32, 2)]


@pytest.mark.parametrize("fill", [b"\0", b"\xff"], ids=["zeros", "ones"])
def test_accounts_at_both_ends_have_one_spelling(fill: bytes) -> None:
    """The smallest and the largest number keep their width."""
    assert is_hotkey(ss58(prefix_bytes(SS58_PREFIX) + fill * 32))
    for size in (31, 33):
        assert not is_hotkey(ss58(prefix_bytes(SS58_PREFIX) + fill * size))


def test_any_flipped_bits_of_the_checksum_are_refused() -> None:
    """One or two bits of the sixteen, and all of them."""
    flips = {1 << one | 1 << other for one in range(16) for other in range(16)} | {0xFFFF}
    assert len(flips) == 16 + 16 * 15 // 2 + 1
    payload = prefix_bytes(SS58_PREFIX) + ALICE
    assert is_hotkey(ss58(payload))
    assert not any(is_hotkey(ss58(payload, flip=flip)) for flip in flips)


def test_any_flipped_bit_of_the_account_is_refused() -> None:
    """The checksum is over the account."""
    checksum = base58.b58decode(ss58(prefix_bytes(SS58_PREFIX) + ALICE))[-2:]
    for place in range(8 * len(ALICE)):
        other = bytearray(ALICE)
        other[place // 8] ^= 1 << place % 8
        text = base58.b58encode(prefix_bytes(SS58_PREFIX) + bytes(other) + checksum).decode()
        assert not is_hotkey(text)


def test_checksum_over_another_context_is_refused() -> None:
    """Not the bare hash, not the hash of the account alone, not another hash."""
    payload = prefix_bytes(SS58_PREFIX) + ALICE
    for checksum in (
        hashlib.blake2b(payload).digest(),
        hashlib.blake2b(b"SS58PRE" + ALICE).digest(),
        hashlib.blake2b(b"SS58PRE" + payload, digest_size=32).digest(),
        hashlib.sha256(hashlib.sha256(payload).digest()).digest(),
    ):
        assert not is_hotkey(base58.b58encode(payload + checksum[:2]).decode())
