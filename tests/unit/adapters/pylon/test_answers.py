from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus_auth.adapters.pylon import answers
from nexus_auth.adapters.pylon.answers import MAX_ENTRIES, MAX_ENTRY_BYTES
from nexus_auth.adapters.pylon.api import PylonAnswerInvalid
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron, Place
from nexus_auth.domain.ports import IssuedKeyPair, KeyMap
from tests.builders import a_hotkey, a_key, public_bytes

T = TypeVar("T")

KEY = public_bytes(a_key("alice"))
SEED = a_key("alice").private_bytes_raw()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a parser returns that lets other tasks run in between, here without an event loop."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value


def as_body(document: object) -> bytes:
    """A document as Pylon sends it; bytes stay as they are."""
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def parse_certificate(document: object) -> bytes:
    """The key in one certificate."""
    return answers.parse_certificate(as_body(document))


def parse_key_pair(document: object) -> IssuedKeyPair:
    """A generated pair."""
    return answers.parse_key_pair(as_body(document))


def parse_certificates(document: object) -> KeyMap:
    """All the keys."""
    return finished(answers.parse_certificates(as_body(document)))


def parse_neurons(document: object) -> tuple[Mapping[Hotkey, Neuron], int]:
    """All the neurons."""
    return finished(answers.parse_neurons(as_body(document)))


def parse_place(document: object) -> Place | None:
    """As bytes or as what is to become JSON: alice's place."""
    return finished(answers.parse_place(as_body(document), a_hotkey("alice")))


PARSERS = (parse_certificate, parse_certificates, parse_key_pair, parse_neurons, parse_place)


def a_document(**changes: Any) -> dict[str, Any]:
    """A certificate document with the changes that are named."""
    return {"algorithm": 1, "public_key": KEY.hex()} | changes


GOOD = as_body({"algorithm": 1, "public_key": KEY.hex(), "private_key": SEED.hex()})
ALICE, BOB = (a_hotkey(name).address for name in ("alice", "bob"))


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"<html></html>", b"\xff\xfe{}", b"{} {}", b"-Infinity", b"9" * 10_000),
        *(b"\xef\xbb\xbf" + GOOD, b"\0" + GOOD, GOOD + b"\0", GOOD + GOOD, GOOD[:-1] + b",}"),
        *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 99_999),
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000 + b'"' + b"\\" * 100_000,
        b'{"a":NaN}',
        b'{"a":"\\ud800 alone"}',
        b'{"a":"\x01"}',
        b'{"\xff":1}',
    ],
)
def test_what_is_not_json_is_no_answer(body: bytes) -> None:
    """One kind of error, also for a byte order mark, NUL, a lone surrogate and absurd depths."""
    for parse in PARSERS:
        with pytest.raises(PylonAnswerInvalid):
            parse(body)


REPEATED = [
    f'{{"algorithm":1,"algorithm":1,"public_key":"{KEY.hex()}"}}',
    f'{{"algorithm":1,"public_key":"{KEY.hex()}","public_key":"{KEY.hex()}"}}',
    f'{{"algorithm":1,"public_key":"{KEY.hex()}","public\\u005fkey":"{KEY.hex()}"}}',
    f'{{"algorithm":1,"public_key":"{KEY.hex()}","x":1,"x":1}}',
]


@pytest.mark.parametrize("body", REPEATED)
def test_certificate_with_a_repeated_name_is_refused(body: str) -> None:
    """Which value is meant cannot be known, however the name is spelt."""
    with pytest.raises(PylonAnswerInvalid):
        parse_certificate(body.encode())


@pytest.mark.parametrize(
    "value",
    [
        *REPEATED,
        "9" * 10_000,
        "1e999",
        f'{{"algorithm":{"9" * 3000},"public_key":"{KEY.hex()}"}}',
        f'{{"algorithm":1,"public_key":"{KEY.hex()[1:]}"}}',
        f'{{"algorithm":1,"public_key":"{KEY.hex()}","x":"{"x" * MAX_ENTRY_BYTES}"}}',
        '{"algorithm":1,"public_key":"\\u0000"}',
        '"' + "x" * 100_000 + '"',
        "[" * 500 + "]" * 500,
        '{"a":' * 500 + "[]" + "}" * 500,
    ],
)
def test_one_bad_entry_among_certificates_spoils_no_other(value: str) -> None:
    """It is left out, and the others count: repeated names, long numbers, odd lengths, depths."""
    good = json.dumps({ALICE: a_document()})
    found = parse_certificates(f'{{"{BOB}":{value},{good[1:]}'.encode())
    assert (dict(found.keys), found.rejected) == ({a_hotkey("alice"): KEY}, 1)


def test_text_that_is_not_utf_8_spoils_no_other_entry() -> None:
    """It is not read before its entry is."""
    bad = b'{"algorithm":1,"public_key":"\xff"}'
    found = parse_certificates(b'{"%s":%s,"%s":%s}' % (BOB.encode(), bad, ALICE.encode(), GOOD))
    assert (dict(found.keys), found.rejected) == ({a_hotkey("alice"): KEY}, 1)


