"""What is believed of a node's answers about neurons, and what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_auth.adapters.chain import neurons
from nexus_auth.adapters.chain.neuron_decoder import API, FIELDS, METHOD
from nexus_auth.adapters.chain.neurons import MAX_ANSWER_BYTES, MAX_NEURONS, NeuronReader
from nexus_auth.domain.errors import RegistryAnswerInvalid, RegistryError, RegistryUnavailable
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from tests.builders import a_hotkey
from tests.integration.chain import scale
from tests.integration.chain.metadata import Registry, as_answer
from tests.integration.chain.scale import Seat, compact, vector
from tests.unit.adapters.registry.sources import until

NETUID: Final = 7
AT: Final = "0x" + "ab" * 32
TAO: Final = 10**9

ALICE: Final = Seat(
    account=a_hotkey("alice").account_id,
    validator_permit=True,
    alpha=5 * TAO,
    tao=3 * TAO,
    total=6 * TAO + 1,
)
BOB: Final = Seat(account=a_hotkey("bob").account_id, active=False)

BOOLS: Final = "active", "validator_permit"
STAKES: Final = "alpha_stake", "tao_stake", "total_stake"


def small_metadata(
    *, names: Sequence[str] = FIELDS, hotkeys: str = "account", stakes: str = "u64"
) -> bytes:
    """A runtime whose answer has these fields and no others."""
    types = Registry()
    bools = types.option(types.sequence(types.primitive("bool")))
    numbers = types.option(types.sequence(types.compact(types.primitive(stakes))))
    netuid = types.compact(types.primitive("u16"))
    names_of = types.account() if hotkeys == "account" else types.primitive(hotkeys)
    lists = types.option(types.sequence(names_of))
    kinds = {"netuid": netuid, "hotkeys": lists, **dict.fromkeys(BOOLS, bools)}
    fields = [(name, kinds.get(name, numbers)) for name in names]
    return types.metadata(API, [(METHOD, [], types.option(types.composite(fields)))])


def small_answer(
    *, hotkeys: Sequence[bytes], stakes: Sequence[int] | None = None, bools: bytes | None = None
) -> bytes:
    """What such a runtime says."""
    count = len(hotkeys)
    flags = b"\1" + (vector([b"\1"] * count) if bools is None else bools)
    amounts = [0] * count if stakes is None else stakes
    numbers = b"\1" + vector([compact(each) for each in amounts])
    return b"\1" + compact(NETUID) + b"\1" + vector(hotkeys) + flags * 2 + numbers * 3


class FakeNode:
    """Answers as a node does, with one runtime."""

    def __init__(self, *, metadata: bytes, answer: bytes) -> None:
        self.results: dict[str, Any] = {
            "state_getRuntimeVersion": {"specVersion": 318},
            "Metadata_metadata_at_version": "0x" + as_answer(metadata).hex(),
            f"{API}_{METHOD}": "0x" + answer.hex(),
        }
        self.asked: list[tuple[str, list[Any]]] = []

    async def call(self, method: str, params: list[Any]) -> Any:
        self.asked.append((method, params))
        return self.results[params[0] if method == "state_call" else method]

    def count(self, name: str) -> int:
        return sum(name in {method, params[0]} for method, params in self.asked)


def a_node(*seats: Seat) -> FakeNode:
    """One with a small runtime."""
    answer = b"".join(
        [
            b"\1" + compact(NETUID),
            b"\1" + vector([seat.account for seat in seats]),
            b"\1" + vector([bytes([seat.active]) for seat in seats]),
            b"\1" + vector([bytes([seat.validator_permit]) for seat in seats]),
            *(
                b"\1" + vector([compact(getattr(seat, kind)) for seat in seats])
                for kind in ("alpha", "tao", "total")
            ),
        ]
    )
    return FakeNode(metadata=small_metadata(), answer=answer)


async def read(node: FakeNode) -> tuple[dict[Hotkey, Neuron], int]:
    """What a new reader reads from a node."""
    found, rejected = await NeuronReader(NETUID).fetch(node.call, at=AT)
    return dict(found), rejected


async def test_facts_are_read_as_they_are() -> None:
    """The uid is the place in the lists, and stakes are whole tokens, as in Pylon's answers."""
    found, rejected = await read(a_node(ALICE, BOB))
    assert rejected == 0
    assert found == {
        a_hotkey("alice"): Neuron(
            uid=0, validator_permit=True, active=True, alpha=5.0, tao=3.0, total=6.000000001
        ),
        a_hotkey("bob"): Neuron(
            uid=1, validator_permit=False, active=False, alpha=0.0, tao=0.0, total=0.0
        ),
    }


