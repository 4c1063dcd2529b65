"""How fetches end."""

from __future__ import annotations

import asyncio

import pytest

from nexus_auth.adapters.observability.source import FETCH_OUTCOMES, ObservedSource
from nexus_auth.adapters.pylon import api as errors
from nexus_auth.domain.errors import CAUSES, BulkNotOffered, RegistryError
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron
from nexus_auth.domain.ports import KeyMap
from tests.builders import a_hotkey


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

    async def fetch_neurons(self) -> tuple[dict[Hotkey, Neuron], int]:
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
