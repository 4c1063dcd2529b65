from __future__ import annotations

import hashlib
import pickle

import base58
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.domain.errors import InvalidHotkey
from nexus_auth.domain.hotkey import Hotkey
from tests.builders import a_hotkey

# The well-known development account //Alice (Substrate documentation).
ALICE = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
ALICE_ID = bytes.fromhex("d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d")

account_ids = st.binary(min_size=32, max_size=32)


def ss58(payload: bytes, *, checksum_bytes: int = 2) -> str:
    """SS58 by the general library: an oracle that shares no code with ours."""
    checksum = hashlib.blake2b(b"SS58PRE" + payload).digest()[:checksum_bytes]
    return base58.b58encode(payload + checksum).decode()


def test_known_address_is_read_and_written() -> None:
    """The address of a known account has its known account id, both ways."""
    assert Hotkey.parse(ALICE) == Hotkey(ALICE_ID)
    assert Hotkey(ALICE_ID).address == ALICE


@given(account_ids)
@example(bytes(32))
@example(b"\xff" * 32)
def test_address_agrees_with_general_library_and_round_trips(account_id: bytes) -> None:
    """Our fixed-width base58 writes what a general library writes, and reads it back."""
    address = Hotkey(account_id).address
    assert address == ss58(b"\x2a" + account_id)
    assert Hotkey.parse(address).account_id == account_id


@given(account_ids, st.integers(0, 47), st.sampled_from("123456789ABCXYZabcxyz0OIl +\n"))
def test_one_other_character_is_refused_or_changes_nothing(
    account_id: bytes, place: int, other: str
) -> None:
    """Whatever parses is its own only spelling, so no key has two names."""
    address = Hotkey(account_id).address
    changed = address[:place] + other + address[place + 1 :]
    try:
        parsed = Hotkey.parse(changed)
    except InvalidHotkey:
        assert changed != address
    else:
        assert parsed.address == changed


@given(st.text())
@example("5" + "z" * 47)
@example("51" + "1" * 46)
@example("\ud800" * 48)
def test_any_text_is_an_address_or_our_error(text: str) -> None:
    """No text makes the parser raise anything but `InvalidHotkey`."""
    try:
        parsed = Hotkey.parse(text)
    except InvalidHotkey as exc:
        message = str(exc)
        # Nothing that a stranger wrote is repeated; single letters occur in any sentence.
        assert len(text) < 8 or text not in message
    else:
        assert parsed.address == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(ALICE + " ", id="space after"),
        pytest.param(" " + ALICE, id="space before"),
        pytest.param(ALICE + "\n", id="newline after"),
        pytest.param(ALICE + "\0", id="NUL after"),
        pytest.param(ALICE[:20] + "\u200b" + ALICE[20:], id="zero-width space inside"),
        pytest.param(ALICE.replace("5", "\uff15", 1), id="full-width digit"),
        pytest.param(ALICE.replace("a", "\u0430", 1), id="Cyrillic letter"),
        pytest.param("1" + ALICE, id="leading one"),
        pytest.param(ALICE[:-1], id="one short"),
        pytest.param(ALICE[:-1] + "Z", id="wrong checksum"),
        pytest.param(ALICE.swapcase(), id="other case"),
        pytest.param("0x" + ALICE_ID.hex(), id="hex"),
        pytest.param("../" + ALICE, id="path"),
        pytest.param("self", id="self"),
        pytest.param("latest", id="latest"),
        pytest.param(ss58(b"\x00" + ALICE_ID), id="Polkadot prefix"),
        pytest.param(ss58(b"\x29" + ALICE_ID), id="prefix 41"),
        pytest.param(ss58(b"\x2b" + ALICE_ID), id="prefix 43"),
        pytest.param(ss58(b"\x6a\x80" + ALICE_ID), id="two-byte prefix 42"),
        pytest.param(ss58(b"\x2a" + ALICE_ID[:31]), id="31 bytes"),
        pytest.param(ss58(b"\x2a" + ALICE_ID + b"\0"), id="33 bytes"),
        pytest.param(ss58(b"\x2a" + ALICE_ID, checksum_bytes=1), id="short checksum"),
        pytest.param(ss58(b"\x2a" + ALICE_ID, checksum_bytes=3), id="long checksum"),
    ],
)
def test_anything_but_an_address_is_refused(text: str) -> None:
    """Nothing is trimmed, repaired or guessed."""
    with pytest.raises(InvalidHotkey):
        Hotkey.parse(text)


@pytest.mark.parametrize(
    "account_id",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(31), id="short"),
        pytest.param(bytes(33), id="long"),
        pytest.param(bytearray(32), id="mutable"),
        pytest.param("x" * 32, id="text"),
    ],
)
def test_anything_but_32_bytes_is_no_account_id(account_id: bytes) -> None:
    """If an instance exists, it is valid."""
    with pytest.raises(InvalidHotkey):
        Hotkey(account_id)


def test_hotkeys_compare_by_account_id() -> None:
    """Two hotkeys are the same when their account ids are, and work as keys."""
    assert {Hotkey.parse(ALICE): 1} == {Hotkey(ALICE_ID): 1}
    assert Hotkey(ALICE_ID) != a_hotkey()
    assert pickle.loads(pickle.dumps(a_hotkey())) == a_hotkey()  # noqa: S301 - our own bytes


def test_text_forms_show_the_address() -> None:
    """`str` is the address; `repr` can be pasted back."""
    assert str(Hotkey(ALICE_ID)) == ALICE
    assert repr(Hotkey(ALICE_ID)) == f"Hotkey.parse('{ALICE}')"


def test_address_follows_from_the_account_id_alone() -> None:
    """Nothing else can be given for it."""
    with pytest.raises(TypeError):
        Hotkey(bytes(32), "5x")  # type: ignore[call-arg] # The point of the test.
