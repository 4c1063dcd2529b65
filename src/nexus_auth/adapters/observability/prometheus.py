"""Writes an overview as metrics in the Prometheus text format.

prometheus-client has a multiprocess mode of its own, which keeps a file for every process and asks
for a lock at every count. Our workers count in plain integers and add them up when asked (see
`adapters/observability`); the client writes the result down.

Names and labels are listed in docs/operations.md. No label has values that a stranger, or Pylon,
could choose: outcomes, codes, causes, states and statuses are closed sets.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

import nexus_auth
from nexus_auth.adapters.observability.report import DENIED, GRANTED
from nexus_auth.adapters.observability.source import NO_CAUSE, QUESTION_OUTCOMES
from nexus_auth.domain.health import Freshness

if TYPE_CHECKING:
    from nexus_auth.adapters.observability.histogram import Histogram
    from nexus_auth.adapters.observability.report import Overview
    from nexus_auth.domain.health import PolicyHealth

CONTENT_TYPE: Final[str] = CONTENT_TYPE_LATEST


class Exposition:
    """Metrics of the service, freshly added up for every scrape."""

    def __init__(
        self,
        overview: Callable[[], Overview],
        *,
        policy: Callable[[], PolicyHealth] | None = None,
    ) -> None:
        """Remembers whom to ask.

        Args:
            overview: Adds up what all workers counted.
            policy: Tells of the access policies, where there are any.
        """
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(overview, policy))

    def render(self) -> bytes:
        """All metrics, in the format that `CONTENT_TYPE` names."""
        return generate_latest(self._registry)


class _Families(Collector):
    def __init__(
        self, overview: Callable[[], Overview], policy: Callable[[], PolicyHealth] | None
    ) -> None:
        self._overview = overview
        self._policy = policy

    def describe(self) -> list[Metric]:
        """Nothing: the names are fixed, and this is the only collector."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Asks once, so that all metrics are of the same moment."""
        overview = self._overview()
        yield from _decisions(overview)
        yield from _registry(overview)
        yield from _pylon(overview)
        if self._policy is not None:
            yield from _policies(self._policy())
        yield _gauge(
            "nexus_auth_remembered_certificates",
            "Certificates that are granted without verifying their signature again.",
            overview.remembered,
        )
        yield _gauge(
            "nexus_auth_workers", "Processes that serve the auth listener.", overview.workers
        )
        build = GaugeMetricFamily(
            "nexus_auth_build_info", "Always 1.", labels=["version", "python_version"]
        )
        build.add_metric([nexus_auth.__version__, platform.python_version()], 1)
        yield build


def _decisions(overview: Overview) -> Iterator[Metric]:
    decisions = CounterMetricFamily(
        "nexus_auth_decisions", "Decisions taken.", labels=["outcome", "code"]
    )
    for code, count in overview.codes.items():
        decisions.add_metric([GRANTED if code == GRANTED else DENIED, code], count)
    yield decisions
    seconds = HistogramMetricFamily(
        "nexus_auth_decision_seconds", "How long decisions took.", labels=["outcome"]
    )
    for outcome, histogram in overview.seconds.items():
        _add(seconds, outcome, histogram)
    yield seconds


def _registry(overview: Overview) -> Iterator[Metric]:
    registry = overview.registry
    state = GaugeMetricFamily(
        "nexus_auth_registry_state",
        "1 for the state that the registry is in, of several workers' the worst.",
        labels=["state"],
    )
    for freshness in Freshness:
        state.add_metric([freshness.value], float(freshness is registry.freshness))
    yield state
    yield _gauge("nexus_auth_registry_hotkeys", "Hotkeys whose keys are known.", registry.size)
    if registry.age is not None:
        yield _gauge(
            "nexus_auth_registry_age_seconds",
            "How long ago Pylon said what is known of registered keys.",
            registry.age.total_seconds(),
        )
    questions = CounterMetricFamily(
        "nexus_auth_registry_questions",
        "Questions put to Pylon about registered keys, by why there was no answer.",
        labels=["outcome", "cause"],
    )
    for cause in QUESTION_OUTCOMES:
        outcome = "answered" if cause == NO_CAUSE else "failed"
        questions.add_metric([outcome, cause], overview.questions.get(cause, 0))
    yield questions


def _pylon(overview: Overview) -> Iterator[Metric]:
    seconds = HistogramMetricFamily(
        "nexus_auth_pylon_request_seconds",
        "How long requests to Pylon took, by status; none where no whole answer came.",
        labels=["status"],
    )
    for status, histogram in sorted(overview.pylon.items()):
        _add(seconds, status, histogram)
    yield seconds


def _policies(policy: PolicyHealth) -> Iterator[Metric]:
    yield _gauge(
        "nexus_auth_policy_broken",
        "1 while the policy file is not valid and the policies of before are in force.",
        float(policy.problem is not None),
    )
    yield _gauge(
        "nexus_auth_policy_loaded_timestamp_seconds",
        "When the policies in force were read.",
        policy.loaded_at.timestamp(),
    )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _add(family: HistogramMetricFamily, label: str, histogram: Histogram) -> None:
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    cumulative = itertools.accumulate(histogram.counts)
    family.add_metric([label], list(zip(bounds, cumulative, strict=True)), histogram.total)
