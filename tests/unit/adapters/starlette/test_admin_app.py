"""Health, readiness, metrics and the status page, and who may see them."""

from __future__ import annotations

import base64

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from nexus_auth.adapters.observability.counters import Counters
from nexus_auth.adapters.observability.monitor import Monitor
from nexus_auth.adapters.observability.prometheus import CONTENT_TYPE
from nexus_auth.adapters.starlette.admin_app import AdminGuard, build_admin_app
from nexus_auth.adapters.starlette.status_page import PAGE_HEADERS
from nexus_auth.domain.health import Freshness, PolicyHealth
from nexus_auth.domain.snapshot import Block
from tests.builders import NOW
from tests.fakes import FakeClock
from tests.unit.adapters.observability.watched import BLOCK, a_state, policies

TOKEN = "an-admin-token"


def a_monitor(freshness: Freshness, block: Block | None = None) -> Monitor:
    """The monitor of a worker whose registry is in some state."""
    clock = FakeClock()
    state = a_state(freshness, age=12.34, error="nobody answered", block=block)
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
    block: Block | None = None,
    authorization: str | None = None,
    host: str | None = "localhost:8081",
) -> httpx.Response:
    """One request to the admin application."""
    app = build_admin_app(
        monitor=a_monitor(freshness, block),
        is_draining=lambda: draining,
        token=token,
        policy_health=lambda: policy or policies(),
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8081") as client:
        sent = client.build_request("GET", path)
        if host is None:
            del sent.headers["host"]
        else:
            sent.headers["host"] = host
        if authorization is not None:
            sent.headers["authorization"] = authorization
        return await client.send(sent)


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
        "policy": {
            "source": "/p.toml",
            "default": "a",
            "names": ["a"],
            "loaded_at": "2026-06-01T12:00:00+00:00",
            "problem": None,
        },
        "status": word,
        "registry": {
            "source": "pylon",
            "mode": "snapshot",
            "hotkeys": 3,
            "age_seconds": 12.3,
            "failing_since": "2026-06-01T12:00:00+00:00",
            "last_error": "nobody answered",
            "block": None,
        },
    }
    assert (await ask("/healthz", freshness)).status_code == 200


async def test_block_is_shown_where_the_source_names_one() -> None:
    """Which block of the chain says what is known, and how old it is."""
    registry = (await ask("/readyz", block=BLOCK)).json()["registry"]
    assert registry["source"] == "chain"
    assert registry["block"] == {"number": 1_234_567, "hash": BLOCK.hash, "age_seconds": 42.0}


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
    """Of the policies as well."""
    answer = await ask("/metrics", policy=policies("no TOML"))
    assert answer.headers["content-type"] == CONTENT_TYPE
    assert answer.headers["cache-control"] == "no-store"
    assert 'nexus_auth_decisions_total{code="granted",outcome="granted"} 0.0' in answer.text
    assert "nexus_auth_policy_broken 1.0" in answer.text
    assert "nexus_auth_policy_broken 0.0" in (await ask("/metrics")).text


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthz", 200), ("/readyz", 200), ("/", 401), ("/metrics", 401), ("/other", 401)],
)
async def test_token_is_needed_for_everything_but_the_probes(path: str, status: int) -> None:
    """Probes have no token to send."""
    assert (await ask(path, token=TOKEN)).status_code == status


async def visit(
    path: str = "/", *, token: str | None = None, headers: list[tuple[str, str]] | None = None
) -> httpx.Response:
    """One request to a guarded application that answers everything; without headers, not any."""

    async def page(_: Request) -> PlainTextResponse:
        return PlainTextResponse("the page")

    app = AdminGuard(Starlette(routes=[Route("/{path:path}", page)]), token=token)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8081") as client:
        sent = client.build_request("GET", path, headers=headers or [])
        if headers is None:
            del sent.headers["host"]
        return await client.send(sent)


def basic(password: str, user: str = "") -> str:
    """A Basic credential."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


PROBES = ("127.0.0.1:8081", "localhost:8081", "10.244.1.7:8081", "[fd00::7]:8081", None)
"""How probes name the service: kubelet by the pod's address, HAProxy with HTTP/1.0 not at all."""


@pytest.mark.parametrize("token", [TOKEN, None])
@pytest.mark.parametrize("host", PROBES)
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_need_no_token(path: str, host: str | None, token: str | None) -> None:
    """Kubernetes has no token to send."""
    answer = await visit(path, token=token, headers=[("Host", host)] if host else None)
    assert answer.text == "the page"


