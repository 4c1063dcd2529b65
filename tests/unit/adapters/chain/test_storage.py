"""The chain's layout, held against hash functions from elsewhere and against any bytes."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.adapters.chain import storage
from nexus_auth.adapters.chain.rpc import NodeAnswerInvalid
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.neuron import Place
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.chain import scale
from tests.integration.chain.scale import Axon

NETUID: Final = 515  # 0x0203: the order of its bytes shows
ALICE: Final = a_hotkey("alice")
BOB: Final = a_hotkey("bob")
KEY: Final = public_bytes(a_key("alice"))
BLOCK: Final = "0x" + "ab" * 32

LOOKS_LIKE_TEXT: Final = bytes(range(64, 96))
"""A key that is valid UTF-8, `@ABC..._`."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["block", "changes", "number", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("ours", "item"),
    [
        (storage.certificate_key, "NeuronCertificates"),
        (storage.axon_key, "Axons"),
        (storage.uid_key, "Uids"),
    ],
)
def test_key_of_an_account_is_the_hashes_of_its_names(ours: Any, item: str) -> None:
    """The constants are twox128 of the names, by another implementation."""
    assert ours(NETUID, ALICE) == scale.of_account(item, NETUID, ALICE.account_id)


def test_other_keys_are_the_hashes_of_their_names() -> None:
    """The prefix of a subnet, its rate limit, and the time of the block."""
    assert storage.certificates_prefix(NETUID) == scale.of_subnet("NeuronCertificates", NETUID)
    assert storage.rate_limit_key(NETUID) == scale.of_subnet("ServingRateLimit", NETUID)
    assert scale.prefix("Timestamp", "Now") == storage.NOW_KEY


def a_value(key: bytes, algorithm: int = 1) -> bytes:
    """As the chain stores it."""
    return scale.compact(len(key)) + key + bytes([algorithm])


@pytest.mark.parametrize("key", [KEY, LOOKS_LIKE_TEXT, b"0x" + b"ab" * 15, b"A" * 32, b" " * 32])
def test_key_is_read_as_bytes_whatever_they_look_like(key: bytes) -> None:
    """Nothing is text, nothing is trimmed."""
    assert storage.parse_certificate(a_value(key)) == key


UNUSABLE: Final = {
    "nothing": b"",
    "a length alone": b"\x80",
    "an empty key": a_value(b""),
    "a short key": a_value(KEY[:-1]),
    "a long key": a_value(KEY + b"\0"),
    "a P-256 point": a_value(bytes(range(64)), 2),
    "another algorithm": a_value(KEY, 2),
    "no algorithm": a_value(KEY)[:-1],
    "more behind it": a_value(KEY) + b"\0",
    "a long spelling of the length": b"\x81\x00" + KEY + b"\1",
    "a length of another key": b"\x7c" + KEY + b"\1",
    "a point of small order": a_value(bytes(32)),
    "a second spelling of a point": a_value(b"\xff" * 32),
    "the key alone": KEY,
    "the key as text": a_value(KEY.hex().encode()[:64]),
}


@pytest.mark.parametrize("value", UNUSABLE.values(), ids=UNUSABLE)
def test_value_that_is_no_key_is_unusable(value: bytes) -> None:
    """Its owner may have published it; it proves nothing."""
    assert storage.parse_certificate(value) is None


@given(value=st.binary(max_size=80) | st.binary(min_size=34, max_size=34))
def test_any_value_is_a_usable_key_or_none(value: bytes) -> None:
    """And whatever key is read stands in the value, written in the one way."""
    key = storage.parse_certificate(value)
    assert key is None or (is_usable_public_key(key) and a_value(key) == value)


def a_page(*hotkeys: Any) -> list[str]:
    """The keys of their certificates, in the chain's order."""
    return sorted(storage.to_hex(storage.certificate_key(NETUID, each)) for each in hotkeys)


def parse_page(answer: Any, *, after: bytes | None = None, limit: int = 10) -> list[bytes]:
    """Reads a first page, unless there was one before."""
    prefix = storage.certificates_prefix(NETUID)
    return storage.parse_page(
        answer, netuid=NETUID, after=prefix if after is None else after, limit=limit
    )


