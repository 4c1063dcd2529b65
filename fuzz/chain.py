"""Any bytes as what a node of the chain says and stores: what stands in it, or our own error."""

from __future__ import annotations

import json
from typing import Any, Final

import httpx

from fuzz.people import ALICE, BOB, REGISTERED, event_loop
from fuzz.promises import require, require_plain
from nexus_auth.adapters.chain.source import ChainSource
from nexus_auth.domain.errors import RegistryError
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.ports import KeyMap
from tests.builders import NOW, a_hotkey
from tests.integration.chain import scale

MAX_BYTES: Final = 8192
WORDS: Final = (
    *(b"{alice}", b"{bob}", b"{mallory}", b"{other}", b"{now}", b"{time}", b"{axon}", b"{uid}"),
    *(b"{limit}", b"{block}", b"{key}", b'"block":', b'"changes":', b'"result":', b'"error":'),
    *(b'"id":4', b'"id":5', b'"code":-1', b"null", b"0x", b"0x80", b"01", b"[[", b"]]", b"\n"),
)

_NETUID: Final = 12
_BLOCK: Final = "0x" + "ab" * 32
_CANARY: Final = b"canary-7f3a"
"""A text of an answer that no error repeats."""


def _name(item: str, hotkey: Any) -> bytes:
    return b"0x" + scale.of_account(item, _NETUID, hotkey.account_id).hex().encode()


_NAMES: Final = {
    "0x" + scale.of_account("NeuronCertificates", _NETUID, each.account_id).hex(): each
    for each in (ALICE, BOB, a_hotkey("mallory"))
}
_OTHER: Final = scale.of_account("NeuronCertificates", _NETUID + 1, ALICE.account_id)
_PLACES: Final = {
    b"{alice}": _name("NeuronCertificates", ALICE),
    b"{bob}": _name("NeuronCertificates", BOB),
    b"{mallory}": _name("NeuronCertificates", a_hotkey("mallory")),
    b"{other}": b"0x" + _OTHER.hex().encode(),
    b"{axon}": _name("Axons", ALICE),
    b"{uid}": _name("Uids", ALICE),
    b"{limit}": b"0x" + scale.of_subnet("ServingRateLimit", _NETUID).hex().encode(),
    b"{now}": b"0x" + scale.prefix("Timestamp", "Now").hex().encode(),
    b"{time}": b"0x" + scale.u64(int(NOW.timestamp() * 1000)).hex().encode(),
    b"{block}": _BLOCK.encode(),
    b"{key}": REGISTERED[ALICE].hex().encode(),
}
_HONEST: Final = {
    "chain_getBlockHash": "0x" + "00" * 32,
    "chain_getFinalizedHead": _BLOCK,
    "chain_getHeader": {"number": "0x10"},
}


async def _fetch(source: ChainSource, choice: int) -> KeyMap | bytes | Place | None:
    async with source:
        match choice % 3:
            case 0:
                return await source.fetch_keys()
            case 1:
                return await source.fetch_key(ALICE)
            case _:
                return await source.fetch_place(ALICE)


def check(data: bytes) -> None:
    """The first byte chooses the call; the lines behind it are a page of keys, and the values."""
    choice, body = (data[0], data[1:]) if data else (0, b"")
    for place, text in _PLACES.items():
        body = body.replace(place, text)
    page, _, values = body.partition(b"\n")

    def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        said = values
        if asked["method"] in _HONEST:
            said = json.dumps({"id": asked["id"], "result": _HONEST[asked["method"]]}).encode()
        elif asked["method"] == "state_getKeysPaged":
            said = page
        return httpx.Response(200, stream=httpx.ByteStream(said))

    source = ChainSource(
        endpoints=["http://node"],
        netuid=_NETUID,
        clock=lambda: NOW,
        transport=httpx.MockTransport(answer),
    )
    try:
        found = event_loop().run_until_complete(_fetch(source, choice))
    except RegistryError as exc:
        require_plain(str(exc))
        require(_CANARY.decode() not in str(exc), "no error repeats what was answered")
        return
    _require_stored(found, _stored(values))


def _require_stored(found: KeyMap | bytes | Place | None, stored: list[tuple[str, object]]) -> None:
    match found:
        case KeyMap():
            require(found.block is not None, "keys come with their block")
            for hotkey, key in found.keys.items():
                names = [name for name in _NAMES if _NAMES[name] == hotkey]
                require(_holds(stored, names, key), "a key that is stored for this hotkey")
        case bytes():
            require(_holds(stored, list(_NAMES)[:1], found), "the key that is stored for alice")
        case Place():
            require(0 <= found.port < 2**16, "a port is one")
        case None:
            pass


def _stored(values: bytes) -> list[tuple[str, object]]:
    """What the values say, by the standard library.

    What is not asked for is not looked at: it may be no UTF-8, or a number without end.
    """
    text = values.decode("utf-8", errors="replace")
    changes = json.loads(text, parse_int=str, strict=False)["result"][0]["changes"]
    return [(name, value) for name, value in changes]


def _holds(stored: list[tuple[str, object]], names: list[str], key: bytes) -> bool:
    return any((name, f"0x80{key.hex()}01") in stored for name in names)


def seeds() -> dict[str, bytes]:
    """Answers as a node writes them, and wrong ones."""
    now = b'["{now}","{time}"]'

    def values(*changes: bytes, number: int = 5, block: bytes = b"{block}") -> bytes:
        said = b'{"block":"%s","changes":[%s]}' % (block, b",".join([now, *changes]))
        return b'{"jsonrpc":"2.0","id":%d,"result":[%s]}' % (number, said)

    def keys(*names: bytes) -> bytes:
        listed = sorted((_PLACES[each], each) for each in names)
        named = b",".join(b'"%s"' % each for _, each in listed)
        return b'\x00{"id":4,"result":[' + named + b"]}\n"

    alice = b'["{alice}","0x80{key}01"]'
    empty = b'["{bob}","0x0001"]'
    place = b'["{axon}","0x%s"],["{uid}","0x0300"],["{limit}",null]'
    axon = scale.Axon(block=3, ip="192.0.2.1", port=8091).encode().hex().encode()
    return {
        "keys": keys(b"{alice}", b"{bob}") + values(alice, empty),
        "keys-none": keys() + values(),
        "keys-text": keys(b"{alice}") + values(b'["{alice}","0x80' + b"41" * 32 + b'01"]'),
        "keys-of-another": keys(b"{alice}", b"{mallory}")
        + values(alice, b'["{mallory}","0x80{key}02"]'),
        "keys-twice": b'\x00{"id":4,"result":["{alice}","{alice}"]}\n' + values(alice),
        "keys-elsewhere": b'\x00{"id":4,"result":["{other}"]}\n' + values(),
        "keys-left-out": keys(b"{alice}", b"{bob}") + values(alice),
        "keys-forked": keys(b"{alice}") + values(alice, block=b"0x" + b"cd" * 32),
        "keys-error": b'\x00{"id":4,"error":{"code":-1,"message":"' + _CANARY + b'"}}\n',
        "key": b"\x01\n" + values(alice, number=4),
        "key-none": b"\x01\n" + values(b'["{alice}",null]', number=4),
        "key-other-id": b"\x01\n" + values(alice, number=9),
        "place": b"\x02\n" + values(place % axon, number=4),
        "place-short": b"\x02\n" + values(place % axon[:-2], number=4),
        "not-utf-8": b"\x00\xff\xfe{\n\x00",
    }
