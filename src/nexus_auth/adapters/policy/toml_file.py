"""Reads access policies from TOML.

    default = "validators"

    [policies.validators]
    require_validator_permit = true
    min_stake = { total = 1000 }      # whole tokens; also "250 tokens" or "5e9 rao"
    deny = ["5F…"]

    [policies.friends]
    allow = ["5D…", "5E…"]

Unknown names are not valid: a misspelt rule must not silently be no rule.
"""

from __future__ import annotations

import contextlib
import math
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from nexus_auth.adapters.files import load_bytes
from nexus_auth.domain.errors import InvalidHotkey, NexusAuthError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import StakeKind
from nexus_auth.domain.policy import (
    AccessPolicy,
    MinStake,
    NotHotkeys,
    OnlyHotkeys,
    PolicySet,
    RequireActive,
    RequireUid,
    RequireValidatorPermit,
    Rule,
    parse_policy_name,
)

MAX_FILE_BYTES: Final = 1024 * 1024
"""A policy that lists every hotkey of a subnet several times over stays far below."""

_AMOUNT: Final = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?) *(?P<unit>tokens?|rao)?", re.IGNORECASE
)
_RAO_PER_TOKEN: Final = 10**9

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_KEY_SHOWN: Final = 64


class PolicyInvalid(NexusAuthError):
    """A policy file cannot be read, or is not a valid set of policies.

    Attributes:
        place: Where in the file, as in `policies.validators.min_stake`; empty for the file itself.
        problem: What is wrong and what is expected.
    """

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}" if place else problem)
        self.place = place
        self.problem = problem


def load_policies(path: Path) -> PolicySet:
    """Reads a policy file.

    Raises:
        PolicyInvalid: When it cannot be read, or is not a valid set of policies.
    """
    try:
        content = load_bytes(path, MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise PolicyInvalid("", f"{str(path)!r} cannot be read: {exc.strerror}") from exc
    if len(content) > MAX_FILE_BYTES:
        raise PolicyInvalid("", f"{str(path)!r} is longer than {MAX_FILE_BYTES} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise PolicyInvalid("", f"{str(path)!r} is not UTF-8 text") from None
    return parse_policies(text)


def parse_policies(text: str) -> PolicySet:
    """Reads policies from TOML text.

    Raises:
        PolicyInvalid: When it is not a valid set of policies.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise PolicyInvalid("", f"not valid TOML: {exc}") from None
    except ValueError:
        # tomllib lets it through: Python reads no number of thousands of digits.
        raise PolicyInvalid("", "not valid TOML: a number is too long") from None
    _reject_unknown("", document, ("default", "policies"))
    tables = document.get("policies")
    if not isinstance(tables, dict) or not tables:
        raise PolicyInvalid("policies", "expected at least one table [policies.NAME]")
    policies = {name: _parse_policy(name, table) for name, table in tables.items()}
    default = document.get("default", next(iter(policies)) if len(policies) == 1 else None)
    if not isinstance(default, str) or default not in policies:
        raise PolicyInvalid("default", f"expected one of {', '.join(sorted(policies))}")
    return PolicySet(policies=policies, default=default)


def _parse_policy(name: str, table: object) -> AccessPolicy:
    place = f"policies.{name}"
    try:
        parse_policy_name(name)
    except ValueError as exc:
        raise PolicyInvalid("policies", f"{exc} for a name") from None
    if not isinstance(table, dict):
        raise PolicyInvalid(place, "expected a table")
    _reject_unknown(place, table, _RULES)
    rules: list[Rule] = []
    # In the order of _RULES, deny first, so that the clearest objection is named first.
    for key, parse in _RULES.items():
        if key in table:
            rules += parse(f"{place}.{key}", table[key])
    return AccessPolicy(name=name, rules=tuple(rules))


def _reject_unknown(place: str, table: Mapping[str, object], known: Collection[str]) -> None:
    for key in table:
        if key not in known:
            # A quoted key may hold anything, and the message goes to terminals.
            shown = key if _PLAIN_KEY.fullmatch(key) else ascii(key[:_MAX_KEY_SHOWN])
            raise PolicyInvalid(
                f"{place}.{shown}".lstrip("."), f"unknown; expected one of {', '.join(known)}"
            )


def parse_hotkeys(place: str, value: object) -> frozenset[Hotkey]:
    """Reads a list of SS58 addresses.

    Raises:
        PolicyInvalid: Names the first entry that is none.
    """
    if not isinstance(value, list):
        raise PolicyInvalid(place, "expected a list of SS58 addresses")
    hotkeys = set()
    for position, text in enumerate(value, start=1):
        if not isinstance(text, str):
            raise PolicyInvalid(place, f"entry {position} is not a text")
        try:
            hotkeys.add(Hotkey.parse(text))
        except InvalidHotkey as exc:
            raise PolicyInvalid(place, f"entry {position}, {text!r}: {exc}") from None
    return frozenset(hotkeys)


def parse_amount(place: str, value: object) -> float:
    """Reads an amount of stake: a number of whole tokens, or a text with a unit.

    Raises:
        PolicyInvalid: When it is neither.
    """
    amount = math.nan
    if isinstance(value, str):
        match = _AMOUNT.fullmatch(value.strip())
        if match is not None:
            in_rao = (match["unit"] or "").lower() == "rao"
            amount = float(match["number"]) / (_RAO_PER_TOKEN if in_rao else 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            amount = float(value)
    # Neither NaN nor infinity is an amount.
    if not 0 <= amount < math.inf:
        raise PolicyInvalid(
            place, 'expected an amount of whole tokens such as 1000, or a text such as "5e9 rao"'
        )
    return amount


_Parse = Callable[[str, object], list[Rule]]


def _hotkeys(build: Callable[[frozenset[Hotkey]], Rule]) -> _Parse:
    return lambda place, value: [build(parse_hotkeys(place, value))]


def _switch(build: Callable[[], Rule]) -> _Parse:
    def parse(place: str, value: object) -> list[Rule]:
        if not isinstance(value, bool):
            raise PolicyInvalid(place, "expected true or false")
        return [build()] if value else []

    return parse


def _min_stake(place: str, value: object) -> list[Rule]:
    # An empty table looks like a rule, and would silently be none.
    if not isinstance(value, dict) or not value:
        raise PolicyInvalid(place, "expected a table such as { total = 1000 }")
    _reject_unknown(place, value, tuple(kind.value for kind in StakeKind))
    return [
        MinStake(StakeKind(kind), parse_amount(f"{place}.{kind}", amount))
        for kind, amount in value.items()
    ]


_RULES: Final[Mapping[str, _Parse]] = {
    "deny": _hotkeys(NotHotkeys),
    "allow": _hotkeys(OnlyHotkeys),
    "require_uid": _switch(RequireUid),
    "require_validator_permit": _switch(RequireValidatorPermit),
    "require_active": _switch(RequireActive),
    "min_stake": _min_stake,
}
