"""What is known of a subnet at one moment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from nexus_auth.domain.ed25519 import is_usable_public_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetSnapshot:
    """Facts about one subnet that were true together.

    Attributes:
        keys: The registered raw Ed25519 public keys; each is one that may be used.
        said_at: When their fetch began (aware, UTC): the source answered later, never earlier.
        neurons: What the chain says of each hotkey; None where that was not fetched.
    """

    keys: Mapping[Hotkey, bytes]
    said_at: datetime
    neurons: Mapping[Hotkey, Neuron] | None = None

    def __post_init__(self) -> None:
        usable = {h: key for h, key in self.keys.items() if is_usable_public_key(key)}
        object.__setattr__(self, "keys", MappingProxyType(usable))
        if self.neurons is not None:
            object.__setattr__(self, "neurons", MappingProxyType(dict(self.neurons)))

    def is_suspicious_after(self, previous: SubnetSnapshot) -> bool:
        """Says whether this is empty, or lost more than half, where `previous` was full.

        Subnets change by a few hotkeys at a time. A chain node that is still catching up, or a
        source that could not read it, is more likely than so many hotkeys leaving at once.
        """
        if _shrank(previous.keys, self.keys):
            return True
        if previous.neurons is None or self.neurons is None:
            return False
        return _shrank(previous.neurons, self.neurons)

    def updated_by(self, later: SubnetSnapshot) -> Self:
        """This snapshot with what `later` says; what `later` leaves out stays.

        Rotated and new keys count from the moment they are seen: an old key must not live on
        because the answer that replaced it left out others. The age stays the older one.
        """
        neurons = self.neurons
        if neurons is not None and later.neurons is not None:
            neurons = {**neurons, **later.neurons}
        return replace(self, keys={**self.keys, **later.keys}, neurons=neurons)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """A snapshot from a store, with its age as well as it can be known."""

    snapshot: SubnetSnapshot
    age: timedelta


def _shrank(before: Mapping[Hotkey, object], after: Mapping[Hotkey, object]) -> bool:
    """Whether everything is gone, or more than half of what was there."""
    lost = sum(1 for hotkey in before if hotkey not in after)
    return bool(before) and (not after or lost * 2 > len(before))
