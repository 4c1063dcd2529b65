"""Who among the registered may enter.

A policy is a set of rules, and admits a hotkey only when no rule objects. Each rule can only
refuse, so that adding one never admits more, and their order decides nothing but which objection
is named first. Which rules there are stands in a module of its own, `rules`: who only asks a
policy need not load them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron


class Rule(Protocol):
    """One reason to refuse somebody who is registered."""

    @property
    def needs_neuron(self) -> bool:
        """Whether the rule looks at the neuron; facts are fetched only where some rule does."""

    @property
    def demand(self) -> str:
        """What the rule asks for, in a few words."""

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:
        """Says why the hotkey must not enter, or None.

        Args:
            hotkey: Who wants to enter.
            neuron: What the chain says of it; None when it has no place in the subnet.
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
