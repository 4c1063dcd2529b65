"""Libraries of others read the same certificates, axons and neurons from a node as we do.

The node serves the real storage layout and the real metadata. What the libraries give as text where
bytes happen to be UTF-8 is shown here too: ours is never decoded that way.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import httpx
import pytest
from bittensor_core import Runtime  # type: ignore[import-untyped]  # it has no types

from nexus_auth.adapters.chain.source import ChainSource
from nexus_auth.adapters.clock import utc_now
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.hotkey import Hotkey
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.chain import scale
from tests.integration.chain.node import (
    NETUID,
    TOKEN,
    RunningNode,
    metadata,
    running_node,
)

KEYS: Final[dict[str, bytes]] = {
    "an ordinary key": public_bytes(a_key("alice")),
    "text": bytes(range(64, 96)),
    "digits": b"01234567" * 4,
    "hexadecimal digits": b"deadbeef" * 4,
    "hexadecimal digits behind 0x": b"0x" + b"c0ffee" * 5,
    "an order of bytes": b"\xef\xbb\xbf" + b"k" * 29,
    "letters of two bytes": "é".encode() * 16,
    "half a letter": b"k" * 31 + b"\xc3",
    "spaces": b" " * 32,
    "line breaks": b"\r\n" * 16,
    "JSON": b'{"algorithm":1,"public_key":""} ',
    "zeros": bytes(32),
    "ones": b"\xff" * 32,
    "nothing": b"",
    "a longer key": b"longer than a key " * 3,
}
"""Chosen to be taken for something else, by the hotkey's name."""

NOT_TEXT: Final = {"an ordinary key", "half a letter", "ones", "nothing"}
TEXT: Final = KEYS.keys() - NOT_TEXT
"""Those that the libraries give as text."""

AXONS: Final = {
    "text": ("192.0.2.7", 8091),
    "digits": ("2001:db8::7", 65535),
    "spaces": ("0.0.0.0", 1),  # noqa: S104 - the remedy for a validator without an axon
}


@pytest.fixture(scope="module")
def node() -> Iterator[RunningNode]:
    """A node with all of this, and every hotkey on the subnet."""
    with running_node() as node:
        for number, (name, key) in enumerate(KEYS.items()):
            node.chain.register(
                a_hotkey(name),
                validator_permit=number % 2 == 0,
                active=number % 3 == 0,
                alpha=number * TOKEN + 1,
                tao=2**63 + number,
                total=number,
            )
            node.chain.publish(a_hotkey(name), key)
        for name, (ip, port) in AXONS.items():
            node.chain.serve_axon(a_hotkey(name), ip=ip, port=port)
        node.advance(7)
        yield node


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # The SDK keeps metadata and settings there.
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


Reader = Callable[[RunningNode, str], Awaitable[dict[Hotkey, Any]]]
"""Reads a map of the subnet by hotkey."""


async def read_with_core(node: RunningNode, item: str) -> dict[Hotkey, Any]:
    """With bittensor-core alone, from what the node says over HTTP."""

    def ask(method: str, *params: object) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return httpx.post(node.url, json=body).json()["result"]

    runtime = Runtime(metadata()[metadata().index(b"meta") :], 318, 1)
    prefix = runtime.storage_key("SubtensorModule", item, [NETUID])
    keys = ask("state_getKeysPaged", "0x" + prefix.hex(), 1000, None, node.head.hash)
    answer = ask("state_queryStorageAt", keys, node.head.hash)
    changes = [(key, value) for key, value in answer[0]["changes"]]
    pairs = runtime.decode_map_changes("SubtensorModule", item, changes, fixed=1)
    return {Hotkey.parse(address): value for address, value in pairs}


async def read_with_sdk(node: RunningNode, item: str) -> dict[Hotkey, Any]:
    """With the SDK of the network."""
    from bittensor import Client

    async with Client(node.ws_url, fallback_endpoints=[], archive_endpoints=[]) as client:
        pairs = await client.query_map(("SubtensorModule", item), [NETUID])
    return {Hotkey.parse(address): value for address, value in pairs}


async def read_with_substrate_interface(node: RunningNode, item: str) -> dict[Hotkey, Any]:
    """With the library that most programs of the network use."""
    from async_substrate_interface import AsyncSubstrateInterface

    async with AsyncSubstrateInterface(node.ws_url) as substrate:
        pairs = await substrate.query_map("SubtensorModule", item, [NETUID])
        return {
            Hotkey.parse(address): getattr(value, "value", value) async for address, value in pairs
        }


READERS: Final = {
    "bittensor-core": read_with_core,
    "bittensor": read_with_sdk,
    "async-substrate-interface": read_with_substrate_interface,
}

every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


def source_of(node: RunningNode, *, websocket: bool = True) -> ChainSource:
    """Ours."""
    url = node.ws_url if websocket else node.url
    return ChainSource(endpoints=[url], netuid=NETUID, clock=utc_now)