def test_page_gives_the_hotkeys_of_its_keys() -> None:
    """The hotkey is the last 32 bytes."""
    keys = parse_page(a_page(ALICE, BOB))
    assert {storage.hotkey_of(key) for key in keys} == {ALICE, BOB}
    assert parse_page(a_page(ALICE, BOB)[1:], after=keys[0]) == keys[1:]


_PAGE: Final = a_page(ALICE, BOB)
_OTHER_SUBNET: Final = storage.to_hex(storage.certificate_key(NETUID + 1, ALICE))
_WRONG_HASH: Final = storage.to_hex(
    storage.certificates_prefix(NETUID) + bytes(16) + ALICE.account_id
)

BAD_PAGES: Final[dict[str, Any]] = {
    "nothing": None,
    "an object": {},
    "a text": _PAGE[0],
    "no texts": [1],
    "more than asked for": [*a_page(ALICE, BOB, a_hotkey("carol"))],
    "a repeated key": [_PAGE[0], _PAGE[0]],
    "backwards": _PAGE[::-1],
    "an axon": [storage.to_hex(storage.axon_key(NETUID, ALICE))],
    "another subnet": [_OTHER_SUBNET],
    "a wrong hash": [_WRONG_HASH],
    "a longer key": [_PAGE[0] + "00"],
    "a shorter key": [_PAGE[0][:-2]],
    "the prefix": [storage.to_hex(storage.certificates_prefix(NETUID))],
    "an empty key": ["0x"],
    "no 0x": [_PAGE[0][2:]],
    "half a byte": [_PAGE[0][:-1]],
    "no hexadecimal": ["0x" + "zz" * 82],
    "another digit": [_PAGE[0][:-1] + "٣"],
    "a line break": [_PAGE[0] + "\n"],
}


@pytest.mark.parametrize("answer", BAD_PAGES.values(), ids=BAD_PAGES)
def test_page_of_anything_else_is_refused(answer: Any) -> None:
    """One key that cannot be there says that the node cannot be believed."""
    with pytest.raises(NodeAnswerInvalid):
        parse_page(answer, limit=2)


def test_page_begins_after_the_one_before() -> None:
    """So pages cannot repeat, and end."""
    keys = parse_page(_PAGE)
    with pytest.raises(NodeAnswerInvalid, match="backwards"):
        parse_page(_PAGE, after=keys[0])


_K1, _K2 = b"one", b"two"
_CHANGES: Final[list[Any]] = [["0x6f6e65", "0x01"], ["0x74776f", None]]


def parse_values(answer: Any) -> Any:
    """Reads the values of two keys."""
    return storage.parse_values(answer, keys=[_K1, _K2], block_hash=BLOCK)


def test_values_are_those_of_all_keys() -> None:
    """In any order; nothing is stored where it says null, or nothing."""
    assert parse_values([{"block": BLOCK, "changes": _CHANGES[:1]}]) == {_K1: b"\1", _K2: None}
    assert parse_values([{"block": BLOCK, "changes": _CHANGES}]) == {_K1: b"\1", _K2: None}
    assert parse_values([{"block": BLOCK, "changes": _CHANGES[::-1]}]) == {_K1: b"\1", _K2: None}


BAD_VALUES: Final = {
    "nothing": None,
    "no block": [],
    "two blocks": [{"block": BLOCK, "changes": _CHANGES}] * 2,
    "another block": [{"block": "0x" + "cd" * 32, "changes": _CHANGES}],
    "no hash": [{"changes": _CHANGES}],
    "no changes": [{"block": BLOCK}],
    "twice": [{"block": BLOCK, "changes": [_CHANGES[0], _CHANGES[0]]}],
    "one too many": [{"block": BLOCK, "changes": [*_CHANGES, _CHANGES[0]]}],
    "another key": [{"block": BLOCK, "changes": [_CHANGES[0], ["0x00", None]]}],
    "a number": [{"block": BLOCK, "changes": [_CHANGES[0], ["0x74776f", 1]]}],
    "no pair": [{"block": BLOCK, "changes": [_CHANGES[0], ["0x74776f"]]}],
    "a triple": [{"block": BLOCK, "changes": [_CHANGES[0], ["0x74776f", None, None]]}],
    "a text": [{"block": BLOCK, "changes": [_CHANGES[0], ["0x74776f", "key"]]}],
}


