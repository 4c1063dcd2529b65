"""What one worker tells of itself, and what the reports of all workers amount to."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final, Self, TypeVar

from nexus_auth.adapters.observability.histogram import DECISION_BOUNDS, PYLON_BOUNDS, Histogram
from nexus_auth.domain.health import Freshness, RegistryHealth
from nexus_auth.domain.reasons import DenialReason

T = TypeVar("T")

GRANTED: Final = "granted"
DENIED: Final = "denied"
OUTCOMES: Final = (GRANTED, DENIED)
CODES: Final = (GRANTED, *(reason.value for reason in DenialReason))

MINUTES_KEPT: Final = 60
"""The last hour, minute by minute."""

DENIALS_KEPT: Final = 50
"""The latest ones; strangers can only push each other out."""

CALLERS_KEPT: Final = 256
"""As many as a subnet has neurons; the one not seen for longest goes first."""

SILENT_SECONDS: Final = 10.0
"""A worker not heard of for this long is dead or being replaced: what it said of the registry no
longer counts. What it had counted does."""

_BEST_TO_WORST: Final = (
    Freshness.FRESH,
    Freshness.STALE,
    Freshness.STARTING,
    Freshness.EXPIRED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenialSeen:
    """One denial, as the status page shows it. `method` and `uri` come from outside."""

    at: float
    code: str
    detail: str
    hotkey: str | None
    method: str
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerSeen:
    """One hotkey that was granted entry: how often, and when last."""

    hotkey: str
    at: float
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSeen:
    """A remembered certificate: whose, which, and until when it is valid."""

    hotkey: str
    fingerprint: str
    not_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """What is told of a worker, or of all of them. Times are seconds since the epoch.

    Attributes:
        at: When it was said.
        codes: Decisions so far by code; `granted` is one of them.
        seconds: How long decisions took, by outcome.
        questions: How the registry's questions ended, by cause.
        pylon: How long requests to Pylon took, by status.
        minutes: Grants and denials by minute since the epoch.
        registry: The state of the registry.
        remembered: How many certificates are remembered.
        denials: The latest ones, the newest last.
        callers: Who was granted entry, the latest last.
        certificates: Those that end soon, the soonest first.
    """

    at: float
    codes: Mapping[str, int]
    seconds: Mapping[str, Histogram]
    questions: Mapping[str, int]
    pylon: Mapping[str, Histogram]
    minutes: Mapping[int, tuple[int, int]]
    registry: RegistryHealth
    remembered: int
    denials: tuple[DenialSeen, ...]
    callers: tuple[CallerSeen, ...]
    certificates: tuple[CertificateSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(_Figures):
    """One worker at one moment; `worker` is its number."""

    worker: int

    def to_bytes(self) -> bytes:
        """Writes it for another process."""
        state = self.registry
        plain = {
            "worker": self.worker,
            "at": self.at,
            "codes": dict(self.codes),
            "seconds": {name: each.to_plain() for name, each in self.seconds.items()},
            "questions": dict(self.questions),
            "pylon": {name: each.to_plain() for name, each in self.pylon.items()},
            "minutes": [[minute, *counts] for minute, counts in self.minutes.items()],
            "registry": {
                "freshness": state.freshness.value,
                "mode": state.mode,
                "size": state.size,
                "age": None if state.age is None else state.age.total_seconds(),
                "failing_since": _iso(state.failing_since),
                "last_error": state.last_error,
            },
            "remembered": self.remembered,
            "denials": _rows(self.denials, DenialSeen),
            "callers": _rows(self.callers, CallerSeen),
            "certificates": _rows(self.certificates, CertificateSeen),
        }
        return json.dumps(plain, separators=(",", ":")).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Reads what `to_bytes` wrote in another process of the same service."""
        plain = json.loads(data)
        state = plain["registry"]
        return cls(
            worker=plain["worker"],
            at=plain["at"],
            codes=plain["codes"],
            seconds=_histograms(plain["seconds"], DECISION_BOUNDS),
            questions=plain["questions"],
            pylon=_histograms(plain["pylon"], PYLON_BOUNDS),
            minutes={minute: (granted, denied) for minute, granted, denied in plain["minutes"]},
            registry=RegistryHealth(
                freshness=Freshness(state["freshness"]),
                mode=state["mode"],
                size=state["size"],
                age=_age(state["age"]),
                failing_since=_moment(state["failing_since"]),
                last_error=state["last_error"],
            ),
            remembered=plain["remembered"],
            denials=_from_rows(plain["denials"], DenialSeen),
            callers=_from_rows(plain["callers"], CallerSeen),
            certificates=_from_rows(plain["certificates"], CertificateSeen),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview(_Figures):
    """All workers together.

    `workers` are those heard of lately; `registry` is the state of the worst of them, because a
    caller may come to any.
    """

    workers: int

    @classmethod
    def of(cls, own: Report, others: Iterable[Report] = ()) -> Self:
        """Adds reports up; `own` is that of the process that asks, and alive for certain."""
        reports = [own, *others]
        lively = [each for each in reports if own.at - each.at < SILENT_SECONDS]
        minutes: dict[int, tuple[int, int]] = {}
        callers: dict[str, CallerSeen] = {}
        certificates: dict[str, CertificateSeen] = {}
        for report in reports:
            for minute, (granted, denied) in report.minutes.items():
                before = minutes.get(minute, (0, 0))
                minutes[minute] = (before[0] + granted, before[1] + denied)
            for caller in report.callers:
                known = callers.get(caller.hotkey)
                callers[caller.hotkey] = CallerSeen(
                    hotkey=caller.hotkey,
                    at=max(caller.at, caller.at if known is None else known.at),
                    times=caller.times + (0 if known is None else known.times),
                )
            for certificate in report.certificates:
                certificates[certificate.fingerprint] = certificate
        denials = sorted((each for report in reports for each in report.denials), key=_by_time)
        first_minute = int(own.at // 60) - MINUTES_KEPT + 1
        return cls(
            at=own.at,
            workers=len(lively),
            codes=_sum(CODES, [report.codes for report in reports]),
            seconds=_total([report.seconds for report in reports], OUTCOMES, DECISION_BOUNDS),
            questions=_sum((), [report.questions for report in reports]),
            pylon=_total([report.pylon for report in reports], (), PYLON_BOUNDS),
            minutes={minute: minutes.get(minute, (0, 0)) for minute in _hour(first_minute)},
            registry=worst_state(report.registry for report in lively),
            remembered=sum(report.remembered for report in lively),
            denials=tuple(denials[-DENIALS_KEPT:]),
            callers=tuple(sorted(callers.values(), key=_by_time)[-CALLERS_KEPT:]),
            certificates=tuple(sorted(certificates.values(), key=lambda each: each.not_after)),
        )


def worst_state(states: Iterable[RegistryHealth]) -> RegistryHealth:
    """The state that lets the fewest callers in; of equal ones, the oldest."""

    def badness(state: RegistryHealth) -> tuple[int, timedelta]:
        return _BEST_TO_WORST.index(state.freshness), state.age or timedelta(0)

    return max(states, key=badness)


def _hour(first_minute: int) -> range:
    return range(first_minute, first_minute + MINUTES_KEPT)


def _by_time(seen: DenialSeen | CallerSeen) -> float:
    return seen.at


def _sum(names: Iterable[str], counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total = dict.fromkeys(names, 0)
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def _total(
    histograms: Iterable[Mapping[str, Histogram]],
    names: Iterable[str],
    bounds: tuple[float, ...],
) -> dict[str, Histogram]:
    total = {name: Histogram.empty(bounds) for name in names}
    for each in histograms:
        for name, histogram in each.items():
            total.setdefault(name, Histogram.empty(bounds)).absorb(histogram)
    return total


def _rows(seen: Iterable[Any], kind: type) -> list[Any]:
    # Much quicker than `asdict`, which copies deeply: this runs once a second, between requests.
    return list(map(operator.attrgetter(*(each.name for each in fields(kind))), seen))


def _from_rows(rows: Iterable[Sequence[Any]], kind: type[T]) -> tuple[T, ...]:
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type] # all are dataclasses
    return tuple(kind(**dict(zip(names, row, strict=True))) for row in rows)


def _histograms(plain: Mapping[str, Any], bounds: tuple[float, ...]) -> dict[str, Histogram]:
    return {name: Histogram.from_plain(bounds, each) for name, each in plain.items()}


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _age(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
