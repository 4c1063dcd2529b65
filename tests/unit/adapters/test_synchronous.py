from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from nexus_auth import (
    AccessPolicy,
    CertificateVerifier,
    DenialReason,
    Denied,
    Granted,
    Hotkey,
    NotHotkeys,
    Registration,
    SyncVerifier,
    utc_now,
)
from nexus_auth.testing import InMemoryRegistry, Subnet


class Opened:
    """Opens a verifier over a subnet, and counts."""

    def __init__(self) -> None:
        self.subnet = Subnet()
        self.alice = self.subnet.register("alice")
        self.opened = 0
        self.closed = 0

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[CertificateVerifier]:
        self.opened += 1
        try:
            yield self.subnet.verifier
        finally:
            self.closed += 1


def reason_of(decision: Granted | Denied) -> DenialReason | None:
    """The code of a denial, None for a grant."""
    return decision.reason if isinstance(decision, Denied) else None


def test_decides_without_an_event_loop() -> None:
    """Granted, denied, and nothing presented."""
    opened = Opened()
    with SyncVerifier(opened) as verifier:
        assert reason_of(verifier.verify(opened.alice.pem)) is None
        assert reason_of(verifier.verify(opened.alice.pem.decode())) is None
        stranger = opened.subnet.stranger("mallory")
        assert reason_of(verifier.verify(stranger.pem)) is DenialReason.NOT_REGISTERED
        assert reason_of(verifier.verify(None)) is DenialReason.NO_CERTIFICATE
    assert (opened.opened, opened.closed) == (1, 1)


def test_policy_is_passed_on() -> None:
    """Who among the registered may enter is decided each time."""
    opened = Opened()
    nobody = AccessPolicy(name="nobody", rules=(NotHotkeys(frozenset({opened.alice.hotkey})),))
    with SyncVerifier(opened) as verifier:
        decision = verifier.verify(opened.alice.pem, policy=nobody)
    assert reason_of(decision) is DenialReason.NOT_PERMITTED


def test_decision_can_be_taken_in_another_way() -> None:
    """With the same verifier, in its thread; once it is closed, there is none."""
    opened = Opened()
    threads: set[str] = set()

    async def decide(verifier: CertificateVerifier) -> Granted | Denied:
        threads.add(threading.current_thread().name)
        return await verifier.verify(opened.alice.der)

    with SyncVerifier(opened) as verifier:
        assert isinstance(verifier.decide(decide), Granted)
    assert threads == {"nexus-auth-verifier"}
    with pytest.raises(RuntimeError, match="closed"):
        verifier.decide(decide)


def test_a_plain_verifier_will_do() -> None:
    """Where the registry needs no opening."""
    subnet = Subnet()
    with SyncVerifier(subnet.verifier) as verifier:
        assert isinstance(verifier.verify(subnet.register("alice").der), Granted)


def test_many_threads_share_one_verifier() -> None:
    """It is opened once, and each thread gets its own answer."""
    opened = Opened()
    mallory = opened.subnet.stranger("mallory")
    with SyncVerifier(opened) as verifier, ThreadPoolExecutor(8) as threads:
        presented = [opened.alice.pem, mallory.pem] * 40
        reasons = [reason_of(decision) for decision in threads.map(verifier.verify, presented)]
    assert reasons == [None, DenialReason.NOT_REGISTERED] * 40
    assert opened.opened == 1


async def test_works_beside_a_running_event_loop() -> None:
    """A synchronous framework inside an asynchronous server calls it from a thread."""
    opened = Opened()
    with SyncVerifier(opened) as verifier:
        decision = await asyncio.to_thread(verifier.verify, opened.alice.pem)
    assert isinstance(decision, Granted)


def test_closing_ends_the_thread_and_is_final() -> None:
    """Nothing is left behind; a closed verifier decides nothing."""
    opened = Opened()
    before = threading.active_count()
    verifier = SyncVerifier(opened)
    verifier.verify(opened.alice.pem)
    background = verifier._background
    assert background is not None
    verifier.close()
    verifier.close()
    assert threading.active_count() == before
    assert opened.closed == 1
    with pytest.raises(RuntimeError, match="closed"):
        verifier.verify(opened.alice.pem)
    # A thread that had looked just before the closing.
    verifier._background = background
    with pytest.raises(RuntimeError, match="closed"):
        verifier.verify(opened.alice.pem)


def test_thread_ends_with_the_last_reference() -> None:
    """An application that is dropped with its middleware leaves no thread behind."""
    opened, before = Opened(), set(threading.enumerate())
    verifier = SyncVerifier(opened)
    verifier.verify(opened.alice.pem)
    [thread] = set(threading.enumerate()) - before
    del verifier
    gc.collect()
    thread.join(30)
    assert opened.closed == 1


def test_nothing_is_opened_before_the_first_decision() -> None:
    """A server may create it before it forks; closing it unused is fine."""
    opened = Opened()
    SyncVerifier(opened).close()
    assert opened.opened == 0


def test_failure_to_open_reaches_the_caller() -> None:
    """And the next decision tries again."""
    opened = Opened()
    attempts = []

    @asynccontextmanager
    async def flaky() -> AsyncIterator[CertificateVerifier]:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("not today")
        async with opened() as verifier:
            yield verifier

    verifier = SyncVerifier(flaky)
    with pytest.raises(ValueError, match="not today"):
        verifier.verify(opened.alice.pem)
    assert isinstance(verifier.verify(opened.alice.pem), Granted)
    verifier.close()


class Hanging(InMemoryRegistry):
    """Never answers."""

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


def test_decision_that_takes_too_long_is_a_denial() -> None:
    """Not knowing is not granting, and a worker thread is not lost."""
    alice = Subnet().stranger("alice")
    around = CertificateVerifier(registry=Hanging(), clock=utc_now)
    with SyncVerifier(around, timeout_seconds=0.05) as verifier:
        assert reason_of(verifier.verify(alice.pem)) is DenialReason.REGISTRY_UNAVAILABLE


def test_closing_releases_those_who_wait() -> None:
    """A decision under way when the verifier is closed is a denial."""
    alice = Subnet().stranger("alice")
    asked = threading.Event()

    class Asked(Hanging):
        async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
            asked.set()
            return await super().lookup(hotkey, presented=presented)

    verifier = SyncVerifier(CertificateVerifier(registry=Asked(), clock=utc_now))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(verifier.verify, alice.pem)
        assert asked.wait(5)
        verifier.close()
        assert reason_of(waiting.result(5)) is DenialReason.REGISTRY_UNAVAILABLE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_process_opens_its_own() -> None:
    """Servers that fork after the first decision (a test request) keep working."""
    opened = Opened()
    verifier = SyncVerifier(opened)
    verifier.verify(opened.alice.pem)
    child = os.fork()
    if child == 0:  # pragma: no cover - runs in the child
        try:
            granted = isinstance(verifier.verify(opened.alice.pem), Granted)
            verifier.close()
            os._exit(0 if granted and opened.opened == 2 else 1)
        except BaseException:  # noqa: BLE001 - nothing may return into the parent's test run
            sys.excepthook(*sys.exc_info())
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert isinstance(verifier.verify(opened.alice.pem), Granted)
    verifier.close()