@pytest.mark.parametrize("answer", BAD_VALUES.values(), ids=BAD_VALUES)
def test_values_of_anything_else_are_refused(answer: Any) -> None:
    """What was asked for is what is answered, each once, at that block."""
    with pytest.raises(NodeAnswerInvalid):
        parse_values(answer)


@example(answer={"number": "0x" + "f" * 16})
@example(answer={"number": "12"})
@given(answer=json_values)
def test_any_answer_is_a_value_or_our_own_error(answer: Any) -> None:
    """Whatever JSON a node writes."""
    for parse in (storage.parse_hash, storage.parse_height, parse_page, parse_values):
        try:
            found = parse(answer)
        except NodeAnswerInvalid:
            continue
        assert parse is parse_page or found is not None


def test_hash_and_height_are_read_as_a_node_writes_them() -> None:
    """A hash in lower case; a height in hexadecimal."""
    assert storage.parse_hash(BLOCK) == BLOCK
    assert storage.parse_height({"number": "0x1f", "parentHash": BLOCK}) == 31
    wrong: list[Any] = [BLOCK.upper(), BLOCK + "00", BLOCK[:-1], None, 7, [BLOCK]]
    for answer in wrong:
        with pytest.raises(NodeAnswerInvalid):
            storage.parse_hash(answer)


def test_time_is_eight_bytes() -> None:
    """Milliseconds, little-endian."""
    assert storage.parse_milliseconds(scale.u64(1_700_000_000_123)) == 1_700_000_000_123
    for value in (b"", bytes(7), bytes(9)):
        with pytest.raises(NodeAnswerInvalid):
            storage.parse_milliseconds(value)


@pytest.mark.parametrize(
    ("served", "limit", "height", "wait"),
    [
        (100, None, 100, 50),
        (100, None, 149, 1),
        (100, None, 150, 0),
        (100, None, 9000, 0),
        (100, 7, 105, 2),
        (100, 0, 100, 0),
        (0, None, 5, 0),
    ],
)
def test_wait_follows_the_rate_limit(
    served: int, limit: int | None, height: int, wait: int
) -> None:
    """50 blocks where the subnet says nothing else; none for a first axon or without a limit."""
    axon = Axon(block=served, ip="192.0.2.7", port=8091)
    place = storage.parse_place(
        axon.encode(), None if limit is None else scale.u64(limit), height=height
    )
    assert place == Place(ip="192.0.2.7", port=8091, blocks_to_wait=wait)


@pytest.mark.parametrize("ip", ["192.0.2.1", "255.255.255.255", "2001:db8::1", "::1", "::"])
def test_address_is_that_of_its_kind(ip: str) -> None:
    """IPv6 too, small numbers included."""
    place = storage.parse_place(Axon(ip=ip, port=1).encode(), None, height=9)
    assert (place.ip, place.port) == (ip, 1)


def test_hotkey_without_an_axon_has_port_zero() -> None:
    """As the chain's own reader says."""
    place = storage.parse_place(None, None, height=9)
    assert (int(ipaddress.ip_address(place.ip)), place.port, place.blocks_to_wait) == (0, 0, 0)


@given(axon=st.none() | st.binary(max_size=40) | st.binary(min_size=34, max_size=34))
def test_any_axon_is_a_place_or_our_own_error(axon: bytes | None) -> None:
    """Whatever bytes are stored there."""
    try:
        place = storage.parse_place(axon, scale.u64(50), height=100)
    except NodeAnswerInvalid:
        assert axon is not None
        assert len(axon) != 34
    else:
        assert 0 <= place.port < 2**16
