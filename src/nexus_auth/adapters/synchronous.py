"""The verifier for code without an event loop: WSGI applications and scripts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Self

from nexus_auth.domain.decision import Decision, Denied
from nexus_auth.domain.policy import ADMIT_REGISTERED
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.verifier import CertificateVerifier

if TYPE_CHECKING:
    from nexus_auth.domain.policy import AccessPolicy

DEFAULT_TIMEOUT_SECONDS: Final = 10.0
"""Registries answer within two seconds. Longer means that something hangs, such as a server that
lets no thread run."""

OpenVerifier = Callable[[], AbstractAsyncContextManager[CertificateVerifier]]


class _Background(threading.Thread):
    """A thread with an event loop, and the verifier that runs in it.

    A daemon, so that a program that forgets to close can end.
    """

    def __init__(self, open_verifier: OpenVerifier) -> None:
        """Returns when the verifier is open, or raises what opening it raises."""
        super().__init__(name="nexus-auth-verifier", daemon=True)
        self._open_verifier = open_verifier
        self._opened: concurrent.futures.Future[CertificateVerifier] = concurrent.futures.Future()
        self.start()
        self.verifier = self._opened.result()

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            # The thread that waits for the verifier gets the error; once it is open, none waits.
            if self._opened.done():
                raise
            self._opened.set_exception(exc)

    async def _serve(self) -> None:
        self.loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        async with self._open_verifier() as verifier:
            self._opened.set_result(verifier)
            await self._closing.wait()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._closing.set)
        self.join()


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
        if isinstance(verifier, CertificateVerifier):
            ready = verifier
            self._open: OpenVerifier = lambda: nullcontext(ready)
        else:
            self._open = verifier
        self._timeout_seconds = timeout_seconds
        self._closed = False
        self._forget()
        _instances.add(self)

    def _forget(self) -> None:
        # In a forked process the thread does not exist, and the lock may be held for ever.
        self._lock = threading.Lock()
        self._background: _Background | None = None

    def __enter__(self) -> Self:
        self._ensure_open()
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
        background = self._ensure_open()
        decision = how(background.verifier)
        try:
            future = asyncio.run_coroutine_threadsafe(decision, background.loop)
        except RuntimeError:
            decision.close()
            raise RuntimeError("the verifier is closed") from None
        try:
            return future.result(self._timeout_seconds)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            future.cancel()
            return Denied(
                reason=DenialReason.REGISTRY_UNAVAILABLE, detail="no decision was reached in time"
            )

    def close(self) -> None:
        """Closes the verifier and ends its thread. May be called more than once."""
        with self._lock:
            self._closed = True
            background, self._background = self._background, None
        if background is not None:
            background.close()

    def _ensure_open(self) -> _Background:
        background = self._background
        if background is not None:
            return background
        with self._lock:
            if self._closed:
                raise RuntimeError("the verifier is closed")
            if self._background is None:
                self._background = _Background(self._open)
            return self._background


_instances: Final[weakref.WeakSet[SyncVerifier]] = weakref.WeakSet()


def _forget_in_child() -> None:
    for instance in list(_instances):
        instance._forget()  # noqa: SLF001 - our own class


os.register_at_fork(after_in_child=_forget_in_child)
