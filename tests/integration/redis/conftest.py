"""A Redis for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.real import Process
from tests.integration.redis.server import running_redis


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, int]]:
    """A Redis of its own for each test, and its port."""
    with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running
