"""What every registry of these tests stands on."""

from __future__ import annotations

import pytest

from tests.unit.adapters.registry.sources import FakeClocks, FakeSource, keys_of


@pytest.fixture
def clocks() -> FakeClocks:
    """Clocks that stand still."""
    return FakeClocks()


@pytest.fixture
def source() -> FakeSource:
    """A source that knows alice and carol."""
    return FakeSource(keys_of("alice", "carol"))
