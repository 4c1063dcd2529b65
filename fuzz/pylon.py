"""Any bytes as an answer of Pylon's: what stands in it, or an error of the port."""

from __future__ import annotations

import ipaddress
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fuzz.people import ALICE, BOB, REGISTERED, event_loop
from fuzz.promises import require, require_plain
from nexus_auth.adapters.pylon.api import build_api
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import InvalidHotkey, IssuingError, RegistryError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron, Place
from nexus_auth.domain.ports import IssuedKeyPair, KeyMap
from tests.builders import a_hotkey, a_key

MAX_BYTES: Final = 8192
WORDS: Final = (
    *(b'"algorithm":', b'"public_key":', b'"private_key":', b'"neurons":', b'"stakes":', b'"uid":'),
    *(b'"axon_info":', b'"ip":', b'"port":'),
    *(b'"validator_permit":', b'"active":', b'"alpha":', b'"tao":', b'"total":', b'"detail":'),
    *(b"{alice}", b"{bob}", b"{mallory}", b"{key}", b"{seed}", b"0x", b"true", b"null", b"NaN"),
    *(b"1e400", b"-0", b"1.0", b"[[[[", b"]]]]", b"\\u0000", b"\\ud800", b"certificate not found"),
)

_STATUSES: Final = (200, 200, 200, 201, 404, 401, 502, 500)
_CANARY: Final = b"canary-7f3a"
"""A text of an answer that no error repeats."""

_PLACES: Final = {
    b"{alice}": ALICE.address.encode(),
    b"{bob}": BOB.address.encode(),
    b"{mallory}": a_hotkey("mallory").address.encode(),
    b"{key}": REGISTERED[ALICE].hex().encode(),
    b"{seed}": a_key("alice").private_bytes_raw().hex().encode(),
}


_Found = KeyMap | bytes | tuple[Mapping[Hotkey, Neuron], int] | IssuedKeyPair | Place | None


class _Answer:
    """What the fake Pylon answers to the next request, whatever it is."""

    status = 200
    body = b""

    def __call__(self, _request: httpx.Request) -> httpx.Response:
        return httpx.Response(self.status, stream=httpx.ByteStream(self.body))


_answer: Final = _Answer()
_client: Final = PylonClient(
    endpoint="http://pylon",
    api=build_api(
        netuid=12,
        identity_name="name",
        identity_token="token",  # noqa: S106 - no secret
        open_access_token=None,
    ),
    transport=httpx.MockTransport(_answer),
)


async def _generate() -> IssuedKeyPair:
    return await _client.generate(algorithm=1)


async def _fetch_key() -> bytes | None:
    return await _client.fetch_key(ALICE)


async def _fetch_place() -> Place | None:
    return await _client.fetch_place(ALICE)


_CALLS: Final[tuple[Callable[[], Awaitable[_Found]], ...]] = (
    _client.fetch_keys,
    _fetch_key,
    _client.fetch_neurons,
    _generate,
    _fetch_place,
)


