from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_auth.adapters.pylon.answers import (
    parse_certificate,
    parse_certificates,
    parse_json,
    parse_json_map,
    parse_key_pair,
    parse_neurons,
)
from nexus_auth.adapters.pylon.api import PylonAnswerInvalid
from tests.builders import a_hotkey, a_key, public_bytes

KEY = public_bytes(a_key("alice"))
SEED = a_key("alice").private_bytes_raw()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def a_document(**changes: Any) -> dict[str, Any]:
    """A certificate document with the changes that are named."""
    return {"algorithm": 1, "public_key": KEY.hex()} | changes


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"<html></html>",
        b"\xff\xfe{}",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":NaN}',
        b"-Infinity",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"{} {}",
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    """Repeated names, constants, absurd depths and numbers are no answer."""
    with pytest.raises(PylonAnswerInvalid):
        parse_json(body)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"\xff\xfe{}", b"{} {}"),
        *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 99_999),
        b"[" * 100_000 + b'"' + b"\\" * 100_000,
        b"[" * 100_000 + b'"' + b'\\"' * 100_000,
    ],
)
def test_what_is_no_json_is_no_map_either(body: bytes) -> None:
    """Only what has its own place in it can be left out."""
    with pytest.raises(PylonAnswerInvalid):
        parse_json_map(body)


def test_reading_what_is_nested_absurdly_deep_takes_little_room() -> None:
    """However much is escaped in it: a hostile Pylon must not end the process."""
    body = b"[" * 100_000 + b'"' + b'\\"' * 500_000
    tracemalloc.start()
    with pytest.raises(PylonAnswerInvalid):
        parse_json_map(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * len(body)


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "-Infinity",
        "9" * 10_000,
        f'{{"algorithm":1,"algorithm":1,"public_key":"{KEY.hex()}"}}',
        f'{{"algorithm":1,"public_key":"{KEY.hex()}","public_key":"{KEY.hex()}"}}',
        f'{{"algorithm":{"9" * 10_000},"public_key":"{KEY.hex()}"}}',
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "[]" + "}" * 100_000,
        # Brackets in texts are no brackets, wherever the text ends.
        "[" * 100_000 + r'"]\"]\\","[{"' + "]" * 100_000,
    ],
)
def test_entry_that_cannot_be_spoils_no_other(value: str) -> None:
    """It is left out, and the others count."""
    good = json.dumps({a_hotkey("alice").address: a_document()})
    body = f'{{"{a_hotkey("bob").address}":{value},{good[1:]}'
    found = parse_certificates(parse_json_map(body.encode()))
    assert (dict(found.keys), found.rejected) == ({a_hotkey("alice"): KEY}, 1)


def test_neuron_that_is_nested_absurdly_deep_spoils_no_other() -> None:
    """Neither does it where the entries are one level further down."""
    good, deep = json.dumps(a_neuron()), "[" * 100_000 + "]" * 100_000
    names = [a_hotkey(name).address for name in ("alice", "bob", "carol")]
    body = f'{{"neurons":{{"{names[0]}":{good},"{names[1]}":{deep},"{names[2]}":{good}}}}}'
    found, rejected = parse_neurons(parse_json_map(body.encode()))
    assert (set(found), rejected) == ({a_hotkey("alice"), a_hotkey("carol")}, 1)


def test_hotkey_that_is_told_twice_has_no_key() -> None:
    """Which of two keys is meant cannot be known, even where they are the same."""
    address, document = a_hotkey("bob").address, json.dumps(a_document())
    body = f'{{"{address}":{document},"{address}":{document}}}'
    found = parse_certificates(parse_json_map(body.encode()))
    assert (dict(found.keys), found.rejected) == ({}, 1)


def test_neurons_that_are_told_twice_are_no_answer() -> None:
    """They are no entry of many."""
    with pytest.raises(PylonAnswerInvalid):
        parse_neurons(parse_json_map(b'{"neurons":{},"neurons":{}}'))


@given(st.binary())
def test_any_bytes_give_a_value_or_our_error(body: bytes) -> None:
    """Nothing else escapes, whatever comes."""
    for parse in (parse_json, parse_json_map):
        with suppress(PylonAnswerInvalid):
            parse(body)


@given(JSON)
def test_any_document_gives_a_value_or_our_error(document: object) -> None:
    """Every reader is total."""
    for parse in (parse_certificate, parse_certificates, parse_key_pair, parse_neurons):
        with suppress(PylonAnswerInvalid):
            parse(document)


@pytest.mark.parametrize(
    "text", [KEY.hex(), "0x" + KEY.hex(), "0X" + KEY.hex().upper(), KEY.hex().upper()]
)
def test_key_is_read_in_every_spelling(text: str) -> None:
    """With 0x or without, in either case."""
    assert parse_certificate(a_document(public_key=text)) == KEY


