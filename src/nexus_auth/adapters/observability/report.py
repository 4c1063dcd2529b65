"""What one worker reports of itself, and the sum of the reports of all workers."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final, NamedTuple, Self

from nexus_auth.domain.health import Freshness, RegistryHealth
from nexus_auth.domain.snapshot import Block

DECISION_BOUNDS: Final = (
    *(0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5),
    *(0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0),
)
"""From a remembered certificate (some 10 us) to the longest that a caller waits (2 s)."""

REQUEST_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""From a Pylon beside us that has the answer at hand to one that asks the chain first, or to a node
on another continent."""

MINUTES_KEPT: Final = 60
"""The last hour, minute by minute."""

DENIALS_KEPT: Final = 50
"""The latest ones; unknown callers can only displace each other."""

CALLERS_KEPT: Final = 256
"""As many as a subnet has neurons; the one not seen for longest goes first."""

SILENT_SECONDS: Final = 10.0
"""A worker without a report for this long is dead or being replaced: what it said of the registry
no longer counts. What it had counted does."""

_BEST_TO_WORST: Final = (Freshness.FRESH, Freshness.STALE, Freshness.STARTING, Freshness.EXPIRED)


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


# Named tuples, because JSON writes them as lists without a call of ours for each: a report is
# written once a second, between requests.


class DenialSeen(NamedTuple):
    """One denial, as the status page shows it. `method` and `uri` come from outside."""

    at: float
    code: str
    detail: str
    hotkey: str | None
    method: str
    uri: str


class CallerSeen(NamedTuple):
    """One hotkey that was granted entry: the last time, and how often."""

    hotkey: str
    at: float
    times: int


