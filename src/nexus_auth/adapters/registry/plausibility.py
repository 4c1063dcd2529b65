"""Quarantines an answer that is too unlike the last one until a later answer confirms it.

Pure: keeps one answer, and neither fetches, logs nor looks at a clock.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from nexus_auth.adapters.registry.fetch import CONFIRM_SECONDS

if TYPE_CHECKING:
    from nexus_auth.domain.snapshot import SubnetSnapshot, Suspicion

_EARLY_PART: Final = 0.05
"""A confirmation may come this part of the span early: timers and clocks are not exact."""


class Verdict(Enum):
    """What to do with an answer."""

    PLAUSIBLE = auto()
    """It is as one would expect: serve it."""
    CONFIRMED = auto()
    """It repeats the quarantined answer, late enough: serve it."""
    SUSPICIOUS = auto()
    """It is the first of its kind, and is quarantined now."""
    UNCONFIRMED = auto()
    """It is suspicious like the one before, too soon or in another way; the quarantine goes on."""


class Quarantine:
    """Examines one answer after the other, and holds the last suspicious one."""

    def __init__(self) -> None:
        self._held: tuple[SubnetSnapshot, float] | None = None
        self.suspicion: Suspicion | None = None
        """How the quarantined answer is suspicious; None while there is none."""

    @property
    def confirm_at(self) -> float | None:
        """When a fetch can settle the matter, by the monotonic clock; None while it is empty."""
        return None if self._held is None else self._held[1] + CONFIRM_SECONDS

    def examine(
        self, answer: SubnetSnapshot, *, fetched_at: float, current: SubnetSnapshot | None
    ) -> Verdict:
        """Compares an answer with what is served now (`current`), and with what is quarantined.

        Where nothing may be served (None), there is nothing to lose, and any answer is plausible.
        `fetched_at` is when the answer's fetch began, by the monotonic clock.
        """
        suspicion = None if current is None else answer.suspicion_after(current)
        if suspicion is None:
            self.clear()
            return Verdict.PLAUSIBLE
        held, held_as = self._held, self.suspicion
        self._held, self.suspicion = (answer, fetched_at), suspicion
        if held is None:
            return Verdict.SUSPICIOUS
        if suspicion is held_as and answer.suspicion_after(held[0]) is None:
            if fetched_at - held[1] >= CONFIRM_SECONDS * (1 - _EARLY_PART):
                self.clear()
                return Verdict.CONFIRMED
            # The same again, too soon to count. The span counts from the first of them.
            self._held = answer, held[1]
        return Verdict.UNCONFIRMED

    def clear(self) -> None:
        """Forgets the quarantined answer: another process settled the matter."""
        self._held = self.suspicion = None
