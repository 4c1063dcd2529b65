"""Whether a key pair may be asked for, given what can be read before.

Asked for one, Pylon replaces the key of its own identity's hotkey, whichever address the user has
named; and the chain takes a key together with an axon alone (`serve_axon_tls`, pallet `serving` of
subtensor). All of this is pure: what is known comes in, a verdict goes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, unique
from typing import Final

from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuance import ABSENT_CONFIRMATIONS
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.ports import KeyMap

BLOCK: Final = timedelta(seconds=12)
"""How often the chain makes a block."""

SERVING_RATE_LIMIT: Final = 50 * BLOCK
"""After how long the chain takes the next axon of a hotkey, by default; subnets may differ."""

UNUSABLE: Final = b""
"""In the place of a key that is on chain, but is none that can be used."""


@unique
class Unknown(Enum):
    """In the place of what could not be read."""

    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two keys on chain, read one right after the other; None where none was found.

    Attributes:
        own: The key of the identity's own hotkey, whichever that is.
        named: The key of the hotkey that the user has named.
    """

    own: bytes | None
    named: bytes | None

    @property
    def is_one_key(self) -> bool:
        """Whether both have the same key."""
        return self.own is not None and self.own == self.named


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What is known before a key pair is asked for.

    Attributes:
        hotkey: The one that the user has named.
        is_forced: Whether the user wants the pair replaced whatever is there.
        place: The named hotkey's place on the subnet; None where it has none.
        comparisons: Of the identity with the named hotkey, the first one first.
        subnet: All keys of the subnet; None where they could not be read.
    """

    hotkey: Hotkey
    is_forced: bool = False
    place: Place | Unknown | None = Unknown.UNKNOWN
    comparisons: tuple[Comparison, ...] = ()
    subnet: KeyMap | None = None

    @property
    def is_identity_proven(self) -> bool:
        """Whether the identity is the named hotkey, as far as their keys tell."""
        return any(each.is_one_key for each in self.comparisons)

    def holders(self) -> tuple[Hotkey, ...]:
        """The hotkeys that have the identity's key on chain, as far as that is known."""
        own = {each.own for each in self.comparisons}
        keys = {} if self.subnet is None else self.subnet.keys
        return tuple(hotkey for hotkey, key in keys.items() if key in own)


@unique
class Verdict(Enum):
    """What follows; all but the first two are reasons to stop."""

    COMPARE_AGAIN = "compare-again"
    """Compare once more, after a pause."""
    ASK = "ask"
    """Nothing that can be read speaks against asking for a key pair."""
    OTHER_HOTKEY = "other-hotkey"
    """The identity is another hotkey than the named one."""
    SHARED_KEY = "shared-key"
    """Other hotkeys have the same key, so that the identity may be any of them."""
    NO_PLACE = "no-place"
    """The hotkey has no place on the subnet."""
    NO_AXON = "no-axon"
    """The hotkey serves no axon."""
    TOO_SOON = "too-soon"
    """The hotkey served its last axon within the chain's rate limit."""


def judge(known: Prospect) -> Verdict:
    """Says whether a key pair may be asked for. What is not known speaks against nothing."""
    # Whose key it is comes first: the place of the wrong hotkey does not matter.
    verdict = _judge_identity(known)
    return _judge_place(known.place) if verdict is Verdict.ASK else verdict


def _judge_identity(known: Prospect) -> Verdict:
    if known.is_identity_proven:
        is_shared = any(hotkey != known.hotkey for hotkey in known.holders())
        return Verdict.SHARED_KEY if is_shared and not known.is_forced else Verdict.ASK
    nothing = Comparison(own=None, named=None)
    has_nothing = all(each == nothing for each in known.comparisons)
    # To Pylon, "no key" and "cannot read the chain now" are one answer, and a key may be replaced
    # between two readings. Where the whole subnet has no key, there is none to be mixed up.
    is_bare = known.subnet is not None and not known.subnet.keys and not known.subnet.rejected
    is_sure = bool(known.comparisons) and has_nothing and is_bare
    if not is_sure and len(known.comparisons) < ABSENT_CONFIRMATIONS:
        return Verdict.COMPARE_AGAIN
    return Verdict.ASK if has_nothing else Verdict.OTHER_HOTKEY


def _judge_place(place: Place | Unknown | None) -> Verdict:
    match place:
        case Unknown.UNKNOWN:
            return Verdict.ASK
        case None:
            return Verdict.NO_PLACE
        case Place(port=0):
            return Verdict.NO_AXON
        case Place(blocks_to_wait=blocks):  # pragma: no branch - the last of them
            return Verdict.TOO_SOON if blocks else Verdict.ASK


def presumed_wait(
    known: Prospect, *, public_key: bytes, made_at: datetime, now: datetime
) -> timedelta:
    """For how long the chain presumably takes no other key, after the pair on disk was made.

    A guess: the subnet may have another limit, the certificate may be newer than its key, and an
    axon may have been served since.

    Args:
        known: What is known of the chain.
        public_key: That of the pair on disk.
        made_at: When its certificate was made (aware, UTC).
        now: The present moment (aware, UTC).

    Returns:
        Nothing where the key on chain is not that of the pair, or the source knows better.
    """
    is_known = isinstance(known.place, Place) and known.place.blocks_to_wait is not None
    if is_known or all(each.named != public_key for each in known.comparisons):
        return timedelta()
    return min(max(made_at + SERVING_RATE_LIMIT - now, timedelta()), SERVING_RATE_LIMIT)


def likely_refusals(known: Prospect, *, presumed: timedelta) -> tuple[Verdict, ...]:
    """Why the chain refused a key all the same; the likeliest cause first.

    Args:
        known: What was known before the key pair was asked for.
        presumed: As of `presumed_wait`.
    """
    if known.is_identity_proven and isinstance(known.place, Place):
        return (Verdict.TOO_SOON,)  # The others were ruled out.
    # Most validators serve no axon. Where the named hotkey does, the identity may be another one.
    if presumed > timedelta() or isinstance(known.place, Place):
        return (Verdict.TOO_SOON, Verdict.NO_AXON, Verdict.NO_PLACE)
    return (Verdict.NO_AXON, Verdict.TOO_SOON, Verdict.NO_PLACE)
