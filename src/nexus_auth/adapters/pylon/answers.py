"""Reads Pylon's answers: bytes from outside in, checked values out.

Every `parse_*` raises `PylonAnswerInvalid` for anything else, and repeats no text of the answer.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_auth.adapters.pylon.api import PylonAnswerInvalid
from nexus_auth.domain.ed25519 import PUBLIC_KEY_BYTES, is_usable_public_key
from nexus_auth.domain.errors import InvalidHotkey
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.ports import IssuedKeyPair, KeyMap

T = TypeVar("T")

ED25519_ALGORITHM: Final = 1
"""Pylon's number for Ed25519, the only algorithm there is."""

SEED_BYTES: Final = 32
"""The length of an Ed25519 private key, RFC 8032 §5.1.5."""

_HEX: Final = frozenset("0123456789abcdefABCDEF")

_MAX_DEPTH: Final = 64
"""How deep an entry may be nested. Pylon's answers are five deep at most; Python's parser rejects
the whole of one that is some thousand deep anywhere."""

# A text, with what is escaped in it, or one bracket. A text without an end reaches to the end of
# the body, so that no place is examined twice; and nothing is kept for backtracking (`+` behind a
# quantifier), which took ninety bytes for every escape of a hostile text.
_TEXT_OR_BRACKET: Final = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


def parse_json(body: bytes) -> Any:
    """Parses JSON strictly: no repeated names, no NaN, no endless numbers, no extreme depth."""
    try:
        return _load(body.decode("utf-8"), invalid=_reject)
    except (ValueError, RecursionError):
        # UnicodeDecodeError and JSONDecodeError are ValueErrors; their text repeats the body.
        raise PylonAnswerInvalid("Pylon's answer is not JSON") from None


def parse_json_map(body: bytes) -> Any:
    """Parses JSON as strictly, but an invalid value spoils nothing but its own place.

    Repeated names, NaN, endless numbers and what is nested too deep become an object that no parser
    here accepts, so that one entry of many can be left out and the others count.
    """
    try:
        text = body.decode("utf-8")
        try:
            return _load(text, invalid=_Invalid)
        except RecursionError:
            return _load(_without_depths(text), invalid=_Invalid)
    except (ValueError, RecursionError):
        raise PylonAnswerInvalid("Pylon's answer is not JSON") from None


class _Invalid:
    """Stands for a value that is not valid."""


def _reject() -> NoReturn:
    raise ValueError("not a value that an answer can hold")


def _load(text: str, *, invalid: Callable[[], object]) -> Any:
    def parse_int(digits: str) -> object:
        try:
            return int(digits)
        except ValueError:  # Python reads no more than 4300 digits.
            return invalid()

    def parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            # Which of the values is meant cannot be known: none is valid.
            times = Counter(name for name, _ in pairs)
            found |= {name: invalid() for name in found if times[name] > 1}
        return found

    return json.loads(
        text,
        object_pairs_hook=parse_object,
        parse_constant=lambda _: invalid(),
        parse_int=parse_int,
    )


def _without_depths(text: str) -> str:
    """Puts NaN, which is no value either, in the place of what is nested too deep."""
    kept: list[str] = []
    depth = start = 0
    for found in _TEXT_OR_BRACKET.finditer(text):
        sign = text[found.start()]
        if sign in "[{":
            depth += 1
            if depth == _MAX_DEPTH + 1:
                kept.append(text[start : found.start()])
        elif sign in "]}":
            if depth == _MAX_DEPTH + 1:
                kept.append("NaN")
                start = found.end()
            depth -= 1
    if depth <= _MAX_DEPTH:
        kept.append(text[start:])
    return "".join(kept)


def parse_hex(text: object, *, lengths: tuple[int, ...]) -> bytes:
    """Reads hexadecimal with or without `0x`, in either case, of exactly one of the lengths."""
    if not isinstance(text, str):
        raise PylonAnswerInvalid("a key is not a text")
    digits = text[2:] if text[:2] in {"0x", "0X"} else text
    if len(digits) % 2 or len(digits) // 2 not in lengths or not _HEX.issuperset(digits):
        raise PylonAnswerInvalid(
            f"a key is not {' or '.join(map(str, lengths))} bytes of hexadecimal "
            f"(it has {len(digits)} digits)"
        )
    return bytes.fromhex(digits)


