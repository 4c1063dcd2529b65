"""Reads the simple policies that fit into a few settings: one policy, named `default`.

The texts are read by the parsers of a policy file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from nexus_auth.adapters.policy.toml_file import PolicyInvalid, parse_amount, parse_hotkeys
from nexus_auth.domain.neuron import StakeKind
from nexus_auth.domain.policy import (
    ADMIT_REGISTERED,
    AccessPolicy,
    MinStake,
    NotHotkeys,
    OnlyHotkeys,
    PolicySet,
    RequireValidatorPermit,
)

if TYPE_CHECKING:
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.policy import Rule

NAME: Final = "default"
"""The name of the policy that settings make."""

_STAKE_PROBLEM: Final = (
    "expected an amount of total stake such as 1000, or amounts by kind such as "
    "total=1000,alpha=5 (kinds: alpha, tao, total; whole tokens, or with a unit as in 5e9 rao)"
)


@dataclass(frozen=True, slots=True)
class HotkeyList:
    """Hotkeys, as a setting lists them: SS58 addresses separated by commas."""

    hotkeys: frozenset[Hotkey]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the list.

        Raises:
            ValueError: Naming the first entry that is no address.
        """
        try:
            return cls(parse_hotkeys("", [entry.strip() for entry in text.split(",")]))
        except PolicyInvalid as exc:
            raise ValueError(exc.problem) from None

    def __str__(self) -> str:
        return ",".join(sorted(hotkey.address for hotkey in self.hotkeys))


@dataclass(frozen=True, slots=True)
class StakeMinimums:
    """The least stake, of one kind or several."""

    rules: tuple[MinStake, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `1000`, `total=1000,alpha=5` or `5e9 rao`.

        Raises:
            ValueError: When it is none of these, or names a kind twice.
        """
        found: dict[StakeKind, MinStake] = {}
        for entry in text.split(","):
            word, amount = entry.split("=", 1) if "=" in entry else (StakeKind.TOTAL, entry)
            try:
                rule = MinStake(StakeKind(word.strip()), parse_amount("", amount))
            except (ValueError, PolicyInvalid):
                raise ValueError(_STAKE_PROBLEM) from None
            if rule.kind in found:
                raise ValueError(f"{rule.kind.value} is given twice; {_STAKE_PROBLEM}")
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

    Args:
        allow: The only hotkeys that may enter.
        deny: Hotkeys that may not enter, whatever the other rules say.
        require_validator_permit: Whether only validators may enter.
        min_stake: The least stake.
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
    return PolicySet.of(AccessPolicy(name=NAME, rules=tuple(rules)))
