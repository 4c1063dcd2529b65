"""Reads Pylon's answers: bytes from outside in, checked values out.

Every `parse_*` raises `PylonAnswerInvalid` for anything else, and repeats no text of the answer.
A map is split into its entries first, which are not built. So an invalid entry spoils no other, and
what is not asked for takes no memory, however wide or deep it is.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta, Raw, Struct

from nexus_auth.adapters.pylon.api import PylonAnswerInvalid
from nexus_auth.domain.ed25519 import PUBLIC_KEY_BYTES, is_usable_public_key
from nexus_auth.domain.errors import InvalidHotkey
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron, Place
from nexus_auth.domain.ports import IssuedKeyPair, KeyMap

T = TypeVar("T")

SEED_BYTES: Final = 32
"""The length of an Ed25519 private key, RFC 8032 §5.1.5."""

MAX_ENTRIES: Final = 8192
"""Twice the 4,096 neurons that a subnet may grow to; subnets have 256 today."""

MAX_ENTRY_BYTES: Final = 4096
"""A neuron takes 640 bytes, a certificate 100. A longer entry is invalid."""

_ENTRIES_AT_ONCE: Final = 16
"""So many entries are read before other tasks run: 0.3 ms, and 10 ms where each is at its worst."""

_HEX: Final = frozenset("0123456789abcdefABCDEF")


class _Certificate(Struct):
    algorithm: Literal[1]  # Pylon's number for Ed25519, the only algorithm there is.
    public_key: str


class _KeyPair(_Certificate):
    private_key: str

    def __repr__(self) -> str:
        return "_KeyPair()"


class _Stakes(Struct):
    alpha: float
    tao: float
    total: float


class _Neuron(Struct):
    uid: int
    validator_permit: bool
    active: bool
    stakes: Raw


class _Placed(Struct):
    axon_info: Raw


class _Axon(Struct):
    ip: str
    port: Annotated[int, Meta(ge=0, le=65_535)]


class _Error(Struct):
    detail: str


class _Name:
    """A name in a JSON object; two names with the same text stay two."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


_CERTIFICATE: Final = msgspec.json.Decoder(_Certificate)
_KEY_PAIR: Final = msgspec.json.Decoder(_KeyPair)
_NEURON: Final = msgspec.json.Decoder(_Neuron)
_STAKES: Final = msgspec.json.Decoder(_Stakes)
_PLACED: Final = msgspec.json.Decoder(_Placed)
_AXON: Final = msgspec.json.Decoder(_Axon)
_ERROR: Final = msgspec.json.Decoder(_Error)
_MEMBERS: Final = msgspec.json.Decoder(dict[_Name, Raw], dec_hook=lambda _, text: _Name(text))


def _decode(decoder: msgspec.json.Decoder[T], data: bytes | Raw) -> T:
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        return decoder.decode(data)
    # Raised outside, without a reference to a cause: its text may repeat the answer's.
    raise PylonAnswerInvalid("Pylon's answer is not the JSON that was asked for")


def _parse_object(decoder: msgspec.json.Decoder[T], data: bytes | Raw) -> T:
    """Reads one object. A name that comes twice is invalid: which value is meant is not known."""
    names = [name.text for name in _decode(_MEMBERS, data)]
    if len(set(names)) != len(names):
        raise PylonAnswerInvalid("a name comes twice in one object")
    return _decode(decoder, data)


def _split(data: bytes | Raw) -> dict[str, Raw | None]:
    """Splits an object of many entries; None stands for the values of a name that comes twice."""
    numbers = itertools.count(1)

    def read_name(_: object, text: str) -> _Name:
        if next(numbers) > MAX_ENTRIES:
            raise ValueError("too many entries")
        return _Name(text)

    found: dict[str, Raw | None] = {}
    decoder = msgspec.json.Decoder(dict[_Name, Raw], dec_hook=read_name)
    for name, value in _decode(decoder, data).items():
        found[name.text] = None if name.text in found else value
    return found


async def _parse_entries(
    entries: dict[str, Raw | None], parse: Callable[[Raw], T]
) -> tuple[Mapping[Hotkey, T], int]:
    """The valid entries of a map by hotkey, and how many were invalid."""
    found: dict[Hotkey, T] = {}
    rejected = 0
    for number, (name, value) in enumerate(entries.items()):
        if number % _ENTRIES_AT_ONCE == 0:
            await asyncio.sleep(0)
        if value is None or len(memoryview(value)) > MAX_ENTRY_BYTES:
            rejected += 1
            continue
        try:
            found[Hotkey.parse(name)] = parse(value)
        except (InvalidHotkey, PylonAnswerInvalid):
            rejected += 1
    return MappingProxyType(found), rejected


