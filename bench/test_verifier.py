"""Times the verifier: `python -m pytest bench/test_verifier.py`, or all of it with `make bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import verifier

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

BAD = verifier.bad_certificates()


@pytest.mark.benchmark(group="verifier")
@pytest.mark.parametrize("name", verifier.decisions())
def test_decision(benchmark: BenchmarkFixture, name: str) -> None:
    """A caller who is let in, remembered or new; and the yardstick."""
    work = verifier.decisions()[name]()
    assert benchmark(work) is None or name != verifier.YARDSTICK


@pytest.mark.benchmark(group="flood")
@pytest.mark.parametrize("name", BAD)
def test_refusal(benchmark: BenchmarkFixture, name: str) -> None:
    """What a stranger can make the service spend."""
    assert benchmark(verifier.refusal(BAD[name])) is not None
