"""Freshness and state of what is known, for readiness, metrics and the status page."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from nexus_auth.domain.snapshot import Block


@unique
class Freshness(StrEnum):
    """How good what is known is."""

    STARTING = "starting"
    """Nothing was ever learned."""
    FRESH = "fresh"
    """Learned lately, and the source answers."""
    STALE = "stale"
    """The source does not answer; what is known may still be used."""
    EXPIRED = "expired"
    """The source does not answer, and what was known is too old to be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryHealth:
    """A registry at one moment.

    Attributes:
        freshness: How good what is known is.
        mode: How keys are learned now: `snapshot` or `lookup`.
        size: How many hotkeys are known.
        age: How long ago the source said it, by the clock that makes it older; None when
            nothing is known, or when each hotkey has an age of its own.
        failing_since: Since when the source does not answer; None while it does.
        last_error: Why the last fetch failed, in our own words.
        source: What the source is called, such as `pylon`.
        block: The block that said it; None where the source names none, when nothing is known, or
            when each hotkey has an age of its own.
        block_age: How long ago that was, by the block's own time; None without a block.
    """

    freshness: Freshness
    mode: str
    size: int
    age: timedelta | None
    failing_since: datetime | None
    last_error: str | None
    source: str
    block: Block | None = None
    block_age: timedelta | None = None

    @property
    def can_serve(self) -> bool:
        """Whether some caller could be admitted now."""
        return self.freshness in {Freshness.FRESH, Freshness.STALE}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyHealth:
    """The policies at one moment, for readiness.

    Attributes:
        source: Where they come from.
        names: Their names, the default first.
        loaded_at: When they were read (aware, UTC).
        problem: What is wrong with the file as it is now; the policies of before are in force.
            None while nothing is.
    """

    source: str
    names: tuple[str, ...]
    loaded_at: datetime
    problem: str | None