def test_entry_as_long_as_an_entry_may_be_counts() -> None:
    """The bound is not below what it says."""
    entry = as_body(a_document(x=""))
    entry = entry.replace(b'""', b'"' + b"x" * (MAX_ENTRY_BYTES - len(entry)) + b'"')
    assert len(entry) == MAX_ENTRY_BYTES
    assert parse_certificates(b'{"%s":%s}' % (ALICE.encode(), entry)).rejected == 0


def test_hotkey_that_is_told_twice_has_no_key() -> None:
    """Which of two keys is meant cannot be known, even where they are the same."""
    body = b'{"%s":%s,"%s":%s}' % (BOB.encode(), GOOD, BOB.encode(), GOOD)
    found = parse_certificates(body)
    assert (dict(found.keys), found.rejected) == ({}, 1)


@pytest.mark.parametrize("count", [4096, MAX_ENTRIES, MAX_ENTRIES + 1])
def test_entries_are_counted(count: int) -> None:
    """The largest subnet fits twice; one entry more than that, and nothing of it is read."""
    body = as_body({str(number): 0 for number in range(count)})
    if count > MAX_ENTRIES:
        with pytest.raises(PylonAnswerInvalid):
            parse_certificates(body)
    else:
        assert parse_certificates(body).rejected == count


