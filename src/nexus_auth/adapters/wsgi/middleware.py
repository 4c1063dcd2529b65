"""The check around a WSGI application, such as one of Flask or Django."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal

import structlog

from nexus_auth.adapters.clock import monotonic_seconds
from nexus_auth.adapters.headers.names import X_CLIENT_CERT, CertificateFormat
from nexus_auth.adapters.log_throttle import LogThrottle
from nexus_auth.adapters.starlette.answers import DENIALS
from nexus_auth.adapters.starlette.gate import Gate
from nexus_auth.adapters.starlette.trusted_peers import is_named
from nexus_auth.adapters.synchronous import SyncVerifier
from nexus_auth.adapters.wsgi.request import (
    OWN_PREFIX,
    Environ,
    StartResponse,
    build_scope,
    find_claims,
)
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.domain.policy import ADMIT_REGISTERED
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.verifier import CertificateVerifier

if TYPE_CHECKING:
    from nexus_auth.domain.policy import AccessPolicy

WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

SPELLING_UNKNOWN: Final = (
    "the server does not say how the name of the certificate's header was spelt, and a client may "
    "have sent it with an underscore, which WSGI takes for the same: under gunicorn, put this "
    "middleware around all others; elsewhere, have the proxy remove both spellings and say so with "
    "proxy_removes_spellings=True"
)

_VERIFIER: Final = f"{OWN_PREFIX}verifier"

log = structlog.get_logger(__name__)


class NexusAuthMiddleware:
    """WSGI middleware (PEP 3333) that lets in only callers whose hotkey is proven and registered.

        app.wsgi_app = NexusAuthMiddleware(app.wsgi_app, ...)                 # Flask
        application = NexusAuthMiddleware(get_wsgi_application(), ...)        # Django

    A granted request reaches the application with `REMOTE_USER` and `HTTP_X_HOTKEY` in its environ,
    the hotkey's address, and with `nexus_auth.hotkey` (a `Hotkey`); both kinds have
    `nexus_auth.decision`. All are set here alone: what could claim a hotkey is removed in every
    case, in every spelling that some server takes for the same name.

    A denial is answered as the ASGI middleware answers it.
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        verifier: SyncVerifier
        | CertificateVerifier
        | Callable[[], AbstractAsyncContextManager[CertificateVerifier]],
        trusted_proxies: Iterable[str],
        on_denial: Literal["reject", "anonymous"] = "reject",
        header: str = X_CLIENT_CERT,
        header_format: str = CertificateFormat.PERCENT_ENCODED_PEM.value,
        policy: AccessPolicy = ADMIT_REGISTERED,
        server_keeps_trailers_apart: bool = False,
        proxy_removes_spellings: bool = False,
    ) -> None:
        """Wraps an application. Starts nothing: a server that forks may do so before.

        Args:
            app: The application to protect.
            verifier: Takes the decision: a `SyncVerifier`, or what one is made of, such as
                `lambda: nexus_auth.connect(...)`.
            trusted_proxies: Addresses, networks or `unix`: the peers whose header is believed.
                An empty list trusts no peer. The peer is that of the connection, where the server
                shows it (gunicorn, waitress, the development servers of Werkzeug and Django,
                wsgiref), whatever `REMOTE_ADDR` says. Elsewhere it is `REMOTE_ADDR`, which is
                denied where it may come from a header, and `unix` matches no peer.
            on_denial: `reject` answers 403; `anonymous` passes the request on without a hotkey.
            header: The header that carries the certificate; no other is read.
            header_format: How the proxy writes it: percent-encoded-pem, base64-der, rfc9440, xfcc.
            policy: Who among the registered may enter.
            server_keeps_trailers_apart: Whether the server never puts trailers among the headers.
                Without this promise a chunked request proves nothing, except under the servers
                named above, which do not.
            proxy_removes_spellings: Whether the proxy removes what a client sends under the
                header's name, with hyphens or underscores. WSGI has one name for both. The servers
                named above show which it was, or drop the second; under any other, a header with
                a hyphen in its name proves nothing without this promise.

        Raises:
            ValueError: When an argument cannot mean anything.
        """
        if on_denial not in {"reject", "anonymous"}:
            raise ValueError("on_denial is 'reject' or 'anonymous'")
        if "_" in header:
            raise ValueError("header is spelt with hyphens")
        self._app = app
        self._verifier = verifier if isinstance(verifier, SyncVerifier) else SyncVerifier(verifier)
        self._reject = on_denial == "reject"
        self._header = header
        self._has_one_spelling = proxy_removes_spellings
        self._gate = Gate.for_application(
            verifier=lambda scope: scope[_VERIFIER],
            trusted_proxies=trusted_proxies,
            header=header,
            header_format=header_format,
            policy=policy,
            server_keeps_trailers_apart=server_keeps_trailers_apart,
            is_rewritten=is_named,
        )
        self._throttle = LogThrottle(monotonic_seconds)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Handles one request."""
        decision = self._decide(environ, start_response)
        for key in find_claims(environ, self._header):
            del environ[key]
        environ[f"{OWN_PREFIX}decision"] = decision
        match decision:
            case Granted():
                address = decision.hotkey.address
                environ["REMOTE_USER"] = environ["HTTP_X_HOTKEY"] = address
                environ[f"{OWN_PREFIX}hotkey"] = decision.hotkey
            case Denied() if self._reject:
                return _deny(decision, environ, start_response)
            case Denied():
                pass
        return self._app(environ, start_response)

    def _decide(self, environ: Environ, start_response: StartResponse) -> Decision:
        try:
            scope, is_hidden = build_scope(
                environ,
                start_response,
                header=self._header,
                has_one_spelling=self._has_one_spelling,
            )
            decision = self._verifier.decide(
                lambda verifier: self._gate.decide({**scope, _VERIFIER: verifier})
            )
        except Exception as exc:  # noqa: BLE001 - the outermost edge: it is logged, and a denial
            if self._throttle.allow((type(exc), str(exc))):
                if isinstance(exc, ConfigurationError):
                    log.error("no_verifier", problem=str(exc))  # noqa: TRY400 - a setting, no defect
                else:
                    # As text: what renders tracebacks may show variables, such as headers.
                    problem = "".join(traceback.format_exception(exc))
                    log.error("decision_failed", problem=problem)  # noqa: TRY400 - see above
            return Denied(reason=DenialReason.REGISTRY_UNAVAILABLE, detail="the check failed")
        if (
            is_hidden
            and isinstance(decision, Denied)
            and decision.reason is DenialReason.NO_CERTIFICATE
            and self._throttle.allow(SPELLING_UNKNOWN)
        ):
            log.warning("certificate_not_believed", problem=SPELLING_UNKNOWN)
        return decision


def _deny(denied: Denied, environ: Environ, start_response: StartResponse) -> list[bytes]:
    answer = DENIALS[denied.reason]
    start_response(
        f"{answer.status} {HTTPStatus(answer.status).phrase}",
        [(name.decode().title(), value.decode()) for name, value in answer.headers],
    )
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [answer.body]
