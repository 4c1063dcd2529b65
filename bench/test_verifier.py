"""Times the verifier: `python -m pytest bench/test_verifier.py`, or all of it with `make bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import verifier
from nexus_auth.domain.decision import Denied, Granted

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

BAD = verifier.bad_certificates()


@pytest.mark.benchmark(group="verifier")
@pytest.mark.parametrize("name", verifier.decisions())
def test_decision(benchmark: BenchmarkFixture, name: str) -> None:
    """A caller who is let in, remembered or new; and the yardstick."""
    found = benchmark(verifier.decisions()[name]())
    assert found is None if name == verifier.YARDSTICK else isinstance(found, Granted)


@pytest.mark.benchmark(group="flood")
@pytest.mark.parametrize("name", BAD)
def test_refusal(benchmark: BenchmarkFixture, name: str) -> None:
    """What a stranger can make the service spend."""
    assert isinstance(benchmark(verifier.refusal(BAD[name])), Denied)
