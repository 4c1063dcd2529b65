"""Reads Pylon's answers: bytes from outside in, checked values or a typed error out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nexus_auth.adapters.pylon.errors import PylonAnswerInvalid
from nexus_auth.domain.ed25519 import is_usable_public_key
from nexus_auth.domain.errors import InvalidHotkey
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.ports import IssuedKeyPair, KeyMap

ED25519_ALGORITHM: Final = 1
"""Pylon's number for Ed25519, the only algorithm there is."""

SEED_BYTES: Final = 32
"""The length of an Ed25519 private key, RFC 8032 §5.1.5."""

_HEX: Final = frozenset("0123456789abcdefABCDEF")

_MAX_DEPTH: Final = 64
"""How deep an entry may be nested. Pylon's answers are five deep at most; Python's reader gives up
on the whole of one that is some thousand deep anywhere."""

# A text, with what is escaped in it, or one bracket. A text that does not end goes to the end of
# all, so that no place is looked at twice; and nothing is noted in order to go back (`+` behind a
# quantifier), which took ninety bytes for every escape of a hostile text.
_TEXT_OR_BRACKET: Final = re.compile(r'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


def parse_json(body: bytes) -> Any:
    """Parses JSON strictly: no repeated names, no NaN, no absurd numbers or depths.

    Raises:
        PylonAnswerInvalid: When it is anything else.
    """
    try:
        return json.loads(
            body.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        # UnicodeDecodeError and JSONDecodeError are ValueErrors; their text repeats the body.
        raise PylonAnswerInvalid("Pylon's answer is not JSON") from None


def parse_json_map(body: bytes) -> Any:
    """Parses JSON as strictly, but lets what cannot be spoil nothing but its own place.

    Repeated names, NaN, absurd numbers and what is nested absurdly deep become an object that no
    reader of ours accepts, so that one entry of many can be left out and the others count.

    Raises:
        PylonAnswerInvalid: When it is no JSON at all.
    """
    try:
        text = body.decode("utf-8")
        try:
            return _load_map(text)
        except RecursionError:
            return _load_map(_without_depths(text))
    except (ValueError, RecursionError):
        raise PylonAnswerInvalid("Pylon's answer is not JSON") from None


def _load_map(text: str) -> Any:
    return json.loads(
        text,
        object_pairs_hook=_with_repeats_marked,
        parse_constant=_nonsense,
        parse_int=_parse_int,
    )


def _without_depths(text: str) -> str:
    """Puts NaN, which is nonsense as well, in the place of whatever is nested too deep."""
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


class _Nonsense:
    """Stands for a value that cannot be."""


def _nonsense(_: str) -> _Nonsense:
    return _Nonsense()


def _parse_int(digits: str) -> int | _Nonsense:
    try:
        return int(digits)
    except ValueError:  # Python reads no more than 4300 of them.
        return _Nonsense()


def _with_repeats_marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Which of them is meant, nobody can say: none.
        times = Counter(name for name, _ in pairs)
        found |= {name: _Nonsense() for name in found if times[name] > 1}
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is repeated")
    return found


def _no_constant(_: str) -> NoReturn:
    raise ValueError("not a JSON number")


def parse_hex(text: object, *, lengths: tuple[int, ...]) -> bytes:
    """Reads hexadecimal with or without `0x`, in either case, of exactly one of the lengths.

    Raises:
        PylonAnswerInvalid: When it is anything else; the text, which may be a secret, is not
            repeated.
    """
    if not isinstance(text, str):
        raise PylonAnswerInvalid("a key is not a text")
    digits = text[2:] if text[:2] in {"0x", "0X"} else text
    if len(digits) % 2 or len(digits) // 2 not in lengths or not _HEX.issuperset(digits):
        raise PylonAnswerInvalid(
            f"a key is not {' or '.join(str(length) for length in lengths)} bytes of hexadecimal "
            f"(it has {len(digits)} digits)"
        )
    return bytes.fromhex(digits)


def parse_certificate(answer: object) -> bytes:
    """Reads one certificate object: the raw public key in it.

    Raises:
        PylonAnswerInvalid: When it is none.
    """
    if not isinstance(answer, dict):
        raise PylonAnswerInvalid("a certificate is not a JSON object")
    require_ed25519(answer.get("algorithm"))
    key = parse_hex(answer.get("public_key"), lengths=(32,))
    if not is_usable_public_key(key):
        raise PylonAnswerInvalid("a public key is of small order, and proves nothing")
    return key


def require_ed25519(algorithm: object) -> None:
    """Raises PylonAnswerInvalid when the algorithm is not exactly the number 1."""
    if algorithm != ED25519_ALGORITHM or type(algorithm) is not int:
        raise PylonAnswerInvalid("the algorithm of a certificate is not 1 (Ed25519)")


def parse_certificates(answer: object) -> KeyMap:
    """Reads the map of all certificates; one bad entry never spoils the others.

    Raises:
        PylonAnswerInvalid: When it is no map.
    """
    if not isinstance(answer, dict):
        raise PylonAnswerInvalid("the certificates are not a JSON object")
    keys: dict[Hotkey, bytes] = {}
    rejected = 0
    for name, value in answer.items():
        try:
            keys[Hotkey.parse(name)] = parse_certificate(value)
        except (InvalidHotkey, PylonAnswerInvalid):
            rejected += 1
    if rejected and not keys and _is_error_body(answer):
        raise PylonAnswerInvalid("an error body came with status 200")
    return KeyMap(keys=MappingProxyType(keys), rejected=rejected)


def _is_error_body(answer: dict[str, Any]) -> bool:
    return "detail" in answer or "status_code" in answer


def parse_key_pair(answer: object) -> IssuedKeyPair:
    """Reads a generated pair; the private key is a seed, or a seed followed by the public key.

    Raises:
        PylonAnswerInvalid: When it is none, or its halves do not belong together.
    """
    public_key = parse_certificate(answer)
    private_key = answer.get("private_key") if isinstance(answer, dict) else None
    if isinstance(private_key, str):
        # A line break is no reason to lose it: its public half is on chain by now.
        private_key = private_key.strip()
    key = parse_hex(private_key, lengths=(SEED_BYTES, SEED_BYTES + len(public_key)))
    seed, appended = key[:SEED_BYTES], key[SEED_BYTES:]
    derived = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    if derived != public_key or appended not in {b"", derived}:
        raise PylonAnswerInvalid("the private key that Pylon made is not that of its public key")
    return IssuedKeyPair(public_key=public_key, private_key=seed)


def parse_neurons(answer: object) -> tuple[Mapping[Hotkey, Neuron], int]:
    """Reads the neurons of a subnet: the good entries, and how many were nonsense.

    Raises:
        PylonAnswerInvalid: When it is no such answer.
    """
    neurons = answer.get("neurons") if isinstance(answer, dict) else None
    if not isinstance(neurons, dict):
        raise PylonAnswerInvalid("the neurons are not a JSON object")
    found: dict[Hotkey, Neuron] = {}
    rejected = 0
    for name, value in neurons.items():
        try:
            found[Hotkey.parse(name)] = _parse_neuron(value)
        except (InvalidHotkey, PylonAnswerInvalid):
            rejected += 1
    return MappingProxyType(found), rejected


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