def parse_detail(body: bytes) -> str:
    """Reads the `detail` of an error body; empty where there is none."""
    try:
        return _decode(_ERROR, body).detail
    except PylonAnswerInvalid:
        return ""


def parse_hex(text: str, *, lengths: tuple[int, ...]) -> bytes:
    """Reads hexadecimal with or without `0x`, in either case, of exactly one of the lengths."""
    digits = text[2:] if text[:2] in {"0x", "0X"} else text
    if len(digits) % 2 or len(digits) // 2 not in lengths or not _HEX.issuperset(digits):
        raise PylonAnswerInvalid(
            f"a key is not {' or '.join(map(str, lengths))} bytes of hexadecimal "
            f"(it has {len(digits)} digits)"
        )
    return bytes.fromhex(digits)


def parse_certificate(data: bytes | Raw) -> bytes:
    """Reads one certificate object: the raw public key in it."""
    return _parse_public_key(_parse_object(_CERTIFICATE, data))


def _parse_public_key(certificate: _Certificate) -> bytes:
    key = parse_hex(certificate.public_key, lengths=(PUBLIC_KEY_BYTES,))
    if not is_usable_public_key(key):
        raise PylonAnswerInvalid("a public key is of small order, and proves nothing")
    return key


async def parse_certificates(body: bytes) -> KeyMap:
    """Reads the map of all certificates; an invalid entry never spoils the others."""
    entries = _split(body)
    keys, rejected = await _parse_entries(entries, parse_certificate)
    if rejected and not keys and not entries.keys().isdisjoint({"detail", "status_code"}):
        raise PylonAnswerInvalid("an error body came with status 200")
    return KeyMap(keys=keys, rejected=rejected)


def parse_key_pair(body: bytes) -> IssuedKeyPair:
    """Reads a generated pair; the private key is a seed, or a seed followed by the public key.

    The halves belong together, or the answer is invalid.
    """
    pair = _parse_object(_KEY_PAIR, body)
    public_key = _parse_public_key(pair)
    # A line break must not lose the key: its public half is on chain by now.
    key = parse_hex(pair.private_key.strip(), lengths=(SEED_BYTES, SEED_BYTES + PUBLIC_KEY_BYTES))
    seed, appended = key[:SEED_BYTES], key[SEED_BYTES:]
    derived = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    if derived != public_key or appended not in {b"", derived}:
        raise PylonAnswerInvalid("the private key that Pylon made is not that of its public key")
    return IssuedKeyPair(public_key=public_key, private_key=seed)


async def parse_neurons(body: bytes) -> tuple[Mapping[Hotkey, Neuron], int]:
    """Reads the neurons of a subnet: the valid entries, and how many were invalid."""
    return await _parse_entries(await _split_neurons(body), _parse_neuron)


async def _split_neurons(body: bytes) -> dict[str, Raw | None]:
    neurons = _split(body).get("neurons")
    if neurons is None:
        raise PylonAnswerInvalid("there are no neurons in Pylon's answer")
    await asyncio.sleep(0)
    return _split(neurons)


async def parse_place(body: bytes, hotkey: Hotkey) -> Place | None:
    """Reads one hotkey's place from the neurons of a subnet; None where it is not among them."""
    neurons = await _split_neurons(body)
    if hotkey.address not in neurons:
        return None
    neuron = neurons[hotkey.address]
    if neuron is None or len(memoryview(neuron)) > MAX_ENTRY_BYTES:
        raise PylonAnswerInvalid("a neuron comes twice, or is too long")
    axon = _parse_object(_AXON, _parse_object(_PLACED, neuron).axon_info)
    try:
        return Place(ip=str(ipaddress.ip_address(axon.ip)), port=axon.port)
    except ValueError:
        raise PylonAnswerInvalid("the address of an axon is none") from None


def _parse_neuron(data: Raw) -> Neuron:
    neuron = _parse_object(_NEURON, data)
    stakes = _parse_object(_STAKES, neuron.stakes)
    try:
        return Neuron(
            uid=neuron.uid,
            validator_permit=neuron.validator_permit,
            active=neuron.active,
            alpha=stakes.alpha,
            tao=stakes.tao,
            total=stakes.total,
        )
    except ValueError:
        raise PylonAnswerInvalid("a neuron's numbers cannot be") from None
