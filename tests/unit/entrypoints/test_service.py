from __future__ import annotations

import resource

import pytest

from nexus_auth.adapters.uvicorn.head_protocol import MAX_CONNECTIONS
from nexus_auth.entrypoints.service import FILES_KEPT_FREE, _max_connections


@pytest.mark.parametrize(
    ("files", "connections"),
    [
        (resource.RLIM_INFINITY, MAX_CONNECTIONS),
        (65_536, MAX_CONNECTIONS),
        (1024, 1024 - FILES_KEPT_FREE),
        (256, 128),
    ],
)
def test_callers_never_have_all_files(
    files: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few may be open, some stay free for the service itself."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert _max_connections() == connections
