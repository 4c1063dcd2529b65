"""Any text as a policy file or setting: policies that do what they say, or our own error."""

from __future__ import annotations

import tomllib
from typing import Any, Final

from fuzz.people import ALICE, BOB
from fuzz.promises import require, require_plain
from nexus_auth.adapters.policy.parsing import (
    HotkeyList,
    PolicyInvalid,
    StakeMinimums,
    parse_policies,
)
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron, StakeKind
from nexus_auth.domain.policy import PolicySet
from tests.builders import a_hotkey

MAX_BYTES: Final = 2048
WORDS: Final = (
    *(b"[policies.a]\n", b"default = ", b"allow = ", b"deny = ", b"require_uid = true\n"),
    *(
        b"require_validator_permit = true\n",
        b"require_active = false\n",
        b"min_stake = { total = 1 }",
    ),
    *(
        b"total=",
        b"alpha=",
        b"tao=",
        b"5e9 rao",
        b"1 token",
        b"nan",
        b"inf",
        b"1e99",
        b"0.0000000001",
    ),
    *(b"{alice}", b"{bob}", b"{mallory}", b'"', b'"""', b"\\u001b", b"\n", b"#", b"1979-05-27"),
)

_RAO: Final = 1e-9
_HOTKEYS: Final = (ALICE, BOB, a_hotkey("mallory"))
_NEURONS: Final = (
    None,
    Neuron(uid=0, validator_permit=False, active=False, alpha=0.0, tao=0.0, total=0.0),
    Neuron(uid=1, validator_permit=True, active=False, alpha=5.0, tao=0.5, total=1000.0),
    Neuron(uid=2, validator_permit=True, active=True, alpha=1e9, tao=1e9, total=1e12),
)
_PLACES: Final = {
    b"{%s}" % name: hotkey.address.encode()
    for name, hotkey in zip((b"alice", b"bob", b"mallory"), _HOTKEYS, strict=True)
}


def check(data: bytes) -> None:
    """Reads the bytes as a file and as each setting."""
    for place, address in _PLACES.items():
        data = data.replace(place, address)
    text = data.decode("utf-8", "replace")
    try:
        policies = parse_policies(text)
    except PolicyInvalid as exc:
        require_plain(str(exc)[:200])
    else:
        _require_what_it_says(policies, tomllib.loads(text))
    _check_hotkeys(text)
    _check_stakes(text)


def _check_hotkeys(text: str) -> None:
    try:
        found = HotkeyList.parse(text)
    except PolicyInvalid as exc:
        require_plain(str(exc)[:200])
    else:
        require(HotkeyList.parse(str(found)) == found, "a list is read as it is written")


def _check_stakes(text: str) -> None:
    try:
        found = StakeMinimums.parse(text)
    except PolicyInvalid as exc:
        require_plain(str(exc)[:200])
        return
    again = StakeMinimums.parse(str(found))
    require(
        [rule.kind for rule in again.rules] == [rule.kind for rule in found.rules]
        and all(
            abs(one.minimum - other.minimum) <= _RAO
            for one, other in zip(again.rules, found.rules, strict=True)
        ),
        "minimums are read as they are written, to a rao",
    )


def _require_what_it_says(policies: PolicySet, document: dict[str, Any]) -> None:
    """Compares every policy with a reading of docs/policy.md that shares no code with ours."""
    tables = document["policies"]
    require(policies.policies.keys() == tables.keys(), "every policy, and no other")
    require(policies.default == document.get("default", policies.default), "the default")
    for name, table in tables.items():
        policy = policies.policies[name]
        for hotkey in _HOTKEYS:
            for neuron in _NEURONS:
                admitted = policy.objection(hotkey, neuron) is None
                require(admitted == _admits(table, hotkey, neuron), f"what {name!r} says")


def _admits(table: dict[str, Any], hotkey: Hotkey, neuron: Neuron | None) -> bool:
    if hotkey.address in table.get("deny", ()):
        return False
    if "allow" in table and hotkey.address not in table["allow"]:
        return False
    minimums: dict[str, Any] = table.get("min_stake", {})
    needs = ("require_uid", "require_validator_permit", "require_active")
    if neuron is None:
        return not (minimums or any(table.get(need) for need in needs))
    return (
        (neuron.validator_permit or not table.get("require_validator_permit"))
        and (neuron.active or not table.get("require_active"))
        and all(
            neuron.stake(StakeKind(kind)) >= _amount(minimum) for kind, minimum in minimums.items()
        )
    )


def _amount(minimum: object) -> float:
    if not isinstance(minimum, str):
        return float(minimum)  # type: ignore[arg-type]  # TOML has given a number
    words = minimum.strip().lower()
    if words.endswith("rao"):
        return float(words.removesuffix("rao")) / 10**9
    return float(words.removesuffix("s").removesuffix("token"))


def seeds() -> dict[str, bytes]:
    """The examples of docs/policy.md, and files that are wrong in one way each."""
    return {
        "file": b'default = "validators"\n[policies.validators]\nrequire_validator_permit = true\n'
        b'min_stake = { total = 1000 }\ndeny = ["{alice}"]\n[policies.team]\nallow = ["{bob}"]\n'
        b"[policies.registered]\n",
        "one": b'[policies.one]\nrequire_uid = true\nmin_stake = { alpha = "5e9 rao", tao = 0.5 }',
        "active": b'[policies.a]\nrequire_active = true\nmin_stake.total = "250 tokens"\n',
        "quoted": b'[policies."a.b"]\nallow = []\ndeny = ["{mallory}", "{alice}"]\n',
        "unknown-rule": b"[policies.a]\nrequire_permit = true\n",
        "escape-in-a-name": b'[policies."\\u001b[2J"]\n',
        "twice": b"[policies.a]\n[policies.a]\n",
        "not-a-number": b"[policies.a]\nmin_stake = { total = nan }\n",
        "long-number": b"[policies.a]\nmin_stake = { total = " + b"9" * 400 + b" }\n",
        "deep": b"a = " + b"[" * 200,
        "hotkeys": b"{alice}, {bob}",
        "stake": b"total=1000,alpha=5e9 rao",
        "not-utf-8": b'default = "\xff"\n',
    }
