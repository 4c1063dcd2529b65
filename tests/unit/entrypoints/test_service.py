from __future__ import annotations

import gc
import resource

import pytest
from structlog.testing import capture_logs

from nexus_auth.adapters.uvicorn.head_protocol import MAX_CONNECTIONS
from nexus_auth.entrypoints.container import build_container
from nexus_auth.entrypoints.service import FILES_KEPT_FREE, _max_connections, _Worker
from nexus_auth.entrypoints.settings import Settings
from tests.unit.adapters.registry.sources import FakeSource


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


class ClosableSource(FakeSource):
    """Notes that it is closed."""

    is_closed = False

    async def aclose(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("name", "address"), [("pylon", "http://pylon:8000"), ("chain", "node:9944")]
)
async def test_configured_source_is_named_and_closed(name: str, address: str) -> None:
    """The one that is read from, not the other one; the key in a node's path is not shown."""
    environ = {
        "NEXUS_AUTH_SOURCE": name,
        "NEXUS_CHAIN_ENDPOINT": "wss://node:9944/key-of-an-account",
        "NEXUS_PYLON_NETUID": "12",
    }
    container = build_container(Settings.load(environ=environ))
    sources = {each: ClosableSource(name=each) for each in ("pylon", "chain")}
    for each, source in sources.items():
        getattr(container, each).override(source)
    with capture_logs() as lines:
        async with _Worker(container, 0, None, None)._open():
            gc.unfreeze()
    (listening,) = (line for line in lines if line["event"] == "listening")
    assert listening[name] == address
    assert {each for each in sources if each in listening} == {name}
    assert {each for each, source in sources.items() if source.is_closed} == {name}
    assert {each for each, source in sources.items() if source.bulk_fetches} == {name}
