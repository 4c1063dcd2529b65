"""The check inside an ASGI application: a middleware, and what a Starlette user looks like.

The proxy in front terminates TLS and hands the client's certificate on in a header. A certificate
is public, so the header proves something only when it comes from a proxy that is known to have
seen the private key used. From any other peer it is removed unread.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Literal

from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    UnauthenticatedUser,
)

# FastAPI reads the annotations of a dependency at run time, so this name must exist then.
from starlette.requests import HTTPConnection

from nexus_auth.adapters.headers.names import X_CLIENT_CERT, CertificateFormat
from nexus_auth.adapters.starlette.answers import DENIALS, HOTKEY_FIELD, POLICY_VIOLATION
from nexus_auth.adapters.starlette.gate import Gate
from nexus_auth.adapters.starlette.refusal import build_refusal
from nexus_auth.adapters.starlette.trusted_peers import UNIX_SOCKET, TrustedPeers
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.policy import ADMIT_REGISTERED, AccessPolicy
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from nexus_auth.adapters.starlette.gate import VerifierSource
    from nexus_auth.domain.neuron import Neuron
    from nexus_auth.domain.verifier import CertificateVerifier

__all__ = [
    "AUTHENTICATED",
    "UNIX_SOCKET",
    "AnonymousUser",
    "HotkeyUser",
    "NexusAuthBackend",
    "NexusAuthMiddleware",
    "TrustedPeers",
    "require_hotkey",
    "verifier_from_state",
]

DEFAULT_HEADER: Final = X_CLIENT_CERT
DEFAULT_FORMAT: Final = CertificateFormat.PERCENT_ENCODED_PEM.value
AUTHENTICATED: Final = "authenticated"

_DECISION_KEY: Final = "nexus_auth.decision"


class HotkeyUser(BaseUser):
    """A caller whose hotkey is proven: `request.user` in the application."""

    def __init__(self, granted: Granted) -> None:
        self.hotkey: Hotkey = granted.hotkey
        self.fingerprint: str = granted.fingerprint
        self.neuron: Neuron | None = granted.neuron

    @property
    def is_authenticated(self) -> bool:
        """Always true."""
        return True

    @property
    def identity(self) -> str:
        """The SS58 address."""
        return self.hotkey.address

    display_name = identity


class AnonymousUser(UnauthenticatedUser):
    """A caller who proved nothing, where the application lets such callers in."""

    hotkey: None = None

    def __init__(self, reason: DenialReason) -> None:
        self.reason = reason


def verifier_from_state(name: str = "verifier") -> VerifierSource:
    """Finds the verifier in what the application's lifespan yielded as its state.

        @asynccontextmanager
        async def lifespan(app):
            async with nexus_auth.connect(...) as verifier:
                yield {"verifier": verifier}

    Where the state holds none, every caller is denied as `registry-unavailable`, and the log says
    why: Daphne runs no lifespan.

    Args:
        name: Its name in the state.
    """

    def find(scope: Scope) -> CertificateVerifier:
        verifier: CertificateVerifier | None = (scope.get("state") or {}).get(name)
        if verifier is None:
            raise ConfigurationError(
                setting=f"verifier_from_state({name!r})",
                problem="the lifespan left no such verifier: it yields none under this name, or "
                "the server runs no lifespan (Daphne; uvicorn --lifespan off). Run it, or give "
                "the middleware a verifier that is opened elsewhere",
            )
        return verifier

    return find


class NexusAuthMiddleware:
    """ASGI middleware that lets in only callers whose hotkey is proven and registered.

    A granted request reaches the application with `request.user` (a `HotkeyUser`),
    `request.auth` and exactly one `X-Hotkey` header, written here. Headers by which a client could
    claim a hotkey are removed in every case.

    Anything but HTTP and WebSocket (the lifespan) is passed through.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        verifier: CertificateVerifier | VerifierSource,
        trusted_proxies: Iterable[str],
        on_denial: Literal["reject", "anonymous"] = "reject",
        header: str = DEFAULT_HEADER,
        header_format: str = DEFAULT_FORMAT,
        policy: AccessPolicy = ADMIT_REGISTERED,
        server_keeps_trailers_apart: bool = False,
    ) -> None:
        """Wraps an application.

        Args:
            app: The application to protect.
            verifier: Takes the decision, or finds the verifier: see `verifier_from_state` for one
                that is opened in the application's lifespan.
            trusted_proxies: Addresses, networks or `unix`: the peers whose header is believed.
                An empty list trusts no peer. The peer is what the server reports as the client;
                one that may come from `X-Forwarded-For` or the like is denied as
                `untrusted-peer`, and the log says which option of the server to change. `unix`
                works with uvicorn alone: no other server that we know says that a connection came
                in through a unix socket.
            on_denial: `reject` answers 403; `anonymous` passes the request on with a user that is
                not authenticated.
            header: The header that carries the certificate; no other is read.
            header_format: How the proxy writes it: percent-encoded-pem, base64-der, rfc9440, xfcc.
            policy: Who among the registered may enter.
            server_keeps_trailers_apart: Whether the server never puts trailers among the headers.
                uvicorn with httptools does, so that any client could send a certificate there
                behind many proxies: without this promise a chunked request proves nothing.
        """
        if on_denial not in {"reject", "anonymous"}:
            raise ValueError("on_denial is 'reject' or 'anonymous'")
        self._app = app
        self._reject = on_denial == "reject"
        self._gate = Gate.for_application(
            verifier=verifier,
            trusted_proxies=trusted_proxies,
            header=header,
            header_format=header_format,
            policy=policy,
            server_keeps_trailers_apart=server_keeps_trailers_apart,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection (ASGI 3)."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        decision = await self._gate.decide(scope)
        headers = self._without_claims(scope)
        user: BaseUser
        credentials = AuthCredentials()
        match decision:
            case Granted():
                headers.append((HOTKEY_FIELD, decision.hotkey.address.encode("ascii")))
                user, credentials = HotkeyUser(decision), AuthCredentials([AUTHENTICATED])
            case Denied() if self._reject:
                await _deny(decision, scope, send)
                return
            case Denied():
                user = AnonymousUser(decision.reason)
        seen = {"headers": headers, "user": user, "auth": credentials, _DECISION_KEY: decision}
        await self._app({**scope, **seen}, receive, send)

    def _without_claims(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """The request's headers without any that claim to name the caller.

        Underscores count as dashes: WSGI servers and CGI fold both into one name.
        """
        return [
            (name, value)
            for name, value in scope["headers"]
            if not self._is_claim(name.lower().replace(b"_", b"-"))
        ]

    def _is_claim(self, name: bytes) -> bool:
        return name in {self._gate.header, HOTKEY_FIELD} or name.startswith(HOTKEY_FIELD + b"-")


async def _deny(denied: Denied, scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
    else:
        await DENIALS[denied.reason].send(scope, send)


class NexusAuthBackend(AuthenticationBackend):
    """The same check as an authentication backend for Starlette's own middleware.

    Callers without any certificate header, and those who do not come through a trusted proxy, are
    anonymous; a certificate that is denied is an
    `AuthenticationError`, which Starlette answers with 400 unless `on_error` says otherwise.
    Unlike `NexusAuthMiddleware` it removes no header from the request.
    """

    def __init__(
        self,
        *,
        verifier: CertificateVerifier | VerifierSource,
        trusted_proxies: Iterable[str],
        header: str = DEFAULT_HEADER,
        header_format: str = DEFAULT_FORMAT,
        policy: AccessPolicy = ADMIT_REGISTERED,
        server_keeps_trailers_apart: bool = False,
    ) -> None:
        """Wires the backend; see `NexusAuthMiddleware` for the arguments."""
        self._gate = Gate.for_application(
            verifier=verifier,
            trusted_proxies=trusted_proxies,
            header=header,
            header_format=header_format,
            policy=policy,
            server_keeps_trailers_apart=server_keeps_trailers_apart,
        )

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Decides on the caller of one request."""
        decision = await self._gate.decide(conn.scope)
        match decision:
            case Granted():
                return AuthCredentials([AUTHENTICATED]), HotkeyUser(decision)
            case Denied(reason=DenialReason.NO_CERTIFICATE | DenialReason.UNTRUSTED_PEER):
                return None
            case Denied():
                raise AuthenticationError(decision.reason.body)


def require_hotkey(connection: HTTPConnection) -> Hotkey:
    """FastAPI dependency: the caller's proven hotkey.

    Use it behind `NexusAuthMiddleware(on_denial="anonymous")`, where some routes are open and
    others need a caller:

        @app.get("/work")
        async def work(hotkey: Annotated[Hotkey, Depends(require_hotkey)]): ...

    Raises:
        starlette.exceptions.HTTPException: 403, when no hotkey is proven, or no middleware is
            there to prove one.
        starlette.exceptions.WebSocketException: The same for a WebSocket, where the server cannot
            answer one with a response.
    """
    user = connection.scope.get("user")
    if isinstance(user, HotkeyUser):
        return user.hotkey
    reason = user.reason if isinstance(user, AnonymousUser) else DenialReason.NO_CERTIFICATE
    raise build_refusal(connection.scope, reason)
