"""Writes an overview as metrics in the Prometheus text format.

prometheus-client has a multiprocess mode of its own, which keeps a file for every process and takes
a lock at every count. Our workers count in plain integers, which are added up for each scrape (see
`monitor`); the library only writes the result.

Names and labels are listed in docs/operations.md. No label has values that a client, or Pylon,
could choose: outcomes, codes, causes, states and statuses are closed sets.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

import nexus_auth
from nexus_auth.adapters.observability.facts import DENIED, GRANTED
from nexus_auth.adapters.observability.source import FETCH_OUTCOMES, NO_CAUSE
from nexus_auth.domain.health import Freshness

if TYPE_CHECKING:
    from nexus_auth.adapters.observability.histogram import Histogram
    from nexus_auth.adapters.observability.report import Overview
    from nexus_auth.domain.health import PolicyHealth

CONTENT_TYPE: Final[str] = CONTENT_TYPE_LATEST


def render_metrics(overview: Overview, *, policy: PolicyHealth | None = None) -> bytes:
    """Renders all metrics, in the format that `CONTENT_TYPE` names.

    Args:
        overview: The counts of all workers.
        policy: The state of the access policies, where there are any.
    """
    return generate_latest(_Families(overview, policy))


@dataclass(frozen=True, slots=True)
class _Families(Collector):
    overview: Overview
    policy: PolicyHealth | None

    def collect(self) -> Iterator[Metric]:
        overview = self.overview
        yield from _decisions(overview)
        yield from _registry(overview)
        yield _histograms(
            "nexus_auth_pylon_request_seconds",
            "How long requests to Pylon took, by status; none where no whole answer came.",
            "status",
            dict(sorted(overview.pylon.items())),
        )
        if self.policy is not None:
            yield from _policies(self.policy)
        yield GaugeMetricFamily(
            "nexus_auth_remembered_certificates",
            "Certificates that are granted without verifying their signature again.",
            value=overview.remembered,
        )
        yield GaugeMetricFamily(
            "nexus_auth_workers", "Processes that serve the auth listener.", value=overview.workers
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
    yield _histograms(
        "nexus_auth_decision_seconds", "How long decisions took.", "outcome", overview.seconds
    )


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
    yield GaugeMetricFamily(
        "nexus_auth_registry_hotkeys", "Hotkeys whose keys are known.", value=registry.size
    )
    if registry.age is not None:
        yield GaugeMetricFamily(
            "nexus_auth_registry_age_seconds",
            "How long ago Pylon said what is known of registered keys.",
            value=registry.age.total_seconds(),
        )
    fetches = CounterMetricFamily(
        "nexus_auth_registry_questions",
        "Questions put to Pylon about registered keys, by why there was no answer.",
        labels=["outcome", "cause"],
    )
    for cause in FETCH_OUTCOMES:
        outcome = "answered" if cause == NO_CAUSE else "failed"
        fetches.add_metric([outcome, cause], overview.fetches.get(cause, 0))
    yield fetches


def _policies(policy: PolicyHealth) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "nexus_auth_policy_broken",
        "1 while the policy file is not valid and the policies of before are in force.",
        value=float(policy.problem is not None),
    )
    yield GaugeMetricFamily(
        "nexus_auth_policy_loaded_timestamp_seconds",
        "When the policies in force were read.",
        value=policy.loaded_at.timestamp(),
    )


def _histograms(
    name: str, documentation: str, label: str, histograms: Mapping[str, Histogram]
) -> Metric:
    family = HistogramMetricFamily(name, documentation, labels=[label])
    for value, histogram in histograms.items():
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        cumulative = itertools.accumulate(histogram.counts)
        family.add_metric([value], list(zip(bounds, cumulative, strict=True)), histogram.total)
    return family
