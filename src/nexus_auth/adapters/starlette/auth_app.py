"""The auth listener's application: every request gets a decision, and nothing else.

Pure ASGI, without a router or a request object: the path and the method play no part, and this is
where all the traffic goes. No response but a grant has a status below 400, and nothing that a
caller wrote is ever sent back.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from nexus_auth.adapters.headers.names import POLICY_FIELD, GrantHeader
from nexus_auth.adapters.starlette.trailers import TRAILERS_DETAIL, may_hold_trailers
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.decision import Decision, Denied, Granted
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import StakeKind
from nexus_auth.domain.policy import ADMIT_REGISTERED, PolicySet
from nexus_auth.domain.reasons import GRANTED_BODY, DenialReason

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from starlette.types import Receive, Scope, Send

    from nexus_auth.adapters.starlette.trusted_peers import TrustedProxies
    from nexus_auth.domain.neuron import Neuron
    from nexus_auth.domain.policy import AccessPolicy
    from nexus_auth.domain.ports import Clock, DecisionObserver
    from nexus_auth.domain.verifier import CertificateVerifier

log = structlog.get_logger(__name__)

Headers = Sequence[tuple[bytes, bytes]]


class KnownHeaders(list[tuple[bytes, bytes]]):
    """The headers of a request that has come before, byte for byte.

    Attributes:
        reading: What the application read in them, so that it need not look again.
    """

    __slots__ = ("reading",)

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        super().__init__(headers)
        self.reading: Reading | None = None


Reading = tuple[bytes, tuple[str, ...]]
"""What counts in a head: the certificate's header, and the policies that the proxy chose."""

_POLICY_FIELD_BYTES: Final = len(POLICY_FIELD)

_ANSWERS_KEPT: Final = 8192
"""Written-out grants that are kept: twice the certificates that a verifier remembers."""

_CONTENT_TYPE: Final = (b"content-type", b"text/plain; charset=utf-8")
_NO_STORE: Final = (b"cache-control", b"no-store")
_POLICY_VIOLATION: Final = 1008  # RFC 6455 §7.4.1


@dataclass(frozen=True, slots=True)
class Answer:
    """What a decision looks like as a response.

    Attributes:
        status: 200 or 403.
        headers: Names in lower case.
        body: One of our own fixed texts.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def _facts(
    neuron: Neuron | None, wanted: frozenset[GrantHeader]
) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that are wanted, where they are known: nothing is better than a wrong zero."""
    if neuron is None:
        return ()
    told = {
        GrantHeader.UID: str(neuron.uid),
        GrantHeader.VALIDATOR: "true" if neuron.validator_permit else "false",
        # To a rao, and without an exponent.
        GrantHeader.STAKE: f"{neuron.stake(StakeKind.TOTAL):.9f}".rstrip("0").rstrip("."),
    }
    return tuple(
        (header.header.lower().encode("ascii"), told[header].encode("ascii"))
        for header in GrantHeader
        if header in wanted
    )


# Keyed by the bytes of the account, whose hash Python remembers.
@functools.lru_cache(maxsize=_ANSWERS_KEPT)
def _grant(
    account_id: bytes,
    reusable_seconds: int,
    neuron: Neuron | None = None,
    wanted: frozenset[GrantHeader] = frozenset(),
) -> Answer:
    body = GRANTED_BODY.encode("ascii")
    # Nothing but X-Accel-Expires, which only the proxy that keys on the certificate understands.
    # Never X-Accel-Expires: 0, so that its presence alone means "keep this".
    reuse = (
        (b"x-accel-expires", str(reusable_seconds).encode("ascii"))
        if reusable_seconds > 0
        else _NO_STORE
    )
    return Answer(
        200,
        (
            (b"x-hotkey", Hotkey(account_id).address.encode("ascii")),
            *_facts(neuron, wanted),
            reuse,
            (b"content-length", str(len(body)).encode("ascii")),
            _CONTENT_TYPE,
        ),
        body,
    )


def _denial(reason: DenialReason) -> Answer:
    body = reason.body.encode("ascii")
    return Answer(
        403,
        (
            (b"x-nexus-auth-reason", reason.value.encode("ascii")),
            _NO_STORE,
            (b"content-length", str(len(body)).encode("ascii")),
            _CONTENT_TYPE,
        ),
        body,
    )


def _policy_name(value: bytes) -> str:
    return value.strip(b" \t").decode("latin-1")


_DENIALS: Final = {reason: _denial(reason) for reason in DenialReason}


