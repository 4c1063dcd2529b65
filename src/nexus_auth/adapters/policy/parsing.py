"""Reads access policies from TOML, and the simple one that fits into a few settings.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from nexus_auth.adapters.files import load_bytes
from nexus_auth.domain.errors import InvalidHotkey, NexusAuthError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import StakeKind
from nexus_auth.domain.policy import (
    ADMIT_REGISTERED,
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

MAX_FILE_BYTES: Final = 512 * 1024
"""A list of 4,096 hotkeys, as many as a subnet may grow to, takes 213 KB."""

_MAX_SIGNS: Final = 4096
"""More dots, brackets or braces outside of comment lines are in no policy. Each costs the TOML
parser up to a kilobyte."""

_COMMENT_LINES: Final = re.compile(r"^[ \t]*#.*", re.MULTILINE)

# A key of many parts, for which the TOML parser takes time and memory by the square; and a number
# of many digits, of which each takes 120 bytes.
_ENDLESS: Final = re.compile(
    r"^(?:[^.\n]*+\.){65}|(?<![0-9A-Fa-f_])[0-9A-Fa-f_]{10000}", re.MULTILINE
)

_STAKE_PROBLEM: Final = (
    "expected an amount of total stake such as 1000, or amounts by kind such as "
    "total=1000,alpha=5 (kinds: alpha, tao, total; whole tokens, or with a unit as in 5e9 rao)"
)

_AMOUNT: Final = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?) *(?P<unit>tokens?|rao)?", re.IGNORECASE
)
_RAO_PER_TOKEN: Final = 10**9

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class PolicyInvalid(NexusAuthError, ValueError):
    """A policy file or setting cannot be read, or is not a valid policy.

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
    """Reads policies from TOML text, as `load_policies` does."""
    code = _COMMENT_LINES.sub("", text)
    if max(map(code.count, ".[{")) > _MAX_SIGNS or _ENDLESS.search(code) is not None:
        raise PolicyInvalid("", "more than a policy can hold: endless keys, tables or numbers")
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
            shown = key if _PLAIN_KEY.fullmatch(key) else ascii(key[:64])
            raise PolicyInvalid(
                f"{place}.{shown}".lstrip("."), f"unknown; expected one of {', '.join(known)}"
            )


def _parse_hotkeys(place: str, value: object) -> frozenset[Hotkey]:
    if not isinstance(value, list):
        raise PolicyInvalid(place, "expected a list of SS58 addresses")
    hotkeys = set()
    for position, text in enumerate(value, start=1):
        if not isinstance(text, str):
            raise PolicyInvalid(place, f"entry {position} is not a text")
        try:
            hotkeys.add(Hotkey.parse(text))
        except InvalidHotkey as exc:
            raise PolicyInvalid(place, f"entry {position}, {text[:64]!r}: {exc}") from None
    return frozenset(hotkeys)


def _parse_amount(place: str, value: object) -> float:
    """Reads an amount of stake: a number of whole tokens, or a text with a unit."""
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
    return lambda place, value: [build(_parse_hotkeys(place, value))]


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
        MinStake(StakeKind(kind), _parse_amount(f"{place}.{kind}", amount))
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


# The settings.


@dataclass(frozen=True, slots=True)
class HotkeyList:
    """Hotkeys, as a setting lists them: SS58 addresses separated by commas."""

    hotkeys: frozenset[Hotkey]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the list; `PolicyInvalid` names the first entry that is no address."""
        return cls(_parse_hotkeys("", [entry.strip() for entry in text.split(",")]))

    def __str__(self) -> str:
        return ",".join(sorted(hotkey.address for hotkey in self.hotkeys))


@dataclass(frozen=True, slots=True)
class StakeMinimums:
    """The least stake, of one kind or several."""

    rules: tuple[MinStake, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `1000`, `total=1000,alpha=5` or `5e9 rao`; no kind twice."""
        found: dict[StakeKind, MinStake] = {}
        for entry in text.split(","):
            word, amount = entry.split("=", 1) if "=" in entry else (StakeKind.TOTAL, entry)
            try:
                rule = MinStake(StakeKind(word.strip()), _parse_amount("", amount))
            except ValueError:
                raise PolicyInvalid("", _STAKE_PROBLEM) from None
            if rule.kind in found:
                raise PolicyInvalid("", f"{rule.kind.value} is given twice; {_STAKE_PROBLEM}")
            found[rule.kind] = rule
        return cls(tuple(found.values()))

    def __str__(self) -> str:
        # No exponents, so that `parse` reads it again; a rao is the smallest amount.
        amounts = ((rule.kind.value, f"{rule.minimum:.9f}") for rule in self.rules)
        return ",".join(f"{kind}={amount.rstrip('0').rstrip('.')}" for kind, amount in amounts)


def build_policies(
    *,
    allow: HotkeyList | None = None,
    deny: HotkeyList | None = None,
    require_validator_permit: bool = False,
    min_stake: StakeMinimums | None = None,
) -> PolicySet:
    """Builds the one policy that settings describe; without any, it admits every registered hotkey.

    `deny` comes first, so that the clearest objection is named first.
    """
    rules: list[Rule] = []
    if deny is not None:
        rules.append(NotHotkeys(deny.hotkeys))
    if allow is not None:
        rules.append(OnlyHotkeys(allow.hotkeys))
    if require_validator_permit:
        rules.append(RequireValidatorPermit())
    if min_stake is not None:
        rules += min_stake.rules
    if not rules:
        return PolicySet.of(ADMIT_REGISTERED)
    return PolicySet.of(AccessPolicy(name="default", rules=tuple(rules)))