BAD_ALGORITHMS: list[object] = [0, 2, True, 1.0, "1", None, [1], -1]
BAD_KEYS: list[object] = [
    *(None, 1, [], KEY.hex()[:-1], KEY.hex()[1:], KEY.hex()[:-2], KEY.hex() + "00"),
    *("", "0x", "0x0x" + KEY.hex(), f" {KEY.hex()}", f"{KEY.hex()}\n", "zz" * 32),
    *("\u0661" * 64, "00" * 32, "01" + "00" * 31, f"{KEY.hex()[:63]}_"),
]
BAD_DOCUMENTS: list[object] = [
    *(a_document(algorithm=each) for each in BAD_ALGORITHMS),
    *(a_document(public_key=each) for each in BAD_KEYS),
    {"algorithm": 1},
    {"public_key": KEY.hex()},
    [],
    None,
    "text",
    1,
]


@pytest.mark.parametrize("document", BAD_DOCUMENTS)
def test_certificate_that_is_none_is_refused(document: object) -> None:
    """Other algorithms, lengths, alphabets, shapes and keys of small order."""
    with pytest.raises(PylonAnswerInvalid):
        parse_certificate(document)


def test_bad_entries_never_spoil_good_ones() -> None:
    """They are left out and counted."""
    answer: dict[str, object] = {str(a_hotkey("alice")): a_document()}
    answer |= {str(a_hotkey(str(number))): bad for number, bad in enumerate(BAD_DOCUMENTS)}
    answer |= {"self": a_document(), "": a_document(), f" {a_hotkey('alice')}": a_document()}
    found = parse_certificates(answer)
    assert found.keys == {a_hotkey("alice"): KEY}
    assert found.rejected == len(BAD_DOCUMENTS) + 3


@pytest.mark.parametrize("answer", [[], None, "x", 1, {"status_code": 200, "detail": "?"}])
def test_certificates_that_are_no_map_are_refused(answer: object) -> None:
    """An error body with status 200 is no empty subnet."""
    with pytest.raises(PylonAnswerInvalid):
        parse_certificates(answer)


def test_no_certificates_are_an_answer() -> None:
    """A subnet may have no keys at all."""
    assert parse_certificates({}).keys == {}


@pytest.mark.parametrize(
    "private_key",
    [
        *(SEED.hex(), "0x" + SEED.hex().upper(), (SEED + KEY).hex(), "0x" + (SEED + KEY).hex()),
        f" 0x{SEED.hex()}\r\n",  # the original takes white space off
    ],
)
def test_pair_is_read_in_both_forms(private_key: str) -> None:
    """The seed alone, or followed by the public key."""
    pair = parse_key_pair(a_document(private_key=private_key))
    assert (pair.public_key, pair.private_key) == (KEY, SEED)


OTHER = a_key("mallory").private_bytes_raw()


@pytest.mark.parametrize(
    "private_key",
    [
        *(None, "", 1, SEED.hex()[:-1], SEED.hex() + "00", OTHER.hex(), (SEED + SEED).hex()),
        *((OTHER + KEY).hex(), (SEED + KEY + KEY).hex()),
    ],
)
def test_pair_whose_halves_do_not_belong_together_is_refused(private_key: object) -> None:
    """It would be a certificate that never works. No digit of it is repeated."""
    with pytest.raises(PylonAnswerInvalid) as caught:
        parse_key_pair(a_document(private_key=private_key))
    assert SEED.hex()[:8] not in str(caught.value)
    assert OTHER.hex()[:8] not in str(caught.value)


def a_neuron(**changes: Any) -> dict[str, Any]:
    """A neuron document with the changes that are named."""
    stakes = {"alpha": 1.5, "tao": 2, "total": 3.5}
    return {"uid": 7, "active": True, "validator_permit": False, "stakes": stakes} | changes


def test_neurons_are_read_and_bad_ones_counted() -> None:
    """Numbers that cannot be, and wrong types, are left out."""
    bad: list[object] = [
        None,
        {},
        a_neuron(uid=True),
        a_neuron(uid=-1),
        a_neuron(uid=70_000),
        a_neuron(active=1),
        a_neuron(validator_permit="true"),
        a_neuron(stakes=None),
        a_neuron(stakes={"alpha": 1, "tao": 1}),
        a_neuron(stakes={"alpha": float("inf"), "tao": 1, "total": 1}),
        a_neuron(stakes={"alpha": 10**400, "tao": 1, "total": 1}),
        a_neuron(stakes={"alpha": True, "tao": 1, "total": 1}),
    ]
    entries: dict[str, object] = {str(a_hotkey("alice")): a_neuron()}
    entries |= {str(a_hotkey(str(n))): each for n, each in enumerate(bad)}
    neurons, rejected = parse_neurons({"neurons": entries})
    assert rejected == len(bad)
    [(hotkey, neuron)] = neurons.items()
    assert hotkey == a_hotkey("alice")
    assert (neuron.uid, neuron.active, neuron.validator_permit) == (7, True, False)
    assert (neuron.alpha, neuron.tao, neuron.total) == (1.5, 2.0, 3.5)


def test_big_but_honest_number_is_read() -> None:
    """What Python reads as infinity is refused, what is only long is not."""
    assert json.loads("1e400") == float("inf")
    with pytest.raises(PylonAnswerInvalid):
        parse_certificate(parse_json(b'{"algorithm":1e0,"public_key":"%s"}' % KEY.hex().encode()))
