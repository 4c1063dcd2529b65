"""Reads the simple policies that fit into a few settings.

The short forms say nothing that a policy file could not say: one policy, named `default`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from nexus_auth.adapters.policy.toml_file import PolicyInvalid, parse_amount
from nexus_auth.domain.errors import InvalidHotkey
from nexus_auth.domain.hotkey import Hotkey
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
        hotkeys = set()
        for position, entry in enumerate(text.split(","), start=1):
            try:
                hotkeys.add(Hotkey.parse(entry.strip()))
            except InvalidHotkey as exc:
                raise ValueError(f"entry {position}, {entry.strip()!r}: {exc}") from None
        return cls(frozenset(hotkeys))

    def __str__(self) -> str:
        return ",".join(sorted(hotkey.address for hotkey in self.hotkeys))


@dataclass(frozen=True, slots=True)
class StakeMinimums:
    """The least stake of one kind or several."""

    rules: tuple[MinStake, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `1000`, `total=1000,alpha=5` or `5e9 rao`.

        Raises:
            ValueError: When it is nothing of that sort, or names a kind twice.
        """
        found: dict[StakeKind, float] = {}
        for entry in text.split(","):
            word, equals, amount = entry.partition("=")
            if not equals:
                word, amount = StakeKind.TOTAL.value, entry
            try:
                kind = StakeKind(word.strip())
                minimum = parse_amount("", amount)
            except (ValueError, PolicyInvalid):
                raise ValueError(_STAKE_PROBLEM) from None
            if kind in found:
                raise ValueError(f"{kind.value} is given twice; {_STAKE_PROBLEM}")
            found[kind] = minimum
        return cls(tuple(MinStake(kind, minimum) for kind, minimum in found.items()))

    def __str__(self) -> str:
        # No exponents, so that `parse` takes it back; nobody counts below a rao.
        amounts = ((rule.kind.value, f"{rule.minimum:.9f}") for rule in self.rules)
        return ",".join(f"{kind}={amount.rstrip('0').rstrip('.')}" for kind, amount in amounts)


def build_policies(
    *,
    allow: HotkeyList | None = None,
    deny: HotkeyList | None = None,
    require_validator_permit: bool = False,
    min_stake: StakeMinimums | None = None,
) -> PolicySet:
    """Makes the one policy that the settings describe; every registered hotkey where they don't.

    Args:
        allow: Nobody else gets in.
        deny: They do not get in, whatever else is said.
        require_validator_permit: Whether only validators get in.
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
