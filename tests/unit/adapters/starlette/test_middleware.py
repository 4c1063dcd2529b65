"""The check inside an ASGI application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import httpx
import pytest
import structlog.testing
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Scope

from nexus_auth.adapters.starlette.middleware import (
    HotkeyUser,
    NexusAuthBackend,
    NexusAuthMiddleware,
    require_hotkey,
    verifier_from_state,
)
from nexus_auth.adapters.starlette.trusted_peers import TrustedPeers
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.policy import ADMIT_REGISTERED, AccessPolicy, OnlyHotkeys
from nexus_auth.domain.verifier import CertificateVerifier
from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_nginx_header
from tests.fakes import FakeClock, FakeRegistry

ALICE = a_hotkey("alice")
PROXY = "10.1.2.3"
STRANGER = "192.0.2.7"
CERTIFICATE = to_nginx_header(a_certificate())


def a_verifier() -> CertificateVerifier:
    """A verifier that knows alice."""
    registry = FakeRegistry({ALICE: public_bytes(a_key("alice"))})
    return CertificateVerifier(registry=registry, clock=FakeClock())


async def show_caller(request: Request) -> JSONResponse:
    """Tells what the application sees."""
    return JSONResponse(
        {
            "user": request.user.hotkey.address if request.user.is_authenticated else None,
            "x-hotkey": request.headers.getlist("x-hotkey"),
            "claims": sorted(name for name in request.headers if "hotkey" in name.lower()),
            "certificate": request.headers.getlist("x-client-cert"),
        }
    )


def an_app(
    *,
    trusted_proxies: Iterable[str] = ("10.0.0.0/8",),
    on_denial: Literal["reject", "anonymous"] = "reject",
) -> Starlette:
    """An application behind the middleware."""
    return Starlette(
        routes=[Route("/{path:path}", show_caller)],
        middleware=[
            Middleware(
                NexusAuthMiddleware,
                verifier=a_verifier(),
                trusted_proxies=trusted_proxies,
                on_denial=on_denial,
            )
        ],
    )


async def ask(app: Any, headers: list[tuple[bytes, bytes]], *, peer: str = PROXY) -> httpx.Response:
    """One request from a peer."""
    transport = httpx.ASGITransport(app=app, client=(peer, 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        return await client.get("/x", headers=headers)


async def test_registered_caller_is_the_user() -> None:
    """A proven caller is `request.user`, with exactly one X-Hotkey that we wrote."""
    forged = [(b"X-Hotkey", b"5Forged"), (b"X_Hotkey", b"5Forged"), (b"x-hotkey-stake", b"9")]
    answer = await ask(an_app(), [(b"X-Client-Cert", CERTIFICATE), *forged])
    assert answer.status_code == 200
    assert answer.json() == {
        "user": ALICE.address,
        "x-hotkey": [ALICE.address],
        "claims": ["x-hotkey"],
        "certificate": [],
    }


@pytest.mark.parametrize(
    ("headers", "peer", "reason"),
    [
        ([], PROXY, "no-certificate"),
        ([(b"X-Client-Cert", b"")], PROXY, "no-certificate"),
        ([(b"X-Client-Cert", CERTIFICATE)] * 2, PROXY, "no-certificate"),
        ([(b"X_Client_Cert", CERTIFICATE)], PROXY, "no-certificate"),
        ([(b"X-Client-Cert", b"%zz")], PROXY, "bad-encoding"),
        ([(b"X-Client-Cert", CERTIFICATE)], STRANGER, "untrusted-peer"),
        (
            [(b"X-Client-Cert", to_nginx_header(a_certificate(hotkey=a_hotkey("bob"))))],
            PROXY,
            "not-registered",
        ),
        (
            [(b"X-Client-Cert", to_nginx_header(a_certificate(key=a_key("bob"))))],
            PROXY,
            "key-mismatch",
        ),
    ],
)
async def test_everybody_else_is_refused(
    headers: list[tuple[bytes, bytes]], peer: str, reason: str
) -> None:
    """A refusal never reaches the application."""
    answer = await ask(an_app(), headers, peer=peer)
    assert answer.status_code == 403
    assert answer.headers["x-nexus-auth-reason"] == reason
    assert answer.headers["cache-control"] == "no-store"
    assert "x-hotkey" not in answer.headers


@pytest.mark.parametrize("peer", [PROXY, STRANGER])
async def test_anonymous_caller_reaches_the_app_without_any_claim(peer: str) -> None:
    """Where the app lets strangers in, whatever they claim is gone."""
    forged = [(b"X-Hotkey", ALICE.address.encode()), (b"x_hotkey", ALICE.address.encode())]
    certificate = [(b"X-Client-Cert", CERTIFICATE)] if peer == STRANGER else []
    answer = await ask(an_app(on_denial="anonymous"), [*forged, *certificate], peer=peer)
    assert answer.status_code == 200
    assert answer.json() == {"user": None, "x-hotkey": [], "claims": [], "certificate": []}


async def test_empty_list_of_proxies_trusts_nobody() -> None:
    """Without trusted proxies the header proves nothing, not even from this machine."""
    answer = await ask(
        an_app(trusted_proxies=()), [(b"X-Client-Cert", CERTIFICATE)], peer="127.0.0.1"
    )
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("proxies", "scope", "trusted"),
    [
        (["10.0.0.0/8"], {"client": ("10.9.9.9", 1)}, True),
        (["10.0.0.0/8"], {"client": ("11.0.0.1", 1)}, False),
        (["10.0.0.0/8"], {"client": ("::ffff:10.0.0.1", 1)}, True),
        (["::1"], {"client": ("::1", 1)}, True),
        (["127.0.0.1"], {"client": ("testclient", 1)}, False),
        (["127.0.0.1"], {"client": None}, False),
        (["127.0.0.1"], {}, False),
        (["unix"], {"client": None, "server": ("/run/app.sock", None)}, True),
        (["unix"], {"client": None, "server": ("127.0.0.1", 80)}, False),
        (["unix"], {"client": None, "server": None}, False),
        (["unix"], {"client": ("127.0.0.1", 1), "server": ("/run/app.sock", None)}, False),
        (["127.0.0.1"], {"client": None, "server": ("/run/app.sock", None)}, False),
        ([], {"client": ("127.0.0.1", 1)}, False),
    ],
)
def test_trusted_proxies(proxies: list[str], scope: Scope, trusted: bool) -> None:  # noqa: FBT001 - a table
    """Only a listed peer is believed; a missing client is a unix socket only when it looks so."""
    peers = TrustedPeers.of(proxies)
    assert peers.include(scope.get("client"), scope.get("server")) is trusted


@pytest.mark.parametrize("proxies", ["127.0.0.1", ["nginx"], ["10.0.0.1/8"]])
def test_wrong_list_of_proxies_is_refused(proxies: Any) -> None:
    """A list that cannot mean anything is a mistake at start-up, not a surprise later."""
    with pytest.raises(ValueError, match=r"list|addresses or networks"):
        TrustedPeers.of(proxies)


async def test_websocket_of_a_stranger_is_closed_before_it_opens() -> None:
    """A WebSocket handshake without proof is refused by the server."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        raise AssertionError("the application must not be reached")

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = NexusAuthMiddleware(app, verifier=a_verifier(), trusted_proxies=["10.0.0.0/8"])
    scope = {"type": "websocket", "headers": [], "client": (PROXY, 1), "server": ("app", 80)}
    await middleware(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("state", [None, {}, {"other": 1}, {"verifier": None}])
async def test_missing_verifier_is_a_denial_whose_cause_is_logged(state: Any) -> None:
    """Daphne runs no lifespan, and leaves no state; the caller learns nothing of it."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def with_state(scope: Scope, receive: Any, send: Any) -> None:
        own = {} if state is None else {"state": state}
        await middleware({**scope, **own}, receive, send)

    middleware = NexusAuthMiddleware(
        app, verifier=verifier_from_state(), trusted_proxies=["10.0.0.0/8"]
    )
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            answer = await ask(with_state, [(b"X-Client-Cert", CERTIFICATE)])
            assert answer.status_code == 403
            assert answer.headers["x-nexus-auth-reason"] == "registry-unavailable"
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("no_verifier", "error")
    assert line["problem"].startswith("verifier_from_state('verifier'): ")
    assert "Daphne" in line["problem"]
    assert seen == []


async def test_lifespan_passes_through() -> None:
    """Starting and stopping the application is nobody's request."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    middleware = NexusAuthMiddleware(app, verifier=a_verifier(), trusted_proxies=[])
    await middleware({"type": "lifespan"}, None, None)  # type: ignore[arg-type] # unused here
    assert seen == ["lifespan"]


def test_unknown_way_to_deny_is_refused() -> None:
    """A misspelt choice must not become the open one."""
    with pytest.raises(ValueError, match="on_denial"):
        NexusAuthMiddleware(None, verifier=a_verifier(), trusted_proxies=[], on_denial="allow")  # type: ignore[arg-type] # the point


def test_unknown_header_format_is_refused() -> None:
    """A misspelt format is named at start-up."""
    with pytest.raises(ValueError, match="percent-encoded-pem"):
        NexusAuthBackend(verifier=a_verifier(), trusted_proxies=[], header_format="pem")


async def who(request: Request) -> JSONResponse:
    """Tells what else the application learns."""
    user = request.user
    neuron = user.neuron if isinstance(user, HotkeyUser) else None
    return JSONResponse({"uid": neuron and neuron.uid, "scopes": request.auth.scopes})


CLOSED = AccessPolicy(name="closed", rules=(OnlyHotkeys(frozenset()),))


@pytest.mark.parametrize("policy", [ADMIT_REGISTERED, CLOSED], ids=lambda policy: policy.name)
@pytest.mark.parametrize("with_backend", [False, True], ids=["middleware", "backend"])
async def test_policy_of_the_application_decides_who_enters(
    policy: AccessPolicy,
    with_backend: bool,  # noqa: FBT001 - a table
) -> None:
    """Registered and proven is not enough where the application asks for more."""
    common: dict[str, Any] = {
        "verifier": a_verifier(),
        "trusted_proxies": ["10.0.0.0/8"],
        "policy": policy,
    }
    middleware = (
        Middleware(AuthenticationMiddleware, backend=NexusAuthBackend(**common))
        if with_backend
        else Middleware(NexusAuthMiddleware, **common)
    )
    app = Starlette(routes=[Route("/x", who)], middleware=[middleware])
    answer = await ask(app, [(b"X-Client-Cert", CERTIFICATE)])
    assert (answer.status_code == 200) is (policy is ADMIT_REGISTERED)
    if policy is CLOSED and not with_backend:
        assert answer.headers["x-nexus-auth-reason"] == "not-permitted"


async def test_application_learns_the_neuron_and_the_scope() -> None:
    """Of a caller who is proven; of anybody else, nothing."""
    registry = FakeRegistry({ALICE: public_bytes(a_key("alice"))})
    registry.neurons = {
        ALICE: Neuron(uid=7, validator_permit=True, active=True, alpha=1, tao=2, total=3)
    }
    app = Starlette(
        routes=[Route("/x", who)],
        middleware=[
            Middleware(
                NexusAuthMiddleware,
                verifier=CertificateVerifier(registry=registry, clock=FakeClock()),
                trusted_proxies=["10.0.0.0/8"],
                on_denial="anonymous",
            )
        ],
    )
    proven = await ask(app, [(b"X-Client-Cert", CERTIFICATE)])
    assert proven.json() == {"uid": 7, "scopes": ["authenticated"]}
    assert (await ask(app, [])).json() == {"uid": None, "scopes": []}


@pytest.mark.parametrize("names", [(), ("mine",)])
async def test_verifier_is_found_in_the_state_of_the_lifespan(names: tuple[str, ...]) -> None:
    """Under the name that it was given there, `verifier` by default."""
    verifier = a_verifier()
    scope: Scope = {"type": "http", "state": {"mine": None, "verifier": None}}
    scope["state"][names[0] if names else "verifier"] = verifier
    assert verifier_from_state(*names)(scope) is verifier


async def test_fastapi_dependency_gives_the_hotkey() -> None:
    """Some routes are open, others need a caller."""
    app = FastAPI()

    @app.get("/x")
    async def _work(hotkey: Annotated[Hotkey, Depends(require_hotkey)]) -> dict[str, str]:
        return {"hotkey": hotkey.address}

    app.add_middleware(
        NexusAuthMiddleware,
        verifier=a_verifier(),
        trusted_proxies=["10.0.0.0/8"],
        on_denial="anonymous",
    )
    granted = await ask(app, [(b"X-Client-Cert", CERTIFICATE)])
    assert granted.json() == {"hotkey": ALICE.address}
    for refused in (await ask(app, []), await ask(app, [(b"X-Hotkey", b"5Forged")])):
        assert refused.status_code == 403
        assert refused.headers["x-nexus-auth-reason"] == "no-certificate"
        assert refused.headers["cache-control"] == "no-store"
        assert refused.json() == {"detail": "Access denied: No client certificate"}


async def test_fastapi_dependency_without_middleware_denies() -> None:
    """A forgotten middleware must not mean that everybody is in."""
    app = FastAPI()

    @app.get("/x")
    async def _work(hotkey: Annotated[Hotkey, Depends(require_hotkey)]) -> dict[str, str]:
        return {"hotkey": hotkey.address}

    assert (await ask(app, [(b"X-Client-Cert", CERTIFICATE)])).status_code == 403


async def test_starlette_backend() -> None:
    """Starlette's own middleware can ask us as well."""
    app = Starlette(
        routes=[Route("/x", show_caller)],
        middleware=[
            Middleware(
                AuthenticationMiddleware,
                backend=NexusAuthBackend(verifier=a_verifier(), trusted_proxies=["10.0.0.0/8"]),
            )
        ],
    )
    granted = await ask(app, [(b"X-Client-Cert", CERTIFICATE)])
    anonymous = await ask(app, [])
    refused = await ask(app, [(b"X-Client-Cert", b"%zz")])
    assert granted.json()["user"] == ALICE.address
    assert anonymous.json()["user"] is None
    assert refused.status_code == 400


CHUNKED = [(b"X-Client-Cert", CERTIFICATE), (b"Transfer-Encoding", b"chunked")]


async def test_chunked_request_proves_nothing_without_the_servers_promise() -> None:
    """Its certificate may be a trailer, which any client can send through a proxy."""
    refused = await ask(an_app(), CHUNKED)
    assert refused.status_code == 403
    assert refused.headers["x-nexus-auth-reason"] == "no-certificate"
    anonymous = await ask(an_app(on_denial="anonymous"), CHUNKED)
    assert anonymous.json() == {"user": None, "x-hotkey": [], "claims": [], "certificate": []}
    backend = NexusAuthBackend(verifier=a_verifier(), trusted_proxies=["10.0.0.0/8"])
    app = Starlette(
        routes=[Route("/x", show_caller)],
        middleware=[Middleware(AuthenticationMiddleware, backend=backend)],
    )
    assert (await ask(app, CHUNKED)).json()["user"] is None


async def test_chunked_request_counts_where_the_server_keeps_trailers_apart() -> None:
    """The neighbour: the same request, and the promise."""
    app = Starlette(
        routes=[Route("/x", show_caller)],
        middleware=[
            Middleware(
                NexusAuthMiddleware,
                verifier=a_verifier(),
                trusted_proxies=["10.0.0.0/8"],
                server_keeps_trailers_apart=True,
            )
        ],
    )
    assert (await ask(app, CHUNKED)).json()["user"] == ALICE.address


async def test_user_describes_itself() -> None:
    """The user has what Starlette expects of one."""
    users: list[HotkeyUser] = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        users.append(scope["user"])
        await JSONResponse({})(scope, receive, send)

    middleware = NexusAuthMiddleware(app, verifier=a_verifier(), trusted_proxies=["10.0.0.0/8"])
    await ask(middleware, [(b"X-Client-Cert", CERTIFICATE)])
    (user,) = users
    assert user.identity == user.display_name == ALICE.address
    assert len(user.fingerprint) == 64
    assert user.neuron is None