async def test_other_tasks_run_while_a_large_answer_is_read() -> None:
    """A known caller never waits for all of it."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    names = [a_hotkey(str(number)).address for number in range(1000)]
    await answers.parse_certificates(as_body(dict.fromkeys(names, a_document())))
    await answers.parse_neurons(as_body({"neurons": dict.fromkeys(names, a_neuron())}))
    counting.cancel()
    # Not at each entry either: the other tasks would have most of the time.
    assert 2 * 1000 // 16 <= turns < 2 * 1000 // 8


def test_other_tasks_run_between_the_two_passes_over_the_neurons() -> None:
    """Each may be over an answer of the largest size."""
    reading = answers.parse_neurons(b'{"neurons":{}}')
    reading.send(None)
    with pytest.raises(StopIteration):
        reading.send(None)


def test_neurons_that_are_told_twice_are_no_answer() -> None:
    """They are no entry of many."""
    with pytest.raises(PylonAnswerInvalid):
        parse_neurons(b'{"neurons":{},"neurons":{}}')


@given(st.binary())
@example(GOOD)
def test_any_bytes_give_a_value_or_our_error(body: bytes) -> None:
    """Nothing else escapes, whatever comes."""
    for parse in PARSERS:
        with suppress(PylonAnswerInvalid):
            parse(body)
    answers.parse_detail(body)


@given(JSON)
def test_any_document_gives_a_value_or_our_error(document: object) -> None:
    """Every reader is total."""
    for parse in PARSERS:
        with suppress(PylonAnswerInvalid):
            parse(document)
        with suppress(PylonAnswerInvalid):
            parse({ALICE: document, "neurons": {ALICE: document}})


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"status_code":404,"detail":"Not Found"}', "Not Found"),
        *((body, "") for body in (b"", b"{}", b"[]", b'{"detail":1}', b"[" * 10_000, b"\xff")),
    ],
)
def test_detail_of_an_error_is_read_where_there_is_one(body: bytes, detail: str) -> None:
    """Anything else is an error without a detail."""
    assert answers.parse_detail(body) == detail


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
    *(f"{KEY.hex()}0", "x" * 64, f"{KEY.hex()[:63]}x", f"{KEY.hex()[:63]}g"),
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
    answer: dict[str, object] = {ALICE: a_document()}
    answer |= {str(a_hotkey(str(number))): bad for number, bad in enumerate(BAD_DOCUMENTS)}
    answer |= {"self": a_document(), "": a_document(), f" {a_hotkey('alice')}": a_document()}
    found = parse_certificates(answer)
    assert found.keys == {a_hotkey("alice"): KEY}
    assert found.rejected == len(BAD_DOCUMENTS) + 3


@pytest.mark.parametrize("answer", [[], None, "x", 1, {"status_code": 500}, {"detail": "?"}])
def test_certificates_that_are_no_map_are_refused(answer: object) -> None:
    """An error body with status 200 is no empty subnet."""
    with pytest.raises(PylonAnswerInvalid):
        parse_certificates(answer)


def test_keys_beside_the_name_of_an_error_count() -> None:
    """They are an answer: an entry that is none spoils no other, whatever its name."""
    found = parse_certificates({"detail": "?", ALICE: a_document()})
    assert (dict(found.keys), found.rejected) == ({a_hotkey("alice"): KEY}, 1)


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


def test_pair_is_never_shown() -> None:
    """Not even in a traceback that shows local variables."""
    assert SEED.hex() not in repr(answers._KeyPair(1, KEY.hex(), SEED.hex()))


STAKES: dict[str, object] = {"alpha": 1.5, "tao": 2, "total": 3.5}


def a_neuron(**changes: Any) -> dict[str, Any]:
    """A neuron document with the changes that are named."""
    return {"uid": 7, "active": True, "validator_permit": False, "stakes": STAKES} | changes


NO_FLAGS: list[object] = [0, 1, None, "true", []]
NO_STAKES: list[object] = [None, [], 1, {}, {"alpha": 1, "tao": 1}]
BAD_STAKES: list[object] = [10**400, True, "1", None, -1, [1]]
BAD_UIDS: list[object] = [True, -1, 70_000, 1.0, "7", None, 10**400]
BAD_NEURONS: list[object] = [
    *(None, {}, [], "text", 1),
    *(a_neuron(uid=bad) for bad in BAD_UIDS),
    *(a_neuron(active=bad) for bad in NO_FLAGS),
    *(a_neuron(validator_permit=bad) for bad in NO_FLAGS),
    *(a_neuron(stakes=bad) for bad in NO_STAKES),
    *(a_neuron(stakes=STAKES | {"alpha": bad}) for bad in BAD_STAKES),
    a_neuron(x="x" * MAX_ENTRY_BYTES),
    as_body(a_neuron()).replace(b'"alpha": 1.5', b'"alpha": 1e999'),
    as_body(a_neuron()).replace(b'"alpha": 1.5', b'"alpha": 1, "alpha": 1'),
    as_body(a_neuron()).replace(b'"uid": 7', b'"uid": 7, "uid": 7'),
    as_body(a_neuron()).replace(b'"uid": 7', b'"uid": 7, "x": "\xff", "uid": 7'),
]


@pytest.mark.parametrize("bad", BAD_NEURONS)
def test_one_bad_entry_among_neurons_spoils_no_other(bad: object) -> None:
    """Numbers that cannot be, wrong types and repeated names are left out, and counted."""
    entries = b'"%s":%s,"%s":%s' % (
        *(BOB.encode(), as_body(bad)),
        *(ALICE.encode(), as_body(a_neuron())),
    )
    neurons, rejected = parse_neurons(b'{"block":{"number":1},"neurons":{%s}}' % entries)
    assert rejected == 1
    [(hotkey, neuron)] = neurons.items()
    assert hotkey == a_hotkey("alice")
    assert (neuron.uid, neuron.active, neuron.validator_permit) == (7, True, False)
    assert (neuron.alpha, neuron.tao, neuron.total) == (1.5, 2.0, 3.5)


@pytest.mark.parametrize("answer", [[], None, {}, {"neurons": None}, {"neurons": []}])
def test_neurons_that_are_no_map_are_refused(answer: object) -> None:
    """Nothing is no empty subnet."""
    with pytest.raises(PylonAnswerInvalid):
        parse_neurons(answer)


AXON: dict[str, object] = {"ip": "192.0.2.7", "port": 8091, "protocol": 4}


def placed(axon: object, *, other: object = None) -> dict[str, Any]:
    """Neurons with alice, who has this axon, and bob."""
    return {"neurons": {BOB: other, ALICE: a_neuron(axon_info=axon)}}


@pytest.mark.parametrize(
    ("axon", "place"),
    [
        (AXON, Place(ip="192.0.2.7", port=8091)),
        ({"ip": "0:0::0", "port": 0}, Place(ip="::", port=0)),
        ({"ip": "2001:DB8::1", "port": 65_535}, Place(ip="2001:db8::1", port=65_535)),
    ],
)
def test_place_is_read_whatever_the_other_neurons_are(axon: object, place: Place) -> None:
    """Only what is needed; Pylon does not say how long the rate limit lasts."""
    others: list[object] = [None, [], "x" * MAX_ENTRY_BYTES]
    for other in others:
        found = parse_place(placed(axon, other=other))
        assert found == place
        assert found.blocks_to_wait is None


def test_hotkey_that_is_no_neuron_has_no_place() -> None:
    """In an empty subnet too."""
    assert parse_place({"neurons": {}}) is None
    assert parse_place({"neurons": {BOB: a_neuron(axon_info=AXON)}}) is None


NO_AXONS: list[object] = [
    *(None, [], 1, "text", {}),
    *(AXON | {"port": bad} for bad in (-1, 65_536, 1.0, True, "1", None, 10**400)),
    *(AXON | {"ip": bad} for bad in ("", "localhost", "1.2.3", 1, None, "1.2.3.4/8")),
]


@pytest.mark.parametrize(
    "document",
    [
        *map(placed, NO_AXONS),
        placed(AXON | {"x": "x" * MAX_ENTRY_BYTES}),
        {"neurons": {ALICE: a_neuron()}},
        {"neurons": {ALICE: None}},
        *({}, [], {"neurons": None}, {"neurons": []}),
        as_body(placed(AXON)).replace(b'"port": 8091', b'"port": 8091, "port": 0'),
        b'{"neurons":{"%s":{},"%s":{}}}' % (ALICE.encode(), ALICE.encode()),
    ],
)
def test_place_that_is_none_is_no_answer(document: object) -> None:
    """It is unknown then, and not "no place", which would be a reason to stop."""
    with pytest.raises(PylonAnswerInvalid):
        parse_place(document)
