"""The auth listener's application: every request gets a decision, and nothing else.

Pure ASGI, without a router or a request object: the path and the method play no part, and this is
where all the traffic goes. No response but a grant has a status below 400.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from nexus_auth.adapters.starlette.answers import DENIALS, POLICY_VIOLATION, Answer, build_answer
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.reasons import DenialReason

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from starlette.types import Receive, Scope, Send

    from nexus_auth.adapters.headers.names import GrantHeader
    from nexus_auth.adapters.starlette.gate import Claim, Gate
    from nexus_auth.adapters.starlette.trusted_peers import Endpoint
    from nexus_auth.domain.decision import Decision
    from nexus_auth.domain.ports import Clock, DecisionObserver, Headers

log = structlog.get_logger(__name__)

_ANSWERS_KEPT: Final = 8192
"""Grants that are kept as responses: twice the certificates that a verifier remembers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FastPath:
    """The auth app for a server that can do without a task for what is decided at once.

    Attributes:
        trusts: Whether a peer is believed, given both ends of its connection. The others are only
            for those who are, and for headers without trailers.
        read: Finds what counts among headers; None when there is no claim to be decided on.
        answer: A grant, for a claim whose certificate was granted before, or None: then call the
            application. Takes the claim, and the headers, method and target it came with.
        deny_unread: A denial, for a request that is not even parsed. Takes its reason, the detail
            for the log, and the method and target, which are empty where they are not known.
        has_named_peers: Whether it is said which peers are trusted; else each is.
    """

    trusts: Callable[[Endpoint, Endpoint], bool]
    read: Callable[[Headers], Claim | None]
    answer: Callable[[Claim, Headers, bytes, bytes], Answer | None]
    deny_unread: Callable[[DenialReason, str, bytes, bytes], Answer]
    has_named_peers: bool


class _Written(NamedTuple):
    """A grant as a response, and until when it says the same."""

    granted: Granted
    until: datetime
    answer: Answer


@asynccontextmanager
async def nothing_to_open() -> AsyncIterator[None]:
    """The lifespan of an application whose collaborators are opened and closed elsewhere."""
    yield


class AuthApp:
    """ASGI application that answers every HTTP request with a decision on its certificate."""

    def __init__(
        self,
        *,
        gate: Gate,
        clock: Clock,
        reuse: timedelta,
        observers: Iterable[DecisionObserver] = (),
        grant_headers: frozenset[GrantHeader] = frozenset(),
        lifespan: Callable[[], AbstractAsyncContextManager[None]] = nothing_to_open,
    ) -> None:
        """Wires the application.

        Args:
            gate: Takes the decision.
            clock: Gives the time (aware, UTC).
            reuse: For how long a proxy may reuse a grant; zero forbids it.
            observers: Called with every decision.
            grant_headers: What a grant says of the caller's place on the subnet.
            lifespan: Opens and closes what the decisions need, such as the registry.
        """
        self._gate = gate
        self._clock = clock
        self._reuse = reuse
        self._observers = tuple(observers)
        self._grant_headers = grant_headers
        self._lifespan = lifespan
        # By the certificate's fingerprint: a remembered caller's request takes 4.1 µs of ours with
        # this cache, and 8.3 without (docs/benchmarks.md).
        self._written: dict[str, _Written] = {}

    @property
    def fast_path(self) -> FastPath:
        """For servers that spare themselves a task for what is decided at once."""
        return FastPath(
            trusts=self._gate.trusts,
            read=self._gate.read,
            answer=self.answer_remembered,
            deny_unread=self.deny_unread,
            has_named_peers=self._gate.has_named_peers,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection (ASGI 3)."""
        if scope["type"] == "http":
            await (await self._answer(scope)).send(scope, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    def answer_remembered(
        self, claim: Claim, headers: Headers, method: bytes, target: bytes
    ) -> Answer | None:
        """See `FastPath.answer`."""
        # These are the busiest lines of the service: they make nothing that need not be made.
        started = time.perf_counter()
        granted = self._gate.decide_remembered(claim)
        if granted is None:
            return None
        now = self._clock()
        written = self._written.get(granted.fingerprint)
        if written is not None and written.granted is granted and now <= written.until:
            answer = written.answer
        else:
            answer = self._write(granted, now)
        seconds = time.perf_counter() - started
        for observer in self._observers:
            observer.decided(
                granted, seconds=seconds, method=method, target=target, headers=headers
            )
        return answer

    def _write(self, granted: Granted, now: datetime) -> Answer:
        """Writes a grant as a response, and keeps it for as long as it says the same."""
        answer = build_answer(granted, now, self._reuse, grant_headers=self._grant_headers)
        if granted.expires_at - now > self._reuse:
            # Until shortly before the end, what may be reused is the same.
            self._written.pop(granted.fingerprint, None)
            until = granted.expires_at - self._reuse
            self._written[granted.fingerprint] = _Written(granted, until, answer)
            if len(self._written) > _ANSWERS_KEPT:
                del self._written[next(iter(self._written))]
        return answer

    def deny_unread(
        self, reason: DenialReason, detail: str, method: bytes, target: bytes
    ) -> Answer:
        """See `FastPath.deny_unread`."""
        decision = Denied(reason=reason, detail=detail)
        for observer in self._observers:
            observer.decided(decision, seconds=0.0, method=method, target=target, headers=())
        return DENIALS[decision.reason]

    async def _answer(self, scope: Scope) -> Answer:
        started = time.perf_counter()
        decision: Decision
        try:
            decision = await self._gate.decide(scope)
            answer = build_answer(
                decision, self._clock(), self._reuse, grant_headers=self._grant_headers
            )
        except Exception:
            log.exception("decision_failed")
            decision = Denied(
                reason=DenialReason.REGISTRY_UNAVAILABLE, detail="the decision failed"
            )
            answer = DENIALS[decision.reason]
        try:
            self._notify_observers(decision, scope, time.perf_counter() - started)
        except Exception:
            log.exception("observer_failed")
        return answer

    def _notify_observers(self, decision: Decision, scope: Scope, seconds: float) -> None:
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
