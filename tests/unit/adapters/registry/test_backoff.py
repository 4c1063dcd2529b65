from __future__ import annotations

import pytest
import structlog.testing

from nexus_auth.adapters.log_throttle import QUIET_SECONDS, REMINDER_SECONDS
from nexus_auth.adapters.registry.backoff import (
    RETRY_SECONDS_AT_LEAST,
    RETRY_SECONDS_AT_MOST,
    Backoff,
)
from nexus_auth.domain.errors import RegistryAnswerInvalid, RegistryUnavailable
from tests.builders import NOW
from tests.unit.adapters.registry.sources import FakeClocks

DOWN = RegistryUnavailable("connection refused")


def a_backoff(clocks: FakeClocks, *, threshold: int = 1) -> Backoff:
    """A back-off that has seen nothing yet."""
    return Backoff(source="a source", clocks=clocks.both, threshold=threshold)


def test_no_failure_is_no_outage(clocks: FakeClocks) -> None:
    """A success without an outage changes nothing, and is not logged."""
    backoff = a_backoff(clocks)
    with structlog.testing.capture_logs() as lines:
        backoff.succeeded()
    assert (backoff.is_failing, backoff.is_waiting, backoff.since) == (False, False, None)
    assert not lines


@pytest.mark.parametrize("failures", [1, 2, 4, 20, 2000])
def test_pause_grows_within_its_bounds(clocks: FakeClocks, failures: int) -> None:
    """Neither a flood of attempts nor a source that is forgotten."""
    backoff = a_backoff(clocks)
    for _ in range(failures):
        backoff.failed(DOWN)
    limit = min(max(RETRY_SECONDS_AT_LEAST, 2 ** (failures - 1)), RETRY_SECONDS_AT_MOST)
    assert RETRY_SECONDS_AT_LEAST <= backoff.next_try - clocks.seconds <= limit
    assert backoff.is_waiting
    clocks.advance(RETRY_SECONDS_AT_MOST)
    assert (backoff.is_failing, backoff.is_waiting) == (True, False)


def test_source_counts_as_down_from_the_threshold_on(clocks: FakeClocks) -> None:
    """Failures count in a row only."""
    backoff = a_backoff(clocks, threshold=2)
    for _ in range(5):
        backoff.failed(DOWN)
        assert not backoff.is_failing
        backoff.succeeded()
    assert backoff.ended_at == float("-inf")
    backoff.failed(DOWN)
    backoff.failed(DOWN)
    assert backoff.is_failing
    clocks.advance(7)
    backoff.succeeded()
    assert backoff.ended_at == clocks.seconds


def test_outage_is_described_from_its_first_failure_to_its_end(clocks: FakeClocks) -> None:
    """For the health of a registry."""
    backoff = a_backoff(clocks)
    backoff.failed(DOWN)
    clocks.advance(60)
    backoff.failed(RegistryAnswerInvalid("not JSON"))
    assert (backoff.since, backoff.last_error) == (NOW, "not JSON")
    backoff.succeeded()
    assert (backoff.since, backoff.last_error) == (None, None)


def test_log_names_the_source_and_says_when_an_outage_begins_goes_on_and_ends(
    clocks: FakeClocks,
) -> None:
    """A new cause is logged sooner than a reminder."""
    backoff = a_backoff(clocks)
    with structlog.testing.capture_logs() as lines:
        backoff.failed(DOWN)
        clocks.advance(QUIET_SECONDS)
        backoff.failed(DOWN)
        backoff.failed(RegistryAnswerInvalid("not JSON"))
        clocks.advance(REMINDER_SECONDS)
        backoff.failed(RegistryAnswerInvalid("not JSON"))
        backoff.succeeded()
    assert [(line["event"], line["attempts"]) for line in lines] == [
        ("source_failed", 1),
        ("source_still_failing", 3),
        ("source_still_failing", 4),
        ("source_recovered", 4),
    ]
    assert {line["source"] for line in lines} == {"a source"}


def test_new_outage_for_the_same_cause_is_logged_as_one(clocks: FakeClocks) -> None:
    """It is no reminder of the last one; a short one may pass without a line."""
    backoff = a_backoff(clocks)
    with structlog.testing.capture_logs() as lines:
        for seconds in (1, 1, QUIET_SECONDS):
            backoff.failed(DOWN)
            backoff.succeeded()
            clocks.advance(seconds)
        backoff.failed(DOWN)
    assert [line["event"] for line in lines] == [
        "source_failed",
        "source_recovered",
        "source_failed",
    ]
