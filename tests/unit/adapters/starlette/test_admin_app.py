"""Health and readiness."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest

from nexus_auth.adapters.policy.live import PolicyState
from nexus_auth.adapters.registry.state import Freshness, RegistryState
from nexus_auth.adapters.starlette.admin_app import build_admin_app
from tests.builders import NOW


class Registry:
    """A registry of which only its state matters."""

    def __init__(self, freshness: Freshness) -> None:
        self.freshness = freshness

    def state(self) -> RegistryState:
        return RegistryState(
            freshness=self.freshness,
            mode="snapshot",
            size=3,
            age=timedelta(seconds=12.34),
            failing_since=NOW,
            last_error="nobody answered",
        )


async def ask(path: str, freshness: Freshness, *, draining: bool = False) -> httpx.Response:
    """One request to the admin application."""
    app = build_admin_app(registry=Registry(freshness), is_draining=lambda: draining)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        return await client.get(path)


@pytest.mark.parametrize(
    ("freshness", "status", "word"),
    [
        (Freshness.STARTING, 503, "starting"),
        (Freshness.FRESH, 200, "serving"),
        (Freshness.STALE, 200, "serving stale"),
        (Freshness.EXPIRED, 503, "closed"),
    ],
)
async def test_readiness_is_whether_a_registered_caller_would_be_let_in(
    freshness: Freshness, status: int, word: str
) -> None:
    """The status follows from what the registry knows; the process is alive in any case."""
    answer = await ask("/readyz", freshness)
    assert answer.status_code == status
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "status": word,
        "registry": {
            "mode": "snapshot",
            "hotkeys": 3,
            "age_seconds": 12.3,
            "failing_since": "2026-06-01T12:00:00+00:00",
            "last_error": "nobody answered",
        },
    }
    assert (await ask("/healthz", freshness)).status_code == 200


async def test_broken_policy_file_is_told_of_and_makes_nobody_unready() -> None:
    """The policies of before are in force; taking every replica away would help nobody."""

    class Policies:
        def state(self) -> PolicyState:
            return PolicyState(
                source="/etc/policy.toml", names=("b", "a"), loaded_at=NOW, problem="not valid TOML"
            )

    app = build_admin_app(
        registry=Registry(Freshness.FRESH), is_draining=lambda: False, policies=Policies()
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["policy"] == {
        "source": "/etc/policy.toml",
        "default": "b",
        "names": ["b", "a"],
        "loaded_at": "2026-06-01T12:00:00+00:00",
        "problem": "not valid TOML",
    }


async def test_ending_service_is_not_ready() -> None:
    """So that nobody sends it new callers."""
    answer = await ask("/readyz", Freshness.FRESH, draining=True)
    assert (answer.status_code, answer.json()["status"]) == (503, "draining")


@pytest.mark.parametrize("path", ["/", "/auth", "/healthz/"])
async def test_admin_listener_knows_its_own_paths_only(path: str) -> None:
    """Nobody should take it for the auth listener."""
    assert (await ask(path, Freshness.FRESH)).status_code != 200
