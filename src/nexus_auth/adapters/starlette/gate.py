"""The gate: the one path from a request to a decision.

The auth app, the middleware and the authentication backend all go through it. It takes the checks
0 to 2 of a decision, from the connection and the headers; `CertificateVerifier` takes the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import structlog

from nexus_auth.adapters.clock import monotonic_seconds
from nexus_auth.adapters.headers.formats import FORMATS
from nexus_auth.adapters.headers.names import POLICY_FIELD, field_name
from nexus_auth.adapters.log_throttle import LogThrottle
from nexus_auth.adapters.starlette.trusted_peers import TrustedPeers, is_rewritten, is_unnamed
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.domain.policy import ADMIT_REGISTERED, PolicySet
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from starlette.types import Scope

    from nexus_auth.adapters.starlette.trusted_peers import Endpoint
    from nexus_auth.domain.policy import AccessPolicy
    from nexus_auth.domain.ports import Headers
    from nexus_auth.domain.verifier import CertificateVerifier

    VerifierSource = Callable[[Scope], CertificateVerifier]
    """Finds the verifier for a connection."""

HEAD_ONLY: Final = "nexus_auth.head_only"
"""The ASGI extension by which a server says that `headers` hold no trailers, and that `client` is
the connection's own peer, ever. The service's own protocol does."""

TRAILERS_DETAIL: Final = "a chunked request, whose trailers may be among the headers"
UNTRUSTED_DETAIL: Final = "the peer is no trusted proxy"
REWRITTEN_DETAIL: Final = "the peer may have been named by a header"

PEER_REWRITTEN: Final = (
    "the server or a middleware seems to take the peer from X-Forwarded-For or the like, which any "
    "client can write; have it leave the peer alone: uvicorn --no-proxy-headers "
    "(proxy_headers=False), hypercorn without ProxyFixMiddleware, granian without "
    "wrap_asgi_with_proxy_headers, daphne without --proxy-headers; in WSGI, put ProxyFix and the "
    "like inside of this middleware, not around it"
)
PEER_UNNAMED: Final = (
    "the server names no peer, so that none can be trusted; on a unix socket, uvicorn alone says "
    "that it is one (in WSGI: gunicorn, waitress and Werkzeug): use one of these, or listen on an "
    "address and trust the proxy's"
)

log = structlog.get_logger(__name__)

_TRANSFER_ENCODING: Final = b"transfer-encoding"
_POLICY_FIELD_BYTES: Final = len(POLICY_FIELD)
_ADMIT_REGISTERED: Final = PolicySet.of(ADMIT_REGISTERED)


def admit_registered() -> PolicySet:
    """The policies of a service that was given none."""
    return _ADMIT_REGISTERED


class Claim(NamedTuple):
    """What counts in a request: what it claims, nothing of it proven.

    Attributes:
        certificate: The value of the one certificate header.
        policies: The policies that the proxy chose, by name: none, one, or too many.
    """

    certificate: bytes
    policies: tuple[str, ...] = ()


class HeaderBelief:
    """Whether a request's headers are believed: check 0, and that none of them is a trailer."""

    def __init__(
        self,
        trusted_peers: TrustedPeers | None,
        *,
        trailers_kept_apart: bool,
        is_rewritten: Callable[[Endpoint, Headers], bool] = is_rewritten,
    ) -> None:
        """Sets what is believed; see `Gate` for the arguments."""
        self.trusted_peers = trusted_peers
        self._trailers_kept_apart = trailers_kept_apart
        self._is_rewritten = is_rewritten
        self._throttle = LogThrottle(monotonic_seconds)

    def trusts(self, client: Endpoint, server: Endpoint) -> bool:
        """Whether the peer of a connection is believed; see `TrustedPeers.include`."""
        return self.trusted_peers is None or self.trusted_peers.include(client, server)

    def find_denial(self, scope: Scope, headers: Headers) -> Denied | None:
        """Why the headers are not believed; None where they are.

        Args:
            scope: The request.
            headers: Its headers, with names in lower case.
        """
        extensions = scope.get("extensions")
        distrust = self._find_distrust(scope, headers, vouched=_vouches(extensions))
        if distrust is not None:
            return Denied(reason=DenialReason.UNTRUSTED_PEER, detail=distrust)
        if not self._trailers_kept_apart and may_hold_trailers(headers, extensions):
            return Denied(reason=DenialReason.NO_CERTIFICATE, detail=TRAILERS_DETAIL)
        return None

    def _find_distrust(self, scope: Scope, headers: Headers, *, vouched: bool) -> str | None:
        """Why the peer is not believed, for the log; None where it is.

        Args:
            scope: The request.
            headers: Its headers, with names in lower case.
            vouched: Whether the server says that the peer is the connection's own.
        """
        if self.trusted_peers is None:
            return None
        client, server = scope.get("client"), scope.get("server")
        detail, problem = UNTRUSTED_DETAIL, None
        if not vouched and is_unnamed(client, server):
            problem = PEER_UNNAMED
        elif not vouched and self._is_rewritten(client, headers):
            detail, problem = REWRITTEN_DETAIL, PEER_REWRITTEN
        elif self.trusts(client, server):
            return None
        if problem is not None and self._throttle.allow(problem):
            log.warning("peer_not_believed", problem=problem)
        return detail


