"""What one worker counts."""

from __future__ import annotations

import asyncio

import pytest

from nexus_auth.adapters.observability.counters import (
    FETCH_OUTCOMES,
    STATUSES,
    Counters,
    ObservedSource,
)
from nexus_auth.adapters.observability.report import CALLERS_KEPT, DENIALS_KEPT, MINUTES_KEPT
from nexus_auth.adapters.pylon import api as errors
from nexus_auth.domain.errors import CAUSES, BulkNotOffered, RegistryError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.ports import KeyMap
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.snapshot import Block
from tests.builders import NOW, a_hotkey
from tests.fakes import FakeClock
from tests.unit.adapters.observability.watched import deny, grant

MINUTE = int(NOW.timestamp() // 60)


def test_decisions_are_counted_by_code() -> None:
    """Every code is there from the start, so that the first denial shows as an increase."""
    counters = Counters(clock=FakeClock())
    grant(counters, times=3)
    deny(counters)
    deny(counters, DenialReason.EXPIRED)
    counters.tick()
    assert set(counters.codes) == {"granted", *(reason.value for reason in DenialReason)}
    assert {code: count for code, count in counters.codes.items() if count} == {
        "granted": 3,
        "not-registered": 1,
        "expired": 1,
    }
    assert counters.seconds["granted"].observations == 3
    assert counters.seconds["denied"].observations == 2


def test_minutes_hold_the_last_hour() -> None:
    """Each decision counts in the minute of its tick; older ones are forgotten."""
    clock = FakeClock()
    counters = Counters(clock=clock)
    grant(counters, times=2)
    deny(counters)
    counters.tick()
    counters.tick()
    assert dict(counters.minutes) == {MINUTE: (2, 1)}
    for _ in range(MINUTES_KEPT):
        clock.advance(minutes=1)
        grant(counters)
        counters.tick()
    assert len(counters.minutes) == MINUTES_KEPT
    assert MINUTE not in counters.minutes


def test_callers_have_their_last_visit() -> None:
    """The latest visitor is the last one, with all visits so far."""
    clock = FakeClock()
    counters = Counters(clock=clock)
    for name in ("alice", "bob", "alice"):
        grant(counters, name)
        counters.tick()
        clock.advance(seconds=10)
    seen = [(each.hotkey, each.times) for each in counters.callers.values()]
    assert seen == [(a_hotkey("bob").address, 1), (a_hotkey("alice").address, 2)]
    assert counters.callers[a_hotkey().address].at == NOW.timestamp() + 20


def test_memory_is_bounded_whoever_comes() -> None:
    """Neither callers nor strangers nor Pylon can make it grow."""
    counters = Counters(clock=FakeClock())
    for number in range(CALLERS_KEPT + 20):
        grant(counters, f"caller {number}")
        deny(counters, uri=b"/" * 100_000, method=b"X" * 1000, detail="x" * 1000)
        counters.count_pylon_request(number, 0.1)
    counters.tick()
    assert len(counters.callers) == CALLERS_KEPT
    assert len(counters.denials) == DENIALS_KEPT
    assert len(counters.denials[0].uri) <= 200
    assert len(counters.denials[0].method) < 60
    assert len(counters.denials[0].detail) <= 200
    assert set(counters.pylon) <= set(STATUSES)


def test_denial_shows_the_clients_own_request() -> None:
    """What the proxy says that the client wanted, not the proxy's request to us."""
    counters = Counters(clock=FakeClock())
    deny(counters, uri=b"/v1/forward", method=b"POST", detail="no such key")
    (seen,) = counters.denials
    assert (seen.method, seen.uri, seen.detail) == ("POST", "/v1/forward", "no such key")
    assert (seen.at, seen.hotkey) == (NOW.timestamp(), a_hotkey("mallory").address)


def test_requests_to_pylon_are_counted_by_status() -> None:
    """Statuses that Pylon has no business answering with share one label."""
    counters = Counters(clock=FakeClock())
    for status in (200, 200, 503, 299, 777, None):
        counters.count_pylon_request(status, 0.1)
    counts = {status: each.observations for status, each in counters.pylon.items()}
    assert counts == {"200": 2, "503": 1, "other": 2, "none": 1}


class Source:
    """Ends every fetch in the same way."""

    name = "a source"

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error

    async def fetch_keys(self) -> KeyMap:
        self._end()
        return KeyMap(keys={}, rejected=0)

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        self._end()
        return b"key"

    async def fetch_neurons(self, *, at: Block | None = None) -> tuple[dict[Hotkey, Neuron], int]:
        self._end()
        return {}, 0

    def _end(self) -> None:
        if self._error is not None:
            raise self._error


def observed(source: Source, causes: list[str]) -> ObservedSource:
    """A source whose fetches are noted."""
    return ObservedSource(source=source, neuron_source=source, notify=causes.append)


async def test_answers_are_counted_and_handed_on() -> None:
    """Nothing but the count is added."""
    causes: list[str] = []
    source = observed(Source(), causes)
    assert (await source.fetch_keys()).keys == {}
    assert await source.fetch_key(a_hotkey()) == b"key"
    assert await source.fetch_neurons() == ({}, 0)
    assert causes == ["none", "none", "none"]
    assert source.name == "a source"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (errors.PylonUnreachable("x"), "unreachable"),
        (errors.PylonRefused("x", status=401), "refused"),
        (errors.PylonFailed("x", status=500), "failed"),
        (errors.PylonAnswerInvalid("x"), "invalid"),
        (BulkNotOffered("x"), "not-offered"),
        (RuntimeError("x"), "other"),
        (asyncio.CancelledError(), "other"),
    ],
)
async def test_failures_are_counted_by_cause(error: BaseException, cause: str) -> None:
    """The error itself reaches the registry unchanged."""
    causes: list[str] = []
    source = observed(Source(error), causes)
    with pytest.raises(type(error)):
        await source.fetch_keys()
    assert causes == [cause]
    assert cause in FETCH_OUTCOMES


def test_every_error_of_the_client_has_a_cause() -> None:
    """A new one must not vanish among the others."""
    own = {
        each
        for each in vars(errors).values()
        if isinstance(each, type)
        and issubclass(each, Exception)
        and each.__module__ == errors.__name__
    }
    assert all(issubclass(each, RegistryError) for each in own)
    causes = {getattr(each, "cause", None) for each in own | {BulkNotOffered}}
    assert causes == set(CAUSES) - {"other"}
