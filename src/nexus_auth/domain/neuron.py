"""What the chain says of a hotkey's place in the subnet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

_MAX_UID: Final = 2**16 - 1


@unique
class StakeKind(StrEnum):
    """Which stake is meant. Amounts are whole tokens (1 token = 10^9 rao)."""

    ALPHA = "alpha"
    """Stake in the subnet's own token."""
    TAO = "tao"
    """Stake in TAO on the root network, as it counts for the subnet."""
    TOTAL = "total"
    """What the chain weighs the neuron with: alpha, and TAO by the chain's weight of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A hotkey's place on a subnet, as far as publishing a key needs it.

    The chain stores a certificate with the axon, and takes none without one (port 0), nor soon
    after the last: `serve_axon_tls` of subtensor's pallet `serving`.

    Attributes:
        ip: The address of the axon; `0.0.0.0` where it was never served.
        port: Its port; 0 where it was never served.
        blocks_to_wait: For how many blocks the chain takes no other axon; 0 where it takes one
            now, None where the source does not know.
    """

    ip: str
    port: int
    blocks_to_wait: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neuron:
    """What the chain says of one hotkey on the subnet.

    Source: `GET …/block/recent/neurons` and `…/block/latest/neurons` of Pylon, or what Pylon has it
    from: subtensor's runtime API `SubnetInfoRuntimeApi`.

    Attributes:
        uid: Its place in the subnet, 0 to 65535.
        validator_permit: Whether it may validate.
        active: Whether it has set weights lately.
        alpha: Stake in the subnet's token, whole tokens.
        tao: Stake in TAO, whole tokens.
        total: Both as the chain weighs them, whole tokens.
    """

    uid: int
    validator_permit: bool
    active: bool
    alpha: float
    tao: float
    total: float

    def __post_init__(self) -> None:
        if not 0 <= self.uid <= _MAX_UID:
            raise ValueError(f"a uid is a whole number from 0 to {_MAX_UID}")
        for kind, amount in (("alpha", self.alpha), ("tao", self.tao), ("total", self.total)):
            if not math.isfinite(amount) or amount < 0:
                raise ValueError(f"a stake ({kind}) is a finite number, not below 0")

    def stake(self, kind: StakeKind) -> float:
        """The stake of one kind, in whole tokens."""
        match kind:
            case StakeKind.ALPHA:
                return self.alpha
            case StakeKind.TAO:
                return self.tao
            case StakeKind.TOTAL:  # pragma: no branch - the last of them
                return self.total
