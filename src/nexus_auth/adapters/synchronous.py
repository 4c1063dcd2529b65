"""The verifier for code without an event loop: WSGI applications and scripts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Self

from nexus_auth.adapters.background import DEFAULT_TIMEOUT_SECONDS, Background
from nexus_auth.domain.decision import Decision, Denied
from nexus_auth.domain.policy import ADMIT_REGISTERED
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.verifier import CertificateVerifier

if TYPE_CHECKING:
    from nexus_auth.domain.policy import AccessPolicy

OpenVerifier = Callable[[], AbstractAsyncContextManager[CertificateVerifier]]


class SyncVerifier:
    """Takes the decisions of a `CertificateVerifier` for code that cannot await.

        with SyncVerifier(lambda: connect("http://pylon:8000", netuid=12)) as verifier:
            decision = verifier.verify(environ.get("SSL_CLIENT_CERT"))

    The verifier runs in a thread of its own. It is opened at the first decision, once in each
    process: a server that forks may create this object before. Safe to use from several threads.
    In asynchronous code, use `CertificateVerifier`: this one blocks the event loop.
    """

    def __init__(
        self,
        verifier: OpenVerifier | CertificateVerifier,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        """Starts nothing yet.

        Args:
            verifier: A function that builds an asynchronous context manager giving the verifier,
                such as `lambda: connect(...)`; or a verifier whose registry needs no opening.
            timeout_seconds: How long one decision may take before it is a denial.
        """
        self._background = Background(
            "verifier",
            (lambda: nullcontext(verifier))
            if isinstance(verifier, CertificateVerifier)
            else verifier,
            timeout_seconds=timeout_seconds,
        )

    def __enter__(self) -> Self:
        self._background.ensure_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def verify(
        self,
        certificate: bytes | bytearray | memoryview | str | None,
        *,
        policy: AccessPolicy = ADMIT_REGISTERED,
    ) -> Decision:
        """Decides on one certificate, as `CertificateVerifier.verify` does.

        A decision that takes too long is a denial, `registry-unavailable`.

        Raises:
            RuntimeError: When this object was closed.
            Exception: What opening the verifier raises, at the first call.
        """
        return self.decide(lambda verifier: verifier.verify(certificate, policy=policy))

    def decide(
        self, how: Callable[[CertificateVerifier], Coroutine[object, object, Decision]]
    ) -> Decision:
        """Takes a decision in another way than `verify` does, such as by a gate.

        Args:
            how: Takes it with the verifier, in the verifier's own thread.

        Raises:
            RuntimeError: When this object was closed.
            Exception: What opening the verifier raises, at the first call.
        """
        try:
            return self._background.run(how)
        except TimeoutError:
            return Denied(
                reason=DenialReason.REGISTRY_UNAVAILABLE, detail="no decision was reached in time"
            )

    def close(self) -> None:
        """Closes the verifier and ends its thread. May be called more than once."""
        self._background.close()