def check(data: bytes) -> None:
    """Answers one call; the first byte chooses the call and the status, the rest is the body."""
    choice, body = (data[0], data[1:]) if data else (0, b"")
    for place, text in _PLACES.items():
        body = body.replace(place, text)
    call = _CALLS[choice % len(_CALLS)]
    _answer.status, _answer.body = _STATUSES[choice // len(_CALLS) % len(_STATUSES)], body
    try:
        found = event_loop().run_until_complete(_awaited(call))
    except (RegistryError, IssuingError) as exc:
        require_plain(str(exc))
        require(_CANARY.decode() not in str(exc), "no error repeats what was answered")
        expected = _honest_keys(body) if call == _client.fetch_keys else None
        require(expected is None or _answer.status != httpx.codes.OK, "an honest answer is read")
        return
    match found:
        case KeyMap():
            _require_keys(found, body)
        case IssuedKeyPair():
            _require_pair(found, body)
        case bytes():
            require(found in _keys_in(_parsed(body)), "a key that stands in the answer")
        case (neurons, _):
            _require_neurons(neurons, body)
        case Place():
            require(found in _places_in(_parsed(body)), "a place that stands in the answer")
        case None if call == _fetch_place:
            require(_answer.status == httpx.codes.OK, "no place only where there are neurons")
            require(not _places_in(_parsed(body)), "no place only where none stands in the answer")
        case None:
            require(_answer.status == httpx.codes.NOT_FOUND, "no key only where Pylon says so")


async def _awaited(call: Callable[[], Awaitable[_Found]]) -> _Found:
    return await call()


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON with every name as often as it is there."""

    def values_of(self, name: str) -> list[Any]:
        return [value for key, value in self if key == name]


def _parsed(body: bytes) -> Any:
    """The answer by the standard library, in which a repeated name keeps all its values.

    It is lenient about what stands in texts: an invalid entry may spoil the whole, or itself alone.
    """
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text, object_pairs_hook=_Pairs, parse_int=_whole, strict=False)
    except (ValueError, RecursionError):
        return None


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) < 40 else None  # noqa: PLR2004 - longer than any number here


def _keys_in(value: object) -> list[bytes]:
    """The usable keys that one certificate object can be read as."""
    if not isinstance(value, _Pairs):
        return []
    if not any(type(each) is int and each == 1 for each in value.values_of("algorithm")):
        return []
    found = []
    for text in value.values_of("public_key"):
        if isinstance(text, str):
            try:
                found.append(bytes.fromhex(text[2:] if text[:2] in {"0x", "0X"} else text))
            except ValueError:
                continue
    return [key for key in found if is_usable_public_key(key)]


def _require_keys(found: KeyMap, body: bytes) -> None:
    document = _parsed(body)
    require(isinstance(document, _Pairs), "keys come from an object")
    for hotkey, key in found.keys.items():
        candidates = [
            each for value in document.values_of(hotkey.address) for each in _keys_in(value)
        ]
        require(key in candidates, "a key that stands in the answer under this hotkey")
    expected = _honest_keys(body)
    require(
        expected is None or found == KeyMap(keys=expected, rejected=0), "no honest entry is lost"
    )


def _honest_keys(body: bytes) -> Mapping[Hotkey, bytes] | None:
    """The keys of an answer in which every entry is as Pylon writes it; else None."""
    document = _parsed(body)
    if not isinstance(document, _Pairs):
        return None
    found: dict[Hotkey, bytes] = {}
    for name, value in document:
        keys = _keys_in(value)
        if len(keys) != 1 or [key for key, _ in value] != ["algorithm", "public_key"]:
            return None
        try:
            hotkey = Hotkey.parse(name)
        except InvalidHotkey:
            return None
        if hotkey in found:
            return None
        found[hotkey] = keys[0]
    return found or None


def _require_neurons(found: Mapping[Hotkey, Neuron], body: bytes) -> None:
    document = _parsed(body)
    require(isinstance(document, _Pairs), "neurons come from an object")
    tables = [each for each in document.values_of("neurons") if isinstance(each, _Pairs)]
    for hotkey, neuron in found.items():
        candidates = [each for table in tables for each in table.values_of(hotkey.address)]
        require(
            any(_is_neuron(each, neuron) for each in candidates),
            "a neuron that stands in the answer under this hotkey",
        )


def _is_neuron(value: object, neuron: Neuron) -> bool:
    return (
        isinstance(value, _Pairs)
        and neuron.uid in value.values_of("uid")
        and neuron.validator_permit in value.values_of("validator_permit")
        and neuron.active in value.values_of("active")
        and any(
            isinstance(stakes, _Pairs)
            and all(
                getattr(neuron, kind)
                in [float(each) for each in stakes.values_of(kind) if _is_number(each)]
                for kind in ("alpha", "tao", "total")
            )
            for stakes in value.values_of("stakes")
        )
    )


def _places_in(document: Any) -> list[Place]:
    """Alice's places in an answer, each name taken as often as it is there."""
    found = [document] if isinstance(document, _Pairs) else []
    for name in ("neurons", ALICE.address, "axon_info"):
        values = [value for each in found for value in each.values_of(name)]
        found = [value for value in values if isinstance(value, _Pairs)]
    places = []
    for axon in found:
        for ip, port in itertools.product(axon.values_of("ip"), axon.values_of("port")):
            with suppress(ValueError):
                if isinstance(ip, str) and isinstance(port, int) and not isinstance(port, bool):
                    places.append(Place(ip=str(ipaddress.ip_address(ip)), port=port))
    return places


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_pair(found: IssuedKeyPair, body: bytes) -> None:
    derived = Ed25519PrivateKey.from_private_bytes(found.private_key).public_key()
    require(derived.public_bytes_raw() == found.public_key, "halves that belong together")
    require(found.public_key in _keys_in(_parsed(body)), "a key that stands in the answer")


def seeds() -> dict[str, bytes]:
    """Answers as Pylon writes them, and wrong ones."""
    certificate = b'{"algorithm":1,"public_key":"{key}"}'
    stakes = b'"stakes":{"alpha":1.5,"tao":0.25,"total":1.75}'
    neuron = b'{"uid":3,"validator_permit":true,"active":false,' + stakes + b"}"
    axon = b'{"ip":"192.0.2.7","port":8091,"protocol":4}'
    both = b'{"{alice}":' + certificate + b',"{bob}":'
    return {
        "keys": b"\x00" + both + certificate + b"}",
        "keys-one-bad": b"\x00" + both + b'{"algorithm":1,"public_key":"0x00"}}',
        "keys-twice": b'\x00{"{alice}":' + certificate + b',"{alice}":' + certificate + b"}",
        "keys-error": b'\x00{"status_code":500,"detail":"' + _CANARY + b'"}',
        "keys-deep": b'\x00{"{alice}":'
        + b"[" * 100
        + b"]" * 100
        + b',"{bob}":'
        + certificate
        + b"}",
        "keys-numbers": b'\x00{"{alice}":{"algorithm":1.0,"public_key":NaN},"a":'
        + b"9" * 60
        + b"}",
        "key": b"\x01" + certificate,
        "key-0x": b'\x01{"public_key":"0x{key}","algorithm":1,"more":[{}]}',
        "key-small-order": b'\x01{"algorithm":1,"public_key":"' + b"00" * 32 + b'"}',
        "key-missing": b'\x15{"status_code":404,"detail":"Certificate not found"}',
        "neurons": b'\x02{"block":{"number":1},"neurons":{"{alice}":' + neuron + b"}}",
        "neurons-bad": b'\x02{"neurons":{"{alice}":' + neuron.replace(b"3", b"-3") + b"}}",
        "place": b'\x04{"neurons":{"{bob}":[],"{alice}":{"axon_info":' + axon + b"}}}",
        "place-of-others": b'\x04{"neurons":{"{bob}":{"axon_info":' + axon + b"}}}",
        "pair": b'\x03{"algorithm":1,"public_key":"{key}","private_key":"{seed}"}',
        "pair-long": b'\x03{"algorithm":1,"public_key":"{key}","private_key":"{seed}{key}\\n"}',
        "pair-of-others": b'\x03{"algorithm":1,"public_key":"{key}","private_key":"{key}"}',
        "refused": b'\x21{"detail":"Could not generate ' + _CANARY + b'"}',
        "not-utf-8": b"\x00\xff\xfe{\x00",
    }
