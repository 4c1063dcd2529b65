from __future__ import annotations

import pytest

from nexus_auth.domain.health import Freshness, RegistryHealth


@pytest.mark.parametrize(
    ("freshness", "expected"),
    [("starting", False), ("fresh", True), ("stale", True), ("expired", False)],
)
def test_only_what_may_be_used_can_serve(freshness: str, expected: bool) -> None:  # noqa: FBT001 - a table
    """An instance that can admit no caller is not ready."""
    health = RegistryHealth(
        freshness=Freshness(freshness),
        mode="snapshot",
        size=1,
        age=None,
        failing_since=None,
        last_error=None,
        source="pylon",
    )
    assert health.can_serve is expected
