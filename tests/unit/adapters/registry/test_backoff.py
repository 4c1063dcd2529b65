from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import structlog.testing

from nexus_auth.adapters.log_throttle import QUIET_SECONDS, REMINDER_SECONDS
from nexus_auth.adapters.registry import backoff as module
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
    assert backoff.next_try == 0
    assert not lines


@pytest.mark.parametrize(
    ("failures", "longest"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (20, 8), (2000, 8)]
)
@pytest.mark.parametrize("drawn", [min, max])
def test_pause_grows_within_its_bounds(
    clocks: FakeClocks,
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
    longest: float,
    drawn: Callable[[float, float], float],
) -> None:
    """Neither a flood of attempts nor a source that is forgotten, whatever is drawn."""
    monkeypatch.setattr(module, "random", SimpleNamespace(uniform=drawn))
    backoff = a_backoff(clocks)
    for _ in range(failures):
        backoff.failed(DOWN)
    pause = RETRY_SECONDS_AT_LEAST if drawn is min else longest
    assert longest <= RETRY_SECONDS_AT_MOST
    assert backoff.next_try == clocks.seconds + pause
    assert backoff.is_waiting
    clocks.advance(pause)
    assert (backoff.is_failing, backoff.is_waiting) == (True, False)


def test_one_failure_is_an_outage_unless_told_otherwise(clocks: FakeClocks) -> None:
    """Below the threshold, the next attempt is due at once."""
    backoff, patient = Backoff(source="s", clocks=clocks.both), a_backoff(clocks, threshold=2)
    for each in (backoff, patient):
        each.failed(DOWN)
    assert (backoff.is_failing, backoff.is_waiting) == (True, True)
    assert (patient.is_failing, patient.is_waiting) == (False, False)


def test_lines_say_what_and_for_how_long(clocks: FakeClocks) -> None:
    """In seconds, to a tenth."""
    backoff = a_backoff(clocks)
    clocks.advance(100)
    with structlog.testing.capture_logs() as lines:
        backoff.failed(DOWN)
        clocks.advance(QUIET_SECONDS + 0.26)
        backoff.failed(RegistryAnswerInvalid("not JSON"))
        clocks.advance(1)
        backoff.succeeded()
    source = {"source": "a source"}
    warning = {**source, "log_level": "warning"}
    assert lines == [
        {
            **warning,
            "event": "source_failed",
            "cause": "RegistryUnavailable",
            "error": "connection refused",
            "seconds": 0.0,
            "attempts": 1,
        },
        {
            **warning,
            "event": "source_still_failing",
            "cause": "RegistryAnswerInvalid",
            "error": "not JSON",
            "seconds": 30.3,
            "attempts": 2,
        },
        {
            **source,
            "event": "source_recovered",
            "log_level": "info",
            "seconds": 31.3,
            "attempts": 2,
        },
    ]


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