def bytes_of(text: str) -> bytes:
    """Undoes what the libraries do: hexadecimal behind 0x, unless the bytes are UTF-8."""
    # A key of up to 64 bytes that begins with 0x is no longer than that.
    is_hex = text.startswith("0x") and len(text) == 66
    return bytes.fromhex(text[2:]) if is_hex else text.encode()


@every_reader
async def test_libraries_read_the_same_certificates(node: RunningNode, read: Reader) -> None:
    """All keys, byte for byte, but those that no caller can prove to have."""
    theirs = {
        hotkey: bytes_of(value["public_key"])
        for hotkey, value in (await read(node, "NeuronCertificates")).items()
    }
    assert theirs == {a_hotkey(name): key for name, key in KEYS.items()}
    async with source_of(node) as source:
        ours = await source.fetch_keys()
    usable = {hotkey: key for hotkey, key in theirs.items() if is_usable_public_key(key)}
    assert dict(ours.keys) == usable
    assert ours.rejected == len(KEYS) - len(usable)
    assert a_hotkey("zeros") not in usable, "of small order: anyone can sign for it"


@every_reader
async def test_libraries_give_text_for_some_keys(node: RunningNode, read: Reader) -> None:
    """Which is why no library decodes keys here: text may read as hexadecimal, and be no key."""
    theirs = await read(node, "NeuronCertificates")
    given = {name: theirs[a_hotkey(name)]["public_key"] for name in KEYS}
    assert {name for name, text in given.items() if text and text == _text(KEYS[name])} == TEXT
    assert given["text"] == "@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_"
    assert bytes.fromhex(given["hexadecimal digits"]) == b"\xde\xad\xbe\xef" * 4
    async with source_of(node, websocket=False) as source:
        for name in ("text", "digits", "hexadecimal digits", "hexadecimal digits behind 0x"):
            assert await source.fetch_key(a_hotkey(name)) == KEYS[name]


def _text(key: bytes) -> str | None:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


@every_reader
async def test_libraries_read_the_same_axons(node: RunningNode, read: Reader) -> None:
    """Addresses of both families, ports, and the block by which the waiting time is counted."""
    theirs = await read(node, "Axons")
    assert set(theirs) == {a_hotkey(name) for name in AXONS}
    async with source_of(node) as source:
        for hotkey, axon in theirs.items():
            ours = await source.fetch_place(hotkey)
            assert ours is not None
            assert int(ipaddress.ip_address(ours.ip)) == axon["ip"]
            assert ipaddress.ip_address(ours.ip).version == axon["ip_type"]
            assert ours.port == axon["port"]
            served, now = axon["block"], node.head.number
            assert ours.blocks_to_wait is not None
            assert now + ours.blocks_to_wait == pytest.approx(served + node.chain.rate_limit, abs=1)
        never = await source.fetch_place(a_hotkey("zeros"))
        assert never is not None
        assert never.port == 0
        assert await source.fetch_place(a_hotkey("a stranger")) is None


async def test_libraries_read_the_same_neurons(node: RunningNode) -> None:
    """From two other runtime APIs than ours: the one that Pylon takes stakes from among them."""
    from async_substrate_interface import AsyncSubstrateInterface

    async with AsyncSubstrateInterface(node.ws_url) as substrate:
        state = await substrate.runtime_call("SubnetInfoRuntimeApi", "get_subnet_state", [NETUID])
        lite = await substrate.runtime_call("NeuronInfoRuntimeApi", "get_neurons_lite", [NETUID])
    async with source_of(node) as source:
        keys = await source.fetch_keys()
        ours, rejected = await source.fetch_neurons(at=keys.block)
    assert rejected == 0
    assert len(ours) == len(KEYS)
    by_address = {each["hotkey"]: each for each in getattr(lite, "value", lite)}
    state = getattr(state, "value", state)
    for uid, address in enumerate(state["hotkeys"]):
        neuron, theirs = ours[Hotkey.parse(address)], by_address[address]
        assert neuron.uid == uid == theirs["uid"]
        assert neuron.validator_permit is theirs["validator_permit"]
        assert neuron.validator_permit is state["validator_permit"][uid]
        assert neuron.active is theirs["active"] is state["active"][uid]
        # As Pylon divides them.
        assert neuron.alpha == state["alpha_stake"][uid] / 1_000_000_000
        assert neuron.tao == state["tao_stake"][uid] / 1_000_000_000
        assert neuron.total == state["total_stake"][uid] / 1_000_000_000


async def test_libraries_read_the_same_block(node: RunningNode) -> None:
    """Its number, its hash and what time it says."""
    from bittensor import Client

    async with Client(node.ws_url, fallback_endpoints=[], archive_endpoints=[]) as client:
        number, time = await client.finalized_block(), await client.timestamp()
    async with source_of(node) as source:
        block = (await source.fetch_keys()).block
    assert block is not None
    assert (block.number, block.hash, block.time) == (number, node.head.hash, time)
    assert node.head.storage[scale.prefix("Timestamp", "Now")]
