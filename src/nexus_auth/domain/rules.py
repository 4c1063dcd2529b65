"""The rules that an access policy can be made of. Each can only refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron, StakeKind

_NO_PLACE: Final = "has no uid on the subnet"


@dataclass(frozen=True, slots=True)
class OnlyHotkeys:
    """Admits the listed hotkeys alone. An empty list admits nobody."""

    hotkeys: frozenset[Hotkey]
    needs_neuron: ClassVar[bool] = False

    @property
    def demand(self) -> str:
        """See `Rule.demand`."""
        return f"on the list of {len(self.hotkeys)} allowed"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        return None if hotkey in self.hotkeys else "is not on the list of allowed hotkeys"


@dataclass(frozen=True, slots=True)
class NotHotkeys:
    """Refuses the listed hotkeys, whatever other rules say."""

    hotkeys: frozenset[Hotkey]
    needs_neuron: ClassVar[bool] = False

    @property
    def demand(self) -> str:
        """See `Rule.demand`."""
        return f"not on the list of {len(self.hotkeys)} denied"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        return "is on the list of denied hotkeys" if hotkey in self.hotkeys else None


@dataclass(frozen=True, slots=True)
class RequireUid:
    """Refuses whoever has no place in the subnet now."""

    needs_neuron: ClassVar[bool] = True

    @property
    def demand(self) -> str:
        """See `Rule.demand`."""
        return "a uid on the subnet"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        return _NO_PLACE if neuron is None else None


@dataclass(frozen=True, slots=True)
class RequireValidatorPermit:
    """Refuses whoever may not validate."""

    needs_neuron: ClassVar[bool] = True

    @property
    def demand(self) -> str:
        """See `Rule.demand`."""
        return "a validator permit"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        if neuron is None:
            return _NO_PLACE
        return None if neuron.validator_permit else "has no validator permit"


@dataclass(frozen=True, slots=True)
class RequireActive:
    """Refuses whoever has not been active lately, as the chain sees it."""

    needs_neuron: ClassVar[bool] = True

    @property
    def demand(self) -> str:
        """See `Rule.demand`."""
        return "active"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        if neuron is None:
            return _NO_PLACE
        return None if neuron.active else "is not active"


@dataclass(frozen=True, slots=True)
class MinStake:
    """Refuses whoever has less stake of a kind than so many whole tokens."""

    kind: StakeKind
    minimum: float
    needs_neuron: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.minimum) or self.minimum < 0:
            raise ValueError("a minimum stake is a finite number, not negative")

    @property
    def demand(self) -> str:
        """See `Rule.demand`."""
        return f"stake of at least {self.minimum:.12g} {self.kind.value}"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        if neuron is None:
            return _NO_PLACE
        stake = neuron.stake(self.kind)
        # Written so that a stake that is no number would be refused as well.
        if stake >= self.minimum:
            return None
        return f"stake {stake:.12g} below {self.minimum:.12g} {self.kind.value}"


@dataclass(frozen=True, slots=True)
class Nobody:
    """Refuses everybody, for a reason that has nothing to do with who it is."""

    reason: str
    needs_neuron: ClassVar[bool] = False

    @property
    def demand(self) -> str:
        """See `Rule.demand`."""
        return "nobody"

    def objection(self, hotkey: Hotkey, neuron: Neuron | None) -> str | None:  # noqa: ARG002 - Rule
        """See `Rule.objection`."""
        return self.reason