@pytest.mark.parametrize("token", [TOKEN, None])
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("hosts", [["evil.example:8081"], [""], ["localhost", "evil.example"]])
async def test_probes_of_a_foreign_host_are_refused(
    path: str, hosts: list[str], token: str | None
) -> None:
    """DNS rebinding reaches these paths like any other."""
    answer = await visit(path, token=token, headers=[("Host", host) for host in hosts])
    assert answer.status_code == 421


@pytest.mark.parametrize(
    ("freshness", "draining", "status", "word"),
    [
        (Freshness.STARTING, False, 503, "starting"),
        (Freshness.FRESH, False, 200, "serving"),
        (Freshness.STALE, False, 200, "serving stale"),
        (Freshness.EXPIRED, False, 503, "closed"),
        (Freshness.FRESH, True, 503, "draining"),
    ],
)
@pytest.mark.parametrize("authorization", [None, "Bearer wrong"])
async def test_readiness_without_the_token_is_a_status_and_a_word(
    freshness: Freshness, *, draining: bool, status: int, word: str, authorization: str | None
) -> None:
    """No names of policies, no paths, no counts, and nothing of Pylon; with it, everything."""
    answer = await ask(
        "/readyz", freshness, draining=draining, token=TOKEN, authorization=authorization
    )
    assert (answer.status_code, answer.json()) == (status, {"status": word})
    for authorized in (
        await ask("/readyz", freshness, draining=draining),
        await ask(
            "/readyz",
            freshness,
            draining=draining,
            token=TOKEN,
            authorization=f"Bearer {TOKEN}",
            host="auth.internal",
        ),
    ):
        assert authorized.status_code == status
        assert authorized.json().keys() == {"status", "policy", "registry"}


async def test_readiness_without_a_host_is_a_status_and_a_word() -> None:
    """What names nothing passes as a probe, and sees no more than one."""
    assert (await ask("/readyz", host=None)).json() == {"status": "serving"}


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic(TOKEN), basic(TOKEN, "operator")],
)
async def test_token_opens_everything_from_everywhere(authorization: str) -> None:
    """As a bearer token, or as the password in a web browser."""
    headers = [("Authorization", authorization), ("Host", "auth.example")]
    assert (await visit("/metrics", token=TOKEN, headers=headers)).text == "the page"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer wrong")],
        [("Authorization", f"Bearer {TOKEN}x")],
        [("Authorization", TOKEN)],
        [("Authorization", f"Digest {TOKEN}")],
        [("Authorization", basic("wrong", TOKEN))],
        [("Authorization", "Basic !!!")],
        [("Authorization", "Basic " + base64.b64encode(TOKEN.encode()).decode())],
        [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")],
    ],
)
@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz/", "/nothing", "//healthz"])
async def test_everything_else_is_refused_without_the_token(
    path: str, headers: list[tuple[str, str]]
) -> None:
    """Also paths that do not exist, and those that only look like a probe's."""
    answer = await visit(path, token=TOKEN, headers=headers)
    assert answer.status_code == 401
    assert "the page" not in answer.text
    assert TOKEN not in answer.text
    assert answer.headers["www-authenticate"].startswith("Basic realm=")


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "nothing", basic("")])
async def test_nothing_is_no_token_even_where_the_token_is_nothing(authorization: str) -> None:
    """A token that got lost on its way here must not open the listener to every client."""
    answer = await visit(token="", headers=[("Authorization", authorization)])
    assert answer.status_code == 401
    assert "the page" not in answer.text


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8081", "localhost", "LocalHost:8081", "[::1]:8081", "auth.localhost", "10.0.0.7"],
)
async def test_without_token_this_machine_is_named_by_address_or_as_localhost(host: str) -> None:
    """No name server has a say in these."""
    assert (await visit(headers=[("Host", host)])).text == "the page"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8081",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "a b",
        "[::1",
        ":80",
    ],
)
async def test_name_that_somebody_could_point_at_us_is_refused(host: str) -> None:
    """DNS rebinding: a page from elsewhere has its own name resolve to loopback."""
    answer = await visit(headers=[("Host", host)])
    assert answer.status_code == 421
    assert "evil" not in answer.text


async def test_two_hosts_are_no_host() -> None:
    """Which of them counts must not be a client's choice."""
    answer = await visit(headers=[("Host", "localhost"), ("Host", "evil.example")])
    assert answer.status_code == 421