def parse_certificate(answer: object) -> bytes:
    """Reads one certificate object: the raw public key in it."""
    if not isinstance(answer, dict):
        raise PylonAnswerInvalid("a certificate is not a JSON object")
    algorithm = answer.get("algorithm")
    if algorithm != ED25519_ALGORITHM or type(algorithm) is not int:
        raise PylonAnswerInvalid("the algorithm of a certificate is not 1 (Ed25519)")
    key = parse_hex(answer.get("public_key"), lengths=(PUBLIC_KEY_BYTES,))
    if not is_usable_public_key(key):
        raise PylonAnswerInvalid("a public key is of small order, and proves nothing")
    return key


def parse_certificates(answer: object) -> KeyMap:
    """Reads the map of all certificates; an invalid entry never spoils the others."""
    if not isinstance(answer, dict):
        raise PylonAnswerInvalid("the certificates are not a JSON object")
    keys, rejected = _parse_entries(answer, parse_certificate)
    if rejected and not keys and ("detail" in answer or "status_code" in answer):
        raise PylonAnswerInvalid("an error body came with status 200")
    return KeyMap(keys=keys, rejected=rejected)


def _parse_entries(
    entries: dict[str, Any], parse: Callable[[object], T]
) -> tuple[Mapping[Hotkey, T], int]:
    """The valid entries of a map by hotkey, and how many were invalid."""
    found: dict[Hotkey, T] = {}
    rejected = 0
    for name, value in entries.items():
        try:
            found[Hotkey.parse(name)] = parse(value)
        except (InvalidHotkey, PylonAnswerInvalid):
            rejected += 1
    return MappingProxyType(found), rejected


def parse_key_pair(answer: object) -> IssuedKeyPair:
    """Reads a generated pair; the private key is a seed, or a seed followed by the public key.

    The halves belong together, or the answer is invalid.
    """
    public_key = parse_certificate(answer)
    private_key = answer.get("private_key") if isinstance(answer, dict) else None
    if isinstance(private_key, str):
        # A line break must not lose the key: its public half is on chain by now.
        private_key = private_key.strip()
    key = parse_hex(private_key, lengths=(SEED_BYTES, SEED_BYTES + PUBLIC_KEY_BYTES))
    seed, appended = key[:SEED_BYTES], key[SEED_BYTES:]
    derived = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    if derived != public_key or appended not in {b"", derived}:
        raise PylonAnswerInvalid("the private key that Pylon made is not that of its public key")
    return IssuedKeyPair(public_key=public_key, private_key=seed)


def parse_neurons(answer: object) -> tuple[Mapping[Hotkey, Neuron], int]:
    """Reads the neurons of a subnet: the valid entries, and how many were invalid."""
    neurons = answer.get("neurons") if isinstance(answer, dict) else None
    if not isinstance(neurons, dict):
        raise PylonAnswerInvalid("the neurons are not a JSON object")
    return _parse_entries(neurons, _parse_neuron)


def _parse_neuron(value: object) -> Neuron:
    if not isinstance(value, dict) or not isinstance(value.get("stakes"), dict):
        raise PylonAnswerInvalid("a neuron is not a JSON object with stakes")
    uid, permit, active = value.get("uid"), value.get("validator_permit"), value.get("active")
    if type(uid) is not int or type(permit) is not bool or type(active) is not bool:
        raise PylonAnswerInvalid("a neuron lacks its uid, permit or activity")
    stakes = value["stakes"]
    try:
        return Neuron(
            uid=uid,
            validator_permit=permit,
            active=active,
            alpha=_amount(stakes.get("alpha")),
            tao=_amount(stakes.get("tao")),
            total=_amount(stakes.get("total")),
        )
    except (ValueError, OverflowError):
        raise PylonAnswerInvalid("a neuron's numbers cannot be") from None


def _amount(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PylonAnswerInvalid("a stake is not a number")
    return float(value)