async def test_everything_is_asked_at_one_block() -> None:
    """Facts of two blocks would not belong together."""
    node = a_node(ALICE)
    await read(node)
    assert node.asked
    assert all(params[-1] == AT for _, params in node.asked)


async def test_fields_are_found_by_name() -> None:
    """A runtime that moves them is asked for their new places, and read right."""
    names = ("netuid", "name", *FIELDS[1:4], "something", *reversed(STAKES))
    node = a_node(ALICE)
    rest = b"\1\4\1" * 2 + b"\0" + b"".join(b"\1\4" + compact(each * TAO) for each in (6, 3, 5))
    node.results |= {
        "Metadata_metadata_at_version": "0x" + as_answer(small_metadata(names=names)).hex(),
        f"{API}_{METHOD}": (
            "0x" + (b"\1" + compact(NETUID) + b"\0" + b"\1\4" + ALICE.account + rest).hex()
        ),
    }
    found, _ = await read(node)
    assert found[a_hotkey("alice")].alpha == 5.0
    assert found[a_hotkey("alice")].total == 6.0
    places = b"".join(scale.u16(names.index(name)) for name in FIELDS)
    assert node.asked[-1] == (
        "state_call",
        [f"{API}_{METHOD}", "0x" + (scale.u16(NETUID) + b"\x1c" + places).hex(), AT],
    )


async def test_metadata_is_fetched_once_for_each_runtime() -> None:
    """It is the largest answer of all; an upgrade of the chain is noticed by its number."""
    node, reader = a_node(ALICE), NeuronReader(NETUID)
    for _ in range(3):
        await reader.fetch(node.call, at=AT)
    assert node.count("Metadata_metadata_at_version") == 1
    node.results["state_getRuntimeVersion"] = {"specVersion": 319}
    await reader.fetch(node.call, at=AT)
    assert node.count("Metadata_metadata_at_version") == 2


async def test_metadata_is_fetched_anew_after_an_answer_that_does_not_fit() -> None:
    """What a node said wrong once must not be kept for as long as the runtime lasts."""
    node, reader = a_node(ALICE), NeuronReader(NETUID)
    node.results["Metadata_metadata_at_version"] = (
        "0x" + as_answer(small_metadata(hotkeys="u16")).hex()
    )
    with pytest.raises(RegistryAnswerInvalid):
        await reader.fetch(node.call, at=AT)
    node.results["Metadata_metadata_at_version"] = "0x" + as_answer(small_metadata()).hex()
    found, _ = await reader.fetch(node.call, at=AT)
    assert a_hotkey("alice") in found


async def test_empty_subnet_has_no_neurons() -> None:
    """That is an answer like any other."""
    assert await read(a_node()) == ({}, 0)


async def test_unusable_entries_are_left_out_and_counted() -> None:
    """One neuron with impossible stakes spoils no other, and keeps its uid."""
    accounts = [a_hotkey(name).account_id for name in ("alice", "bob", "carol")]
    node = FakeNode(
        metadata=small_metadata(stakes="u128"),
        answer=small_answer(hotkeys=accounts, stakes=[TAO, 2**64, 2 * TAO]),
    )
    found, rejected = await read(node)
    assert rejected == 1
    assert {hotkey: neuron.uid for hotkey, neuron in found.items()} == {
        a_hotkey("alice"): 0,
        a_hotkey("carol"): 2,
    }


async def test_text_that_is_no_address_is_left_out_and_counted() -> None:
    """Where the runtime gives text, it is an address or nothing: it is never repaired."""
    texts = [a_hotkey("alice").address, a_hotkey("bob").address + " ", "self", ""]
    node = FakeNode(
        metadata=small_metadata(hotkeys="str"),
        answer=small_answer(hotkeys=[compact(len(text)) + text.encode() for text in texts]),
    )
    found, rejected = await read(node)
    assert (list(found), rejected) == ([a_hotkey("alice")], 3)


def nested_metadata() -> bytes:
    """160 KB whose type names grow with each level: the library takes 3.6 GB to read them."""
    types = Registry()
    inner = types.primitive("u8")
    for _ in range(20_000):
        inner = types.compact(inner)
    return types.metadata(API, [(METHOD, [], inner)])


