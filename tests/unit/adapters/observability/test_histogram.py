"""Histograms of seconds."""

from __future__ import annotations

import pytest

from nexus_auth.adapters.observability.histogram import DECISION_BOUNDS, PYLON_BOUNDS, Histogram

BOUNDS = (1.0, 2.0, 4.0)


def a_histogram(*seconds: float) -> Histogram:
    """A histogram that saw these."""
    histogram = Histogram.empty(BOUNDS)
    for each in seconds:
        histogram.add(each)
    return histogram


def test_upper_bounds_are_included() -> None:
    """As in Prometheus: `le` is "less than or equal"."""
    histogram = a_histogram(0.5, 1.0, 1.1, 4.0, 4.1)
    assert histogram.counts == [2, 1, 1, 1]
    assert histogram.total == pytest.approx(10.7)
    assert histogram.observations == 5


@pytest.mark.parametrize(
    ("seconds", "share", "expected"),
    [((), 0.5, None), ((0.5, 1.5, 3.0), 0.5, 2.0), ((0.5, 9.0), 0.99, 4.0), ((0.5,), 0.99, 1.0)],
)
def test_quantile_is_an_upper_estimate(
    seconds: tuple[float, ...], share: float, expected: float | None
) -> None:
    """It names a bound, never something between two of them."""
    assert a_histogram(*seconds).quantile(share) == expected


def test_histograms_add_up() -> None:
    """Two workers' histograms are as good as one that saw everything."""
    histogram = a_histogram(0.5, 9.0)
    histogram.absorb(a_histogram(3.0))
    assert histogram == a_histogram(0.5, 9.0, 3.0)
    assert Histogram.from_plain(BOUNDS, histogram.to_plain()) == histogram


@pytest.mark.parametrize("bounds", [DECISION_BOUNDS, PYLON_BOUNDS])
def test_bounds_grow(bounds: tuple[float, ...]) -> None:
    """Prometheus refuses others."""
    assert list(bounds) == sorted(set(bounds))
