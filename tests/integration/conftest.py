"""A development Pylon for each test that asks for none of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nexus_auth.adapters.devnet.store import DevnetStore
from tests.integration.pylon.running import RunningPylon, prepare, running_pylon


@pytest.fixture(scope="module")
def _shared_pylon() -> Iterator[RunningPylon]:
    """One server for all: starting and stopping one takes longer than most tests."""
    with running_pylon() as running:
        yield running


@pytest.fixture
def pylon(_shared_pylon: RunningPylon) -> Iterator[RunningPylon]:
    """A running development Pylon with the identity `dev` on subnet 1, new for each test."""
    with DevnetStore(":memory:") as store:
        prepare(store)
        _shared_pylon.serve(store)
        _shared_pylon.start()
        yield _shared_pylon
