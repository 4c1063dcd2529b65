"""What is known of a subnet at one moment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum, unique
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

from nexus_auth.domain.ed25519 import is_usable_public_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron

CHANGED_AT_LEAST: Final = 4
"""So many keys have changed where that is suspicious: the few of a small subnet may all rotate."""

SHARED_BY_AT_LEAST: Final = 3
"""So many hotkeys have one key where that is suspicious: an owner may use it for two."""


@unique
class Suspicion(StrEnum):
    """How an answer is too unlike the one before it to be believed at once."""

    LOST = "lost"
    """It is empty, or lost more than half of the hotkeys or neurons. What it says counts."""
    CHANGED = "changed"
    """It has another key for more than half of the hotkeys, or one key for most of them all of a
    sudden. Nothing in it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A finalised block of the chain.

    Attributes:
        number: Its height.
        hash: Its hash, as a node writes it: `0x` and 64 hexadecimal digits in lower case.
        time: What the block says that the time is (aware, UTC); where its chain keeps no time, when
            the block was first seen.
    """

    number: int
    hash: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetSnapshot:
    """Facts about one subnet that were true together.

    Attributes:
        keys: The registered raw Ed25519 public keys; each is one that may be used.
        said_at: When their fetch began (aware, UTC): the source answered later, never earlier.
        neurons: What the chain says of each hotkey; None where that was not fetched.
        block: The block that says all this; None where the source names none.
    """

    keys: Mapping[Hotkey, bytes]
    said_at: datetime
    neurons: Mapping[Hotkey, Neuron] | None = None
    block: Block | None = None

    def __post_init__(self) -> None:
        usable = {h: key for h, key in self.keys.items() if is_usable_public_key(key)}
        object.__setattr__(self, "keys", MappingProxyType(usable))
        if self.neurons is not None:
            object.__setattr__(self, "neurons", MappingProxyType(dict(self.neurons)))

    def suspicion_after(self, previous: SubnetSnapshot) -> Suspicion | None:
        """Says how this is suspicious after `previous`; None where it is plausible.

        Subnets change by a few hotkeys at a time, and owners rotate on their own. A chain node that
        is still catching up, or a source that could not read it or mixes things up, is more likely
        than so many hotkeys leaving or rotating at once.
        """
        if _changed(previous.keys, self.keys) or _became_one(previous.keys, self.keys):
            return Suspicion.CHANGED
        if _shrank(previous.keys, self.keys):
            return Suspicion.LOST
        if previous.neurons is None or self.neurons is None:
            return None
        return Suspicion.LOST if _shrank(previous.neurons, self.neurons) else None

    def is_behind(self, other: SubnetSnapshot) -> bool:
        """Says whether an earlier block of the chain says this: keys rotated since are not in it.

        Finalised blocks are never taken back, so the node that says this has not caught up.
        """
        mine, theirs = self.block, other.block
        return mine is not None and theirs is not None and mine.number < theirs.number

    def updated_by(self, later: SubnetSnapshot) -> Self:
        """This snapshot with what `later` says; what `later` leaves out stays.

        Rotated and new keys count from the moment they are seen: an old key must not live on
        because the answer that replaced it left out others. Age and block stay the older ones.
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


def _changed(before: Mapping[Hotkey, bytes], after: Mapping[Hotkey, bytes]) -> bool:
    """Whether more than half of the hotkeys that are still there have another key."""
    common = changed = 0
    for hotkey, key in after.items():
        old = before.get(hotkey)
        common += old is not None
        changed += old is not None and old != key
    return changed >= CHANGED_AT_LEAST and changed * 2 > common


def _became_one(before: Mapping[Hotkey, bytes], after: Mapping[Hotkey, bytes]) -> bool:
    """Whether most hotkeys have the same key, and some that had different ones have it just now."""
    for key, shared_by in Counter(after.values()).most_common(1):
        if shared_by >= SHARED_BY_AT_LEAST and shared_by * 2 > len(after):
            holders = [hotkey for hotkey, each in after.items() if each == key]
            return len({before[hotkey] for hotkey in holders if hotkey in before} - {key}) > 1
    return False
