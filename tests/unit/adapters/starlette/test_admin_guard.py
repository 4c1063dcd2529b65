"""Who may see the admin listener's pages."""

from __future__ import annotations

import base64

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from nexus_auth.adapters.starlette.admin_guard import AdminGuard

TOKEN = "an-admin-token"


async def ask(
    path: str = "/", *, token: str | None = None, headers: list[tuple[str, str]] | None = None
) -> httpx.Response:
    """One request to a guarded application that answers everything."""

    async def page(_: Request) -> PlainTextResponse:
        return PlainTextResponse("the page")

    app = AdminGuard(Starlette(routes=[Route("/{path:path}", page)]), token=token)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8081") as client:
        return await client.get(path, headers=headers or [])


def basic(password: str, user: str = "") -> str:
    """A Basic credential."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_need_no_token_and_may_name_any_host(path: str) -> None:
    """Kubernetes has no token to send."""
    answer = await ask(path, token=TOKEN, headers=[("Host", "anything.example")])
    assert answer.text == "the page"


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic(TOKEN), basic(TOKEN, "operator")],
)
async def test_token_opens_everything_from_everywhere(authorization: str) -> None:
    """As a bearer token, or as the password in a web browser."""
    headers = [("Authorization", authorization), ("Host", "auth.example")]
    assert (await ask("/metrics", token=TOKEN, headers=headers)).text == "the page"


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
    answer = await ask(path, token=TOKEN, headers=headers)
    assert answer.status_code == 401
    assert "the page" not in answer.text
    assert TOKEN not in answer.text
    assert answer.headers["www-authenticate"].startswith("Basic realm=")


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "nothing", basic("")])
async def test_nothing_is_no_token_even_where_the_token_is_nothing(authorization: str) -> None:
    """A token that got lost on its way here must not open the listener to every client."""
    answer = await ask(token="", headers=[("Authorization", authorization)])
    assert answer.status_code == 401
    assert "the page" not in answer.text


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8081", "localhost", "LocalHost:8081", "[::1]:8081", "auth.localhost", "10.0.0.7"],
)
async def test_without_token_this_machine_is_named_by_address_or_as_localhost(host: str) -> None:
    """No name server has a say in these."""
    assert (await ask(headers=[("Host", host)])).text == "the page"


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
    answer = await ask(headers=[("Host", host)])
    assert answer.status_code == 421
    assert "evil" not in answer.text


async def test_two_hosts_are_no_host() -> None:
    """Which of them counts must not be a client's choice."""
    answer = await ask(headers=[("Host", "localhost"), ("Host", "evil.example")])
    assert answer.status_code == 421
