"""Health, readiness, metrics and the status page."""

from __future__ import annotations

import httpx
import pytest

from nexus_auth.adapters.observability.counters import Counters
from nexus_auth.adapters.observability.monitor import Monitor
from nexus_auth.adapters.observability.prometheus import CONTENT_TYPE
from nexus_auth.adapters.starlette.admin_app import build_admin_app
from nexus_auth.adapters.starlette.status_page import PAGE_HEADERS
from nexus_auth.domain.health import Freshness, PolicyHealth
from tests.builders import NOW
from tests.fakes import FakeClock
from tests.unit.adapters.observability.watched import a_state


def a_monitor(freshness: Freshness) -> Monitor:
    """The monitor of a worker whose registry is in some state."""
    clock = FakeClock()
    state = a_state(freshness, age=12.34, error="nobody answered")
    return Monitor(
        counters=Counters(clock=clock),
        registry_health=lambda: state,
        remembered=tuple,
        clock=clock,
    )


async def ask(
    path: str,
    freshness: Freshness = Freshness.FRESH,
    *,
    draining: bool = False,
    token: str | None = None,
    policy: PolicyHealth | None = None,
) -> httpx.Response:
    """One request to the admin application."""
    app = build_admin_app(
        monitor=a_monitor(freshness),
        is_draining=lambda: draining,
        token=token,
        policy_health=None if policy is None else lambda: policy,
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8081") as client:
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


async def test_broken_policy_file_is_shown_and_the_service_stays_ready() -> None:
    """The policies of before are in force; taking every replica away would not help."""
    policy = PolicyHealth(
        source="/etc/policy.toml", names=("b", "a"), loaded_at=NOW, problem="not valid TOML"
    )
    answer = await ask("/readyz", policy=policy)
    assert answer.status_code == 200
    assert answer.json()["policy"] == {
        "source": "/etc/policy.toml",
        "default": "b",
        "names": ["b", "a"],
        "loaded_at": "2026-06-01T12:00:00+00:00",
        "problem": "not valid TOML",
    }


async def test_ending_service_is_not_ready() -> None:
    """So that a load balancer sends it no new callers."""
    answer = await ask("/readyz", Freshness.FRESH, draining=True)
    assert (answer.status_code, answer.json()["status"]) == (503, "draining")


@pytest.mark.parametrize("path", ["/auth", "/healthz/", "/docs", "/style.css"])
async def test_admin_listener_knows_its_own_paths_only(path: str) -> None:
    """It cannot be mistaken for the auth listener."""
    assert (await ask(path)).status_code in {307, 404}


async def test_status_page_is_served_with_its_policy() -> None:
    """A document of its own, never cached."""
    answer = await ask("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert {name: answer.headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS
    assert "Serving - nexus-auth" in answer.text


async def test_metrics_are_served_in_their_format() -> None:
    """Of the policies as well, where there are any."""
    policy = PolicyHealth(source="/p.toml", names=("a",), loaded_at=NOW, problem="no TOML")
    answer = await ask("/metrics", policy=policy)
    assert answer.headers["content-type"] == CONTENT_TYPE
    assert answer.headers["cache-control"] == "no-store"
    assert 'nexus_auth_decisions_total{code="granted",outcome="granted"} 0.0' in answer.text
    assert "nexus_auth_policy_broken 1.0" in answer.text
    assert "nexus_auth_policy_broken" not in (await ask("/metrics")).text


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthz", 200), ("/readyz", 200), ("/", 401), ("/metrics", 401), ("/other", 401)],
)
async def test_token_is_needed_for_everything_but_the_probes(path: str, status: int) -> None:
    """See `admin_guard`."""
    assert (await ask(path, token="an-admin-token")).status_code == status
