"""Two subjects side by side, round by round: what the yardstick in between would only blur."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.load import Load

Pair = tuple[str, str]

BY_ITSELF: Final[Sequence[Pair]] = (
    ("nexus-auth", "the original"),
    ("nexus-auth, each request named", "the original, each request named"),
    ("nexus-auth two workers", "the original"),
    ("nexus-auth two workers, each request named", "the original, each request named"),
    ("nexus-auth", "bare ASGI under uvicorn"),
    ("nexus-auth", "the checkout before"),
    ("nexus-auth, each request named", "the checkout before, each request named"),
)
BEHIND_NGINX: Final[Sequence[Pair]] = (
    ("our configuration", "the original and its configuration"),
    ("our configuration", "nginx without authorisation"),
)


def comparisons(loads: Mapping[str, list[Load]], pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Ratios of the first to the second of each pair that was measured."""
    found = []
    for ours, other in pairs:
        if ours not in loads or other not in loads:
            continue
        rates = [
            one.per_second / another.per_second
            for one, another in zip(loads[ours], loads[other], strict=True)
        ]
        slowest = [
            one.p99_ms / another.p99_ms
            for one, another in zip(loads[ours], loads[other], strict=True)
        ]
        found.append(
            {
                "ours": ours,
                "other": other,
                "rate": round(statistics.median(rates), 2),
                "lowest": round(min(rates), 2),
                "highest": round(max(rates), 2),
                "p99": round(statistics.median(slowest), 2),
            }
        )
    return found