class Gate:
    """Turns requests into decisions. Reads connection and headers only, never a body.

    Exactly one header is believed, from a trusted peer. Trailers are not: fields behind a chunked
    body, which some servers append to the request's headers (uvicorn with httptools does, measured
    with 0.54; uvicorn with h11, Hypercorn, Granian and Daphne do not). Many proxies pass trailers
    on from the client as they are, and afterwards nothing sets them apart from headers. So a
    chunked request is denied, unless the server promises not to mix them in.
    """

    def __init__(
        self,
        *,
        verifier: CertificateVerifier | VerifierSource,
        header: str,
        der_from: Callable[[bytes], bytes],
        trusted_peers: TrustedPeers | None,
        policies: Callable[[], PolicySet] = admit_registered,
        reads_policy_header: bool = False,
        trailers_kept_apart: bool = False,
        is_rewritten: Callable[[Endpoint, Headers], bool] = is_rewritten,
    ) -> None:
        """Wires the gate.

        Args:
            verifier: Takes the checks 3 to 12, or finds the verifier for a connection.
            header: The one header that carries the certificate.
            der_from: Takes the DER out of that header's value, as `headers.formats` do.
            trusted_peers: The peers whose header is believed; None believes every peer, for a
                listener that only the proxy can reach. A peer that may have been named by a header
                is never believed, unless the server offers the extension `HEAD_ONLY`.
            policies: Gives the policies in force; called at every decision.
            reads_policy_header: Whether `X-Nexus-Auth-Policy` chooses among them; else the
                default applies.
            trailers_kept_apart: Whether the server never puts trailers among the headers. One that
                offers the extension `HEAD_ONLY` promises it by itself.
            is_rewritten: Says whether a peer may have been named by a header.
        """
        self.header = field_name(header)
        self._verifier_source = verifier if callable(verifier) else lambda _scope: verifier
        # Only a verifier that is the same for all connections can be used without one.
        self._verifier = None if callable(verifier) else verifier
        self._der_from = der_from
        self._belief = HeaderBelief(
            trusted_peers, trailers_kept_apart=trailers_kept_apart, is_rewritten=is_rewritten
        )
        self._policies = policies
        self._reads_policy_header = reads_policy_header
        self._throttle = LogThrottle(monotonic_seconds)

    @classmethod
    def for_application(
        cls,
        *,
        verifier: CertificateVerifier | VerifierSource,
        trusted_proxies: Iterable[str],
        header: str,
        header_format: str,
        policy: AccessPolicy,
        server_keeps_trailers_apart: bool,
        is_rewritten: Callable[[Endpoint, Headers], bool] = is_rewritten,
    ) -> Self:
        """The gate inside an application; the arguments are those of `NexusAuthMiddleware`.

        Raises:
            ValueError: When one of them cannot mean anything.
        """
        if header_format not in FORMATS:
            raise ValueError(f"header_format is one of {', '.join(FORMATS)}")
        policies = PolicySet.of(policy)
        return cls(
            verifier=verifier,
            header=header,
            der_from=FORMATS[header_format],
            trusted_peers=TrustedPeers.of(trusted_proxies),
            policies=lambda: policies,
            trailers_kept_apart=server_keeps_trailers_apart,
            is_rewritten=is_rewritten,
        )

    @property
    def has_named_peers(self) -> bool:
        """Whether it is said which peers are trusted; else each is."""
        return self._belief.trusted_peers is not None

    def trusts(self, client: Endpoint, server: Endpoint) -> bool:
        """Whether the peer of a connection is believed; see `TrustedPeers.include`."""
        return self._belief.trusts(client, server)

    async def decide(self, scope: Scope) -> Decision:
        """Decides on the caller of one HTTP request or WebSocket handshake (ASGI 3)."""
        # Taken before anything is awaited: a server may go on adding to the list.
        headers = lower_names(scope)
        # 0. The peer is a trusted proxy.
        denied = self._belief.find_denial(scope, headers)
        if denied is not None:
            return denied
        # 1. Exactly one certificate header. (That it is not empty, the verifier checks.)
        claim = self.read(headers)
        if claim is None:
            count = sum(name == self.header for name, _ in headers)
            return Denied(
                reason=DenialReason.NO_CERTIFICATE,
                detail=f"{count} certificate headers, expected one",
            )
        try:
            verifier = self._verifier_source(scope)
        except ConfigurationError as exc:
            if self._throttle.allow(exc.problem):
                log.error("no_verifier", problem=str(exc))  # noqa: TRY400 - a setting, no defect
            return Denied(reason=DenialReason.REGISTRY_UNAVAILABLE, detail="there is no verifier")
        # 2 to 12.
        return await verifier.verify_encoded(
            claim.certificate,
            decode=self._decode,
            policy=self._policies().chosen(claim.policies),
        )

    def read(self, headers: Headers) -> Claim | None:
        """Finds what counts among headers, trailers excluded, of a trusted peer.

        Args:
            headers: Names in any case.

        Returns:
            None when there is not exactly one certificate header.
        """
        wanted, certificate = self.header, None
        size_wanted = len(wanted)
        policies: tuple[str, ...] = ()
        for name, value in headers:
            size = len(name)
            if size == size_wanted and name.lower() == wanted:
                if certificate is not None:
                    return None
                certificate = value
            elif (
                size == _POLICY_FIELD_BYTES
                and name.lower() == POLICY_FIELD
                and self._reads_policy_header
            ):
                policies = (*policies, value.strip(b" \t").decode("latin-1"))
        return None if certificate is None else Claim(certificate, policies)

    def decide_remembered(self, claim: Claim) -> Granted | None:
        """Decides at once on a claim whose certificate was granted before.

        Returns:
            A grant that holds now, or None: then call `decide`. None is no denial.
        """
        if self._verifier is None:
            return None
        return self._verifier.verify_remembered(
            claim.certificate, policy=self._policies().chosen(claim.policies)
        )

    def _decode(self, value: bytes) -> ClientCertificate:
        return ClientCertificate.from_der(self._der_from(value))


def lower_names(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers that a request has now, with names in lower case."""
    return [(name.lower(), value) for name, value in scope["headers"]]


def may_hold_trailers(headers: Iterable[tuple[bytes, bytes]], extensions: object = None) -> bool:
    """Whether some of a request's headers may be trailers, which prove nothing.

    Only a chunked request has any (RFC 9112 §7.1.2); HTTP/2 has frames of their own for them.

    Args:
        headers: Names in lower case.
        extensions: The ASGI extensions that the server offers.
    """
    return not _vouches(extensions) and any(name == _TRANSFER_ENCODING for name, _ in headers)


def _vouches(extensions: object) -> bool:
    return isinstance(extensions, dict) and HEAD_ONLY in extensions
