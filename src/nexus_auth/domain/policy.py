"""Who among the registered may enter: rules, policies, and sets of policies.

A policy is a set of rules, and admits a hotkey only when no rule objects. Each rule can only
deny, so that adding one never admits more, and their order decides nothing but which objection
is named first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron, StakeKind


class Rule(Protocol):
    """One reason to deny a registered caller."""

    @property
    def needs_neuron(self) -> bool:
        """Whether the rule looks at the neuron; facts are fetched only where some rule does."""

    @property
    def demand(self) -> str:
        """What the rule demands, in a few words."""

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:
        """Says why the hotkey must not enter, or None.

        Args:
            hotkey: The caller.
            neuron: What the chain says of the caller; None when it has no place on the subnet.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """A named set of rules.

    A policy without rules admits every *registered* hotkey: it never stands alone, but behind the
    proof that the caller holds a registered key.
    """

    name: str
    rules: tuple[Rule, ...] = ()

    @property
    def needs_neurons(self) -> bool:
        """Whether some rule looks at neurons."""
        return any(rule.needs_neuron for rule in self.rules)

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:
        """The first rule's objection, or None when none objects."""
        for rule in self.rules:
            objection = rule.objection(hotkey, neuron)
            if objection is not None:
                return objection
        return None

    def explain(self, hotkey: Hotkey, neuron: Neuron | None) -> tuple[tuple[Rule, str | None], ...]:
        """Every rule with its objection, in order."""
        return tuple((rule, rule.objection(hotkey, neuron)) for rule in self.rules)


ADMIT_REGISTERED: Final = AccessPolicy(name="registered")
"""Admits every registered hotkey."""


@dataclass(frozen=True, slots=True)
class OnlyHotkeys:
    """Admits the listed hotkeys alone. An empty list admits none."""

    hotkeys: frozenset[Hotkey]
    needs_neuron = False

    @property
    def demand(self) -> str:
        """See `Rule.demand`."""
        return f"on the list of {len(self.hotkeys)} allowed"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        return None if hotkey in self.hotkeys else "is not on the list of allowed hotkeys"


@dataclass(frozen=True, slots=True)
class NotHotkeys:
    """Denies the listed hotkeys, whatever other rules say."""

    hotkeys: frozenset[Hotkey]
    needs_neuron = False

    @property
    def demand(self) -> str:
        """See `Rule.demand`."""
        return f"not on the list of {len(self.hotkeys)} denied"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        return "is on the list of denied hotkeys" if hotkey in self.hotkeys else None


class _NeuronRule:
    """A rule about the neuron: without one, no such rule admits a hotkey."""

    __slots__ = ()
    needs_neuron = True

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        return "has no uid on the subnet" if neuron is None else self._problem_of(neuron)

    def _problem_of(self, neuron: Neuron) -> str | None:  # noqa: ARG002 - for the rules below
        return None


@dataclass(frozen=True, slots=True)
class RequireUid(_NeuronRule):
    """Denies hotkeys that have no place on the subnet now."""

    demand = "a uid on the subnet"


@dataclass(frozen=True, slots=True)
class RequireValidatorPermit(_NeuronRule):
    """Denies hotkeys without a validator permit."""

    demand = "a validator permit"

    def _problem_of(self, neuron: Neuron) -> str | None:
        return None if neuron.validator_permit else "has no validator permit"


@dataclass(frozen=True, slots=True)
class RequireActive(_NeuronRule):
    """Denies hotkeys that the chain does not count as active."""

    demand = "active"

    def _problem_of(self, neuron: Neuron) -> str | None:
        return None if neuron.active else "is not active"


@dataclass(frozen=True, slots=True)
class MinStake(_NeuronRule):
    """Denies hotkeys with less stake of a kind than a number of whole tokens."""

    kind: StakeKind
    minimum: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.minimum) or self.minimum < 0:
            raise ValueError("a minimum stake is a finite number, not negative")

    @property
    def demand(self) -> str:
        """See `Rule.demand`."""
        return f"stake of at least {self.minimum:.12g} {self.kind.value}"

    def _problem_of(self, neuron: Neuron) -> str | None:
        stake = neuron.stake(self.kind)
        # Written so that a stake that is no number would be denied as well.
        if stake >= self.minimum:
            return None
        return f"stake {stake:.12g} below {self.minimum:.12g} {self.kind.value}"


@dataclass(frozen=True, slots=True)
class AdmitNone:
    """Denies every caller, for a reason that has nothing to do with the caller."""

    reason: str
    needs_neuron = False
    demand = "no hotkey"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        return self.reason


# Plain in every place where it stands: a file, a header, a proxy's configuration.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def parse_policy_name(text: str) -> str:
    """Reads the name of an access policy.

    Raises:
        ValueError: When no policy can have it.
    """
    if _NAME.fullmatch(text) is None:
        raise ValueError("expected 1 to 64 letters, digits, dots, dashes and underscores")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySet:
    """Named policies, one of which is the default."""

    policies: Mapping[str, AccessPolicy]
    default: str

    def __post_init__(self) -> None:
        if self.default not in self.policies:
            raise ValueError("the default policy is none of the policies")
        object.__setattr__(self, "policies", MappingProxyType(dict(self.policies)))

    @classmethod
    def of(cls, policy: AccessPolicy) -> PolicySet:
        """A set of one policy."""
        return cls(policies={policy.name: policy}, default=policy.name)

    @property
    def needs_neurons(self) -> bool:
        """Whether some rule of some policy looks at neurons."""
        return any(policy.needs_neurons for policy in self.policies.values())

    def named(self, name: str | None) -> AccessPolicy | None:
        """The policy of that name, the default for None; None when there is no such policy."""
        return self.policies.get(self.default if name is None else name)

    def chosen(self, names: Sequence[str]) -> AccessPolicy:
        """The policy that a proxy has chosen by name: the default unless a name is given.

        More than one name, and a name that no policy has, choose a policy that denies
        every caller: the choice must not be guessed.
        """
        if not names:
            return self.policies[self.default]
        if len(names) > 1:
            return _TWO_POLICIES
        # The name is not repeated: it comes from outside.
        return self.policies.get(names[0], _UNKNOWN_POLICY)


_TWO_POLICIES: Final = AccessPolicy(
    name="", rules=(AdmitNone("more than one policy was asked for"),)
)
_UNKNOWN_POLICY: Final = AccessPolicy(
    name="", rules=(AdmitNone("the policy that was asked for does not exist"),)
)
