"""What the SnapshotStore port promises, held against the file and the fake.

`tests/integration/redis` holds it against a real Redis.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from nexus_auth.adapters.store.file_store import FileStore
from nexus_auth.domain.ports import SnapshotStore
from tests.unit.adapters.registry.sources import FakeStore
from tests.unit.contracts.snapshot_store import SnapshotStoreContract
from tests.virtual_time import LoopClocks

pytestmark = pytest.mark.virtual_time


class TestSnapshotStore(SnapshotStoreContract):
    @pytest_asyncio.fixture(params=["file", "fake"])
    async def stores(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> AsyncIterator[tuple[SnapshotStore, SnapshotStore]]:
        """Two processes' views of one store."""
        if request.param == "fake":
            fake = FakeStore()
            yield fake, fake
        else:
            path = tmp_path / "folder" / "snapshot.json"
            monotonic = LoopClocks().monotonic
            yield FileStore(path, monotonic=monotonic), FileStore(path, monotonic=monotonic)