class CertificateSeen(NamedTuple):
    """A remembered certificate: its hotkey, its SHA-256, and until when it is valid."""

    hotkey: str
    fingerprint: str
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One worker at one moment. Times are seconds since the epoch.

    Attributes:
        codes: Decisions so far by code; `granted` is one of them.
        seconds: How long decisions took, by outcome.
        fetches: How the registry's fetches ended, by cause.
        malformed: How many requests got no decision, because they were no HTTP.
        pylon: How long requests to Pylon took, by status.
        chain: How long requests to nodes of the chain took, by status.
        minutes: Grants and denials by minute since the epoch.
        remembered: How many certificates are remembered.
        denials: The latest ones, the newest last.
        callers: The callers that were granted entry, the latest last.
        certificates: Those that end soon, the soonest first.
    """

    at: float
    codes: Mapping[str, int]
    seconds: Mapping[str, Histogram]
    fetches: Mapping[str, int]
    malformed: int
    pylon: Mapping[str, Histogram]
    chain: Mapping[str, Histogram]
    minutes: Mapping[int, tuple[int, int]]
    registry: RegistryHealth
    remembered: int
    denials: tuple[DenialSeen, ...]
    callers: tuple[CallerSeen, ...]
    certificates: tuple[CertificateSeen, ...]

    def to_bytes(self) -> bytes:
        """Writes it for another process."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return json.dumps(plain, default=_to_plain, separators=(",", ":")).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote in another process of the same service."""
        plain = json.loads(data)
        checked = {
            "seconds": _histograms(plain["seconds"], DECISION_BOUNDS),
            "pylon": _histograms(plain["pylon"], REQUEST_BOUNDS),
            "chain": _histograms(plain["chain"], REQUEST_BOUNDS),
            "minutes": {int(minute): tuple(both) for minute, both in plain["minutes"].items()},
            "registry": _registry(plain["registry"]),
            "denials": tuple(map(DenialSeen._make, plain["denials"])),
            "callers": tuple(map(CallerSeen._make, plain["callers"])),
            "certificates": tuple(map(CertificateSeen._make, plain["certificates"])),
        }
        return cls(**plain | checked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview(Report):
    """All workers together.

    `workers` counts those with a recent report; `registry` is the state of the worst of them,
    because a caller may reach any.
    """

    workers: int

    @classmethod
    def of(cls, own: Report, others: Iterable[Report] = ()) -> Self:
        """Adds reports up; `own` is that of this process, which is alive for certain."""
        reports = [own, *others]
        alive = [each for each in reports if own.at - each.at < SILENT_SECONDS]
        first_minute = int(own.at // 60) - MINUTES_KEPT + 1
        minutes = dict.fromkeys(range(first_minute, first_minute + MINUTES_KEPT), (0, 0))
        callers: dict[str, CallerSeen] = {}
        for report in reports:
            for minute in minutes.keys() & report.minutes.keys():
                before, more = minutes[minute], report.minutes[minute]
                minutes[minute] = (before[0] + more[0], before[1] + more[1])
            for seen in report.callers:
                known = callers.get(seen.hotkey, CallerSeen(seen.hotkey, seen.at, 0))
                callers[seen.hotkey] = CallerSeen(
                    seen.hotkey, max(known.at, seen.at), known.times + seen.times
                )
        certificates = {
            each.fingerprint: each for report in reports for each in report.certificates
        }
        by_time = attrgetter("at")
        denials = sorted((each for report in reports for each in report.denials), key=by_time)
        return cls(
            at=own.at,
            workers=len(alive),
            codes=_sum_counts(report.codes for report in reports),
            seconds=_sum_histograms(report.seconds for report in reports),
            fetches=_sum_counts(report.fetches for report in reports),
            malformed=sum(report.malformed for report in reports),
            pylon=_sum_histograms(report.pylon for report in reports),
            chain=_sum_histograms(report.chain for report in reports),
            minutes=minutes,
            registry=_worst(report.registry for report in alive),
            remembered=sum(report.remembered for report in alive),
            denials=tuple(denials[-DENIALS_KEPT:]),
            callers=tuple(sorted(callers.values(), key=by_time)[-CALLERS_KEPT:]),
            certificates=tuple(sorted(certificates.values(), key=attrgetter("not_after"))),
        )


def _worst(states: Iterable[RegistryHealth]) -> RegistryHealth:
    """The state that lets the fewest callers in; of equal ones, the oldest."""
    return max(
        states, key=lambda each: (_BEST_TO_WORST.index(each.freshness), each.age or timedelta(0))
    )


def _sum_counts(parts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def _sum_histograms(parts: Iterable[Mapping[str, Histogram]]) -> dict[str, Histogram]:
    total: dict[str, Histogram] = {}
    for part in parts:
        for name, histogram in part.items():
            total.setdefault(name, Histogram.empty(histogram.bounds)).absorb(histogram)
    return total


def _to_plain(value: object) -> object:
    """What JSON cannot write by itself."""
    match value:
        case Histogram():
            # The reader knows the bounds.
            return [*value.counts, value.total]
        case RegistryHealth():
            return asdict(value)
        case timedelta():
            return value.total_seconds()
        case datetime():
            return value.isoformat()
        case _:
            raise TypeError(f"a report holds no {type(value).__name__}")


def _histograms(plain: Mapping[str, Any], bounds: tuple[float, ...]) -> dict[str, Histogram]:
    return {name: Histogram(bounds, counts, total) for name, (*counts, total) in plain.items()}


def _registry(plain: dict[str, Any]) -> RegistryHealth:
    age, since, block = plain["age"], plain["failing_since"], plain["block"]
    block_age = plain["block_age"]
    checked = {
        "freshness": Freshness(plain["freshness"]),
        "age": None if age is None else timedelta(seconds=age),
        "failing_since": None if since is None else datetime.fromisoformat(since),
        "block": block and Block(**block | {"time": datetime.fromisoformat(block["time"])}),
        "block_age": None if block_age is None else timedelta(seconds=block_age),
    }
    return RegistryHealth(**plain | checked)