def metadata_of(build: Callable[[Registry], int]) -> str:
    """The answer of a node with one type."""
    types = Registry()
    return "0x" + as_answer(types.metadata(API, [(METHOD, [], build(types))])).hex()


def itself(types: Registry) -> int:
    """A type that consists of itself."""
    return types.composite([("netuid", types.next_id)])


HONEST: Final = small_answer(hotkeys=[ALICE.account])

INVALID: Final[dict[str, dict[str, Any]]] = {
    "no version": {"state_getRuntimeVersion": None},
    "a version in words": {"state_getRuntimeVersion": {"specVersion": "318"}},
    "a version that is a truth": {"state_getRuntimeVersion": {"specVersion": True}},
    "no metadata of this version": {"Metadata_metadata_at_version": "0x00"},
    "metadata that is no text": {"Metadata_metadata_at_version": 1},
    "metadata without 0x": {"Metadata_metadata_at_version": as_answer(small_metadata()).hex()},
    "metadata of other bytes": {"Metadata_metadata_at_version": "0x01106d657461"},
    "metadata of half a byte": {"Metadata_metadata_at_version": "0x0"},
    "metadata with white space": {"Metadata_metadata_at_version": "0x 01"},
    "too much metadata": {"Metadata_metadata_at_version": "0x" + "00" * (2**20 + 1)},
    "metadata cut off": {
        "Metadata_metadata_at_version": "0x" + as_answer(small_metadata())[:-9].hex()
    },
    "fields that are missing": {
        "Metadata_metadata_at_version": "0x" + as_answer(small_metadata(names=FIELDS[:-1])).hex()
    },
    "another API": {"Metadata_metadata_at_version": metadata_of(lambda types: types.row())},
    "a type that is not there": {"Metadata_metadata_at_version": metadata_of(lambda _: 99)},
    "a type of itself": {"Metadata_metadata_at_version": metadata_of(itself)},
    "types within types": {
        "Metadata_metadata_at_version": "0x" + as_answer(nested_metadata()).hex()
    },
    "four thousand million nothings": {
        "Metadata_metadata_at_version": metadata_of(
            lambda types: types.array(types.row(), 2**32 - 1)
        )
    },
    "no such subnet": {f"{API}_{METHOD}": "0x00"},
    "nothing": {f"{API}_{METHOD}": "0x"},
    "null": {f"{API}_{METHOD}": None},
    "a byte too many": {f"{API}_{METHOD}": "0x" + HONEST.hex() + "00"},
    "a byte too few": {f"{API}_{METHOD}": "0x" + HONEST[:-1].hex()},
    "too many bytes": {f"{API}_{METHOD}": "0x" + "00" * (MAX_ANSWER_BYTES + 1)},
    "another subnet": {f"{API}_{METHOD}": "0x01" + compact(8).hex() + HONEST[2:].hex()},
    "a field that was not filled": {
        f"{API}_{METHOD}": "0x01" + compact(NETUID).hex() + "00" * (len(FIELDS) - 1)
    },
    "a truth that is two": {
        f"{API}_{METHOD}": "0x" + small_answer(hotkeys=[ALICE.account], bools=b"\4\2").hex()
    },
    "lists of two lengths": {
        f"{API}_{METHOD}": "0x" + small_answer(hotkeys=[ALICE.account], bools=b"\0").hex()
    },
    "stakes for more than there are": {
        f"{API}_{METHOD}": "0x" + small_answer(hotkeys=[ALICE.account], stakes=[1, 2]).hex()
    },
    "a hotkey twice": {f"{API}_{METHOD}": "0x" + small_answer(hotkeys=[ALICE.account] * 2).hex()},
    "too many neurons": {
        f"{API}_{METHOD}": "0x"
        + small_answer(hotkeys=[n.to_bytes(32, "big") for n in range(MAX_NEURONS + 1)]).hex()
    },
}


@pytest.mark.parametrize("results", INVALID.values(), ids=INVALID)
async def test_answer_that_cannot_be_one_is_refused(results: dict[str, Any]) -> None:
    """A node's word is input from outside, its description of the runtime included."""
    node = a_node(ALICE)
    node.results |= results
    with pytest.raises(RegistryAnswerInvalid):
        await read(node)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner),
    )
)
async def test_any_document_gives_neurons_or_our_error(document: Any) -> None:
    """Whatever comes out of the decoder."""
    text = json.dumps(document).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neurons, "_run_decoder", lambda metadata, answer: text)
        try:
            NeuronReader(NETUID)._parse(b"", b"")
        except RegistryError:
            return


