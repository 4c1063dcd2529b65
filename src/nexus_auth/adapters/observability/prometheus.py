"""Writes an overview as metrics in the Prometheus text format.

prometheus-client has a multiprocess mode of its own, which keeps a file for every process and takes
a lock at every count. Our workers count in plain integers, which are added up for each scrape (see
`monitor`); the library only writes the result.

Names and labels are listed in docs/operations.md. No label has values that a client, or a
source, could choose: outcomes, codes, causes, states and statuses are closed sets.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

import nexus_auth
from nexus_auth.adapters.observability.counters import FETCH_OUTCOMES, NO_CAUSE
from nexus_auth.adapters.observability.facts import DENIED, GRANTED
from nexus_auth.domain.health import Freshness

if TYPE_CHECKING:
    from nexus_auth.adapters.observability.report import Histogram, Overview
    from nexus_auth.domain.health import PolicyHealth

CONTENT_TYPE: Final[str] = CONTENT_TYPE_LATEST


def render_metrics(overview: Overview, *, policy: PolicyHealth) -> bytes:
    """Renders all metrics, in the format that `CONTENT_TYPE` names."""
    return generate_latest(_Families(overview, policy))


@dataclass(frozen=True, slots=True)
class _Families(Collector):
    overview: Overview
    policy: PolicyHealth

    def collect(self) -> Iterator[Metric]:
        overview, registry, policy = self.overview, self.overview.registry, self.policy
        yield _labelled(
            Counter("nexus_auth_decisions", "Decisions taken.", labels=["outcome", "code"]),
            {
                (GRANTED if code == GRANTED else DENIED, code): n
                for code, n in overview.codes.items()
            },
        )
        yield _histograms(
            "nexus_auth_decision_seconds", "How long decisions took.", "outcome", overview.seconds
        )
        yield Counter(
            "nexus_auth_malformed_requests",
            "Requests without a decision, because they were not HTTP/1.",
            overview.malformed,
        )
        yield _labelled(
            Gauge(
                "nexus_auth_registry_state",
                "1 for the state that the registry is in, of several workers' the worst.",
                labels=["state"],
            ),
            {(each.value,): float(each is registry.freshness) for each in Freshness},
        )
        yield Gauge("nexus_auth_registry_hotkeys", "Hotkeys whose keys are known.", registry.size)
        if registry.age is not None:
            yield Gauge(
                "nexus_auth_registry_age_seconds",
                "How long ago the source said what is known of registered keys.",
                registry.age.total_seconds(),
            )
        if registry.block is not None and registry.block_age is not None:
            yield Gauge(
                "nexus_auth_registry_block_number",
                "The block of the chain that says what is known of registered keys.",
                registry.block.number,
            )
            yield Gauge(
                "nexus_auth_registry_block_age_seconds",
                "How long ago that block was made, by its own time.",
                registry.block_age.total_seconds(),
            )
        yield _labelled(
            Counter(
                "nexus_auth_registry_questions",
                "Questions put to the source about registered keys, by why there was no answer.",
                labels=["outcome", "cause"],
            ),
            {
                ("answered" if each == NO_CAUSE else "failed", each): overview.fetches.get(each, 0)
                for each in FETCH_OUTCOMES
            },
        )
        yield _histograms(
            "nexus_auth_pylon_request_seconds",
            "How long requests to Pylon took, by status; none where no whole answer came.",
            "status",
            dict(sorted(overview.pylon.items())),
        )
        yield _histograms(
            "nexus_auth_chain_request_seconds",
            "How long requests to nodes of the chain took, by status; none as for Pylon.",
            "status",
            dict(sorted(overview.chain.items())),
        )
        yield Gauge(
            "nexus_auth_policy_broken",
            "1 while the policy file is not valid and the policies of before are in force.",
            float(policy.problem is not None),
        )
        yield Gauge(
            "nexus_auth_policy_loaded_timestamp_seconds",
            "When the policies in force were read.",
            policy.loaded_at.timestamp(),
        )
        yield Gauge(
            "nexus_auth_remembered_certificates",
            "Certificates that are granted without verifying their signature again.",
            overview.remembered,
        )
        workers = overview.workers
        yield Gauge("nexus_auth_workers", "Processes that serve the auth listener.", workers)
        yield _labelled(
            Gauge("nexus_auth_build_info", "Always 1.", labels=["version", "python_version"]),
            {(nexus_auth.__version__, platform.python_version()): 1},
        )


def _labelled(family: Counter | Gauge, rows: Mapping[tuple[str, ...], float]) -> Metric:
    for labels, value in rows.items():
        family.add_metric(labels, value)
    return family


def _histograms(
    name: str, documentation: str, label: str, histograms: Mapping[str, Histogram]
) -> Metric:
    family = HistogramMetricFamily(name, documentation, labels=[label])
    for value, histogram in histograms.items():
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        cumulative = itertools.accumulate(histogram.counts)
        family.add_metric([value], list(zip(bounds, cumulative, strict=True)), histogram.total)
    return family
