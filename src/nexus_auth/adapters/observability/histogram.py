"""A histogram of seconds that costs one list index an observation."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Final, Self

DECISION_BOUNDS: Final = (
    *(0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5),
    *(0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0),
)
"""From a remembered certificate (some 10 us) to the longest that a caller waits for Pylon (2 s)."""

PYLON_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From a Pylon beside us that has the answer at hand to one that asks the chain first."""


@dataclass(slots=True)
class Histogram:
    """How many observations fell between which bounds.

    Attributes:
        bounds: Upper bounds, each included, in growing order.
        counts: One more than bounds: the last counts what lies above all of them.
        total: The sum of all observations.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Self:
        """A histogram without observations."""
        return cls(bounds, [0] * (len(bounds) + 1))

    def add(self, seconds: float) -> None:
        """Adds one observation."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def absorb(self, other: Histogram) -> None:
        """Adds the observations of another histogram of the same bounds."""
        for index, count in enumerate(other.counts):
            self.counts[index] += count
        self.total += other.total

    @property
    def observations(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The bound below which a share of the observations lies; None where there are none.

        An upper estimate, as fine as the bounds; what lies above all of them counts as the last.
        """
        wanted, seen = share * self.observations, 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return self.bounds[min(index, len(self.bounds) - 1)]
        return None

    def to_plain(self) -> list[float]:
        """The counts, and the total last; the reader knows the bounds."""
        return [*self.counts, self.total]

    @classmethod
    def from_plain(cls, bounds: tuple[float, ...], plain: list[Any]) -> Self:
        """Reads what `to_plain` wrote."""
        return cls(bounds, plain[:-1], plain[-1])