@given(st.data())
async def test_any_metagraph_gives_neurons_or_our_error(data: st.DataObject) -> None:
    """Fields of the right kinds, with any content."""
    count = data.draw(st.integers(0, 3))

    def of(items: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(items, min_size=count, max_size=count))

    addresses = st.sampled_from([a_hotkey(name).address for name in "abcd"]) | st.text()
    document = {"netuid": NETUID, "hotkeys": of(addresses)}
    document |= {name: of(st.booleans()) for name in BOOLS}
    document |= {name: of(st.integers()) for name in STAKES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            neurons, "_run_decoder", lambda metadata, answer: json.dumps(document).encode()
        )
        try:
            found, rejected = NeuronReader(NETUID)._parse(b"", b"")
        except RegistryError:
            return
    assert len(found) + rejected == count


@settings(max_examples=20)  # Each starts a program, twice.
@given(st.binary(max_size=64), st.integers(0, 1000))
async def test_damaged_answer_gives_neurons_or_our_error(noise: bytes, place: int) -> None:
    """Bytes put into an honest answer."""
    place %= len(HONEST)
    node = FakeNode(metadata=small_metadata(), answer=HONEST[:place] + noise + HONEST[place:])
    try:
        found, _ = await read(node)
    except RegistryError:
        return
    assert len(found) <= 1


async def test_without_the_library_there_are_no_neurons(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RegistryUnavailable, match=r"pip install 'nexus-auth\[chain\]'"):
        await read(a_node(ALICE))


async def test_library_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As one that was built for another system; what the node said is not to blame."""
    monkeypatch.setattr(neurons, "find_library", lambda: tmp_path)
    with pytest.raises(RegistryUnavailable, match="bittensor-core"):
        await read(a_node(ALICE))


async def test_decoder_that_cannot_be_started_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where an application embeds Python, and there is no interpreter to start."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(RegistryUnavailable):
        await read(a_node(ALICE))


async def test_decoder_that_does_not_end_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No fetch waits longer than its limit."""
    endless = tmp_path / "endless.py"
    endless.write_text("import time\nwhile True: time.sleep(1)\n")
    monkeypatch.setattr(neurons, "_DECODER", endless)
    monkeypatch.setattr(neurons, "_SECONDS", 0.2)
    with pytest.raises(RegistryUnavailable):
        await read(a_node(ALICE))


async def test_decoder_sees_no_secret_of_the_service(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the library may do with hostile bytes, it does without our environment."""
    seen, spy = tmp_path / "seen", tmp_path / "spy.py"
    spy.write_text(f"import os\nopen({str(seen)!r}, 'w').write(repr(sorted(os.environ)))\n")
    monkeypatch.setattr(neurons, "_DECODER", spy)
    monkeypatch.setenv("NEXUS_PYLON_IDENTITY_TOKEN", "secret")
    with pytest.raises(RegistryAnswerInvalid):
        await read(a_node(ALICE))
    assert "NEXUS" not in seen.read_text()


async def test_event_loop_goes_on_while_neurons_are_decoded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Decisions are taken meanwhile: here the decoder waits for what the event loop does."""
    sign, patient, began = tmp_path / "sign", tmp_path / "patient.py", tmp_path / "began"
    patient.write_text(
        f"import os, time\nopen({str(began)!r}, 'w')\n"
        f"while not os.path.exists({str(sign)!r}): time.sleep(0.01)\nprint('[]')\n"
    )
    monkeypatch.setattr(neurons, "_DECODER", patient)
    fetch = asyncio.create_task(read(a_node(ALICE)))
    await until(lambda: began.exists() or fetch.done(), seconds=30)
    assert not fetch.done()
    sign.touch()
    with pytest.raises(RegistryAnswerInvalid):
        await fetch


async def test_many_neurons_are_read() -> None:
    """As many as the bound allows, with the largest stakes."""
    seats = [
        replace(ALICE, account=number.to_bytes(32, "big"), alpha=2**64 - 1, total=2**64 - 1)
        for number in range(MAX_NEURONS)
    ]
    found, rejected = await read(a_node(*seats))
    assert (len(found), rejected) == (MAX_NEURONS, 0)
    assert found[Hotkey(bytes(32))].alpha == pytest.approx(18446744073.709553)
