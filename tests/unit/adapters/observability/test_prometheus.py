"""Metrics in the Prometheus text format."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from nexus_auth.adapters.observability.counters import Counters
from nexus_auth.adapters.observability.prometheus import CONTENT_TYPE, render_metrics
from nexus_auth.adapters.observability.report import Overview
from nexus_auth.domain.health import Freshness
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.snapshot import Block
from tests.fakes import FakeClock
from tests.unit.adapters.observability.watched import BLOCK, a_state, deny, grant, policies


def samples(
    counters: Counters | None = None,
    freshness: Freshness = Freshness.FRESH,
    *,
    age: float | None = 12.0,
    block: Block | None = None,
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples of one scrape, by name and labels."""
    counters = counters or Counters(clock=FakeClock())
    counters.tick()
    state = a_state(freshness, age=age, block=block)
    report = counters.report(registry=state, remembered=7, certificates=())
    text = render_metrics(Overview.of(report), policy=policies()).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**values: str) -> frozenset[tuple[str, str]]:
    """Labels as `samples` has them."""
    return frozenset(values.items())


def test_decisions_by_outcome_and_code() -> None:
    """Codes that never came up are there with zero, so that their first time is an increase."""
    counters = Counters(clock=FakeClock())
    grant(counters, times=3)
    deny(counters, DenialReason.EXPIRED)
    found = samples(counters)
    decisions = {key: value for key, value in found.items() if key[0].endswith("decisions_total")}
    assert len(decisions) == 1 + len(DenialReason)
    name = "nexus_auth_decisions_total"
    assert decisions[name, labels(outcome="granted", code="granted")] == 3
    assert decisions[name, labels(outcome="denied", code="expired")] == 1
    assert decisions[name, labels(outcome="denied", code="bad-signature")] == 0


def test_histograms_are_cumulative() -> None:
    """Each bucket counts what is below it; the last counts everything."""
    counters = Counters(clock=FakeClock())
    grant(counters, times=2)
    counters.count_pylon_request(200, 0.02)
    found = samples(counters)
    name = "nexus_auth_decision_seconds_bucket"
    buckets = {
        float(dict(key[1])["le"]): value
        for key, value in found.items()
        if key[0] == name and ("outcome", "granted") in key[1]
    }
    assert [buckets[bound] for bound in (1e-05, 2.5e-05, 2.0, float("inf"))] == [0, 2, 2, 2]
    assert found["nexus_auth_decision_seconds_count", labels(outcome="granted")] == 2
    assert found["nexus_auth_pylon_request_seconds_count", labels(status="200")] == 1


def test_registry_is_in_exactly_one_state() -> None:
    """So that an alert on one of them needs no other."""
    for freshness in Freshness:
        found = samples(freshness=freshness)
        states = {
            dict(key[1])["state"]: value
            for key, value in found.items()
            if key[0] == "nexus_auth_registry_state"
        }
        assert states == {each.value: float(each is freshness) for each in Freshness}


def test_age_that_is_not_known_is_left_out() -> None:
    """An age of zero would say that everything is fresh."""
    name = ("nexus_auth_registry_age_seconds", frozenset[tuple[str, str]]())
    assert samples()[name] == 12.0
    assert name not in samples(age=None)


def test_block_is_there_where_the_source_names_one() -> None:
    """Its number and its age by its own time; Pylon names none."""
    number, age = (f"nexus_auth_registry_block_{each}" for each in ("number", "age_seconds"))
    found = samples(block=BLOCK)
    assert (found[number, labels()], found[age, labels()]) == (1_234_567, 42.0)
    assert not {number, age} & {name for name, _ in samples()}


def test_requests_to_pylon_and_to_the_chain_are_apart() -> None:
    """By status each, with the same bounds; one that was never asked has no series."""
    counters = Counters(clock=FakeClock())
    counters.count_chain_request(None, 0.02)
    found = samples(counters)
    assert found["nexus_auth_chain_request_seconds_count", labels(status="none")] == 1
    assert not any(name.startswith("nexus_auth_pylon_request") for name, _ in found)


def test_no_stranger_chooses_a_label() -> None:
    """However many come, and whatever they and Pylon say, the series stay the same."""
    quiet, busy = Counters(clock=FakeClock()), Counters(clock=FakeClock())
    quiet.count_pylon_request(200, 0.1)
    quiet.count_pylon_request(None, 0.1)
    quiet.count_pylon_request(600, 0.1)
    for number in range(300):
        grant(busy, f"caller {number}")
        deny(busy, uri=b"/%d" % number, method=b"M%d" % number, detail=str(number))
        busy.count_pylon_request(600 + number, 0.1)
    busy.count_pylon_request(200, 0.1)
    busy.count_pylon_request(None, 0.1)
    assert samples(quiet).keys() == samples(busy).keys()


def test_format_is_named() -> None:
    """Prometheus 3 refuses answers without a known content type."""
    assert re.match(r"text/plain; version=[0-9.]+; charset=utf-8", CONTENT_TYPE)