def build_answer(
    decision: Decision,
    now: datetime,
    reuse: timedelta,
    *,
    tell: frozenset[GrantHeader] = frozenset(),
) -> Answer:
    """Writes a decision as a response.

    Args:
        decision: What was decided.
        now: The time (aware, UTC).
        reuse: For how long a proxy may reuse a grant at most; whole seconds count.
        tell: What a grant tells of the caller's place in the subnet.
    """
    match decision:
        case Granted():
            # Rounded down: a proxy must never keep a grant for longer than it is worth.
            left = min(decision.expires_at - now, reuse)
            seconds = max(0, int(left.total_seconds()))
            if not tell:
                return _grant(decision.hotkey.account_id, seconds)
            return _grant(decision.hotkey.account_id, seconds, decision.neuron, tell)
        case Denied():
            return _DENIALS[decision.reason]


_ADMIT_REGISTERED: Final = PolicySet.of(ADMIT_REGISTERED)


def admit_registered() -> PolicySet:
    """The policies of a service that was given none."""
    return _ADMIT_REGISTERED


@asynccontextmanager
async def nothing_to_open() -> AsyncIterator[None]:
    """The lifespan of an application whose collaborators somebody else opens and closes."""
    yield


class AuthApp:
    """ASGI application that answers every HTTP request with a decision on its certificate.

    Reads the head of a request only, never its body. Exactly one header is believed; trailers of
    a chunked request are not, and because most servers cannot tell them apart, a chunked request
    is refused unless the server promises not to mix them in (extension
    `trailers.HEAD_ONLY`).
    """

    def __init__(
        self,
        *,
        verifier: CertificateVerifier,
        clock: Clock,
        header: str,
        der_from: Callable[[bytes], bytes],
        reuse: timedelta,
        observers: Iterable[DecisionObserver] = (),
        trusted_proxies: TrustedProxies | None = None,
        policies: Callable[[], PolicySet] = admit_registered,
        tell: frozenset[GrantHeader] = frozenset(),
        lifespan: Callable[[], AbstractAsyncContextManager[None]] = nothing_to_open,
    ) -> None:
        """Wires the application.

        Args:
            verifier: Takes the decision.
            clock: Tells the time (aware, UTC).
            header: The one header that carries the certificate.
            der_from: Takes the DER out of that header's value, as `header_formats` do.
            reuse: For how long a proxy may reuse a grant; zero forbids it.
            observers: Told of every decision.
            trusted_proxies: The peers that may ask; None lets ask whoever reaches the listener.
            policies: Tells who among the registered may enter now; asked at every decision.
                `X-Nexus-Auth-Policy` chooses among several.
            tell: What a grant tells of the caller's place in the subnet.
            lifespan: Opens and closes what the decisions need, such as the registry.
        """
        self.header = header.lower().encode("ascii")
        self._verifier = verifier
        self._clock = clock
        self._der_from = der_from
        self._reuse = reuse
        self._observers = tuple(observers)
        self._trusted_proxies = trusted_proxies
        self._policies = policies
        self._tell = tell
        self._lifespan = lifespan
        # By the certificate's fingerprint: the grant, until when its text holds, and the text.
        self._written: dict[str, tuple[Granted, datetime, Answer]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection (ASGI 3)."""
        if scope["type"] == "http":
            await self._respond(await self._answer(scope), scope, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            # Closing before accepting makes the server answer a WebSocket's handshake with 403.
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})

    def trusts(self, client: tuple[str, int] | None) -> bool:
        """Whether a peer, as ASGI names it, may ask. A unix socket has no client and may."""
        if self._trusted_proxies is None or client is None:
            return True
        return self._trusted_proxies.trusts(client[0])

    def answer_remembered(self, headers: Headers, method: bytes, target: bytes) -> Answer | None:
        """Answers at once where a certificate was granted before and still is.

        For servers that want to spare themselves a task. The peer is one that `trusts` trusts.

        Args:
            headers: The request's headers in any case, and no trailers among them.
            method: The request's method.
            target: The request's target.

        Returns:
            A grant, or None: then call the application. None is no denial.
        """
        # These are the busiest lines of the service: they make nothing that need not be made.
        started = time.perf_counter()
        reading = headers.reading if type(headers) is KnownHeaders else None
        if reading is None:
            reading = self._read(headers)
            if reading is None:
                return None
            if type(headers) is KnownHeaders:
                headers.reading = reading
        certificate, chosen = reading
        decision = self._verifier.verify_remembered(
            certificate, policy=self._policies().chosen(chosen)
        )
        if decision is None:
            return None
        now = self._clock()
        written = self._written.get(decision.fingerprint)
        if written is not None and written[0] is decision and now <= written[1]:
            answer = written[2]
        else:
            answer = self._write(decision, now)
        seconds = time.perf_counter() - started
        for observer in self._observers:
            observer.decided(
                decision, seconds=seconds, method=method, target=target, headers=headers
            )
        return answer

    def _read(self, headers: Headers) -> Reading | None:
        """Finds what counts in a head; None where there is not exactly one certificate."""
        wanted, certificate = self.header, None
        chosen: tuple[str, ...] = ()
        for name, value in headers:
            size = len(name)
            if size == len(wanted) and name.lower() == wanted:
                if certificate is not None:
                    return None
                certificate = value
            elif size == _POLICY_FIELD_BYTES and name.lower() == POLICY_FIELD:
                chosen = (*chosen, _policy_name(value))
        return None if certificate is None else (certificate, chosen)

    def _write(self, granted: Granted, now: datetime) -> Answer:
        """Writes a grant as a response, and keeps that for as long as it says the same."""
        answer = build_answer(granted, now, self._reuse, tell=self._tell)
        if granted.expires_at - now > self._reuse:
            # Until shortly before the end, what may be reused is the same.
            self._written.pop(granted.fingerprint, None)
            self._written[granted.fingerprint] = granted, granted.expires_at - self._reuse, answer
            if len(self._written) > _ANSWERS_KEPT:
                del self._written[next(iter(self._written))]
        return answer

    def refuse_unread(self, detail: str) -> Answer:
        """Answers a request that the server does not want to read to its end.

        Args:
            detail: Why, for the log.
        """
        decision = Denied(reason=DenialReason.MALFORMED_CERTIFICATE, detail=detail)
        for observer in self._observers:
            observer.decided(decision, seconds=0.0, method=b"", target=b"", headers=())
        return _DENIALS[decision.reason]

    async def _answer(self, scope: Scope) -> Answer:
        started = time.perf_counter()
        try:
            decision = await self._decide(scope)
            answer = build_answer(decision, self._clock(), self._reuse, tell=self._tell)
        except Exception:
            log.exception("decision_failed")
            decision = Denied(
                reason=DenialReason.REGISTRY_UNAVAILABLE, detail="the decision failed"
            )
            answer = _DENIALS[decision.reason]
        try:
            self._tell_observers(decision, scope, time.perf_counter() - started)
        except Exception:
            log.exception("observer_failed")
        return answer

    async def _decide(self, scope: Scope) -> Decision:
        if not self.trusts(scope.get("client")):
            return Denied(reason=DenialReason.UNTRUSTED_PEER, detail="the peer is no trusted proxy")
        # Taken before anything is awaited: a server may go on adding to the list.
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        if may_hold_trailers(scope):
            return Denied(reason=DenialReason.NO_CERTIFICATE, detail=TRAILERS_DETAIL)
        values = [value for name, value in headers if name == self.header]
        if len(values) != 1:
            return Denied(
                reason=DenialReason.NO_CERTIFICATE,
                detail=f"{len(values)} certificate headers, expected one",
            )
        return await self._verifier.verify_encoded(
            values[0], decode=self._decode, policy=self._policy(headers)
        )

    def _policy(self, headers: Headers) -> AccessPolicy:
        """The policy that the proxy chose; the default where it chose none."""
        return self._policies().chosen(
            [_policy_name(value) for name, value in headers if name.lower() == POLICY_FIELD]
        )

    def _decode(self, value: bytes) -> ClientCertificate:
        return ClientCertificate.from_der(self._der_from(value))

    def _tell_observers(self, decision: Decision, scope: Scope, seconds: float) -> None:
        target = scope.get("raw_path") or scope["path"].encode()
        query = scope.get("query_string")
        if query:
            target = target + b"?" + query
        for observer in self._observers:
            observer.decided(
                decision,
                seconds=seconds,
                method=scope["method"].encode("latin-1", "replace"),
                target=target,
                headers=scope["headers"],
            )

    async def _respond(self, answer: Answer, scope: Scope, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": list(answer.headers),
            }
        )
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Receive, send: Send) -> None:
        """Opens what the decisions need, and closes it when the server says so."""
        await receive()
        try:
            async with self._lifespan():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception:
            log.exception("lifespan_failed")
            # The server ends; whether that was at the start or at the end, it knows.
            await send({"type": "lifespan.startup.failed", "message": "see the log"})
            return
        await send({"type": "lifespan.shutdown.complete"})
