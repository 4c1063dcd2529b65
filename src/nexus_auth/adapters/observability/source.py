"""Counts how a registry's questions to its source end, without knowing either of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from nexus_auth.domain.errors import CAUSES, RegistryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron
    from nexus_auth.domain.ports import KeyMap, KeySource, NeuronSource

    class _Source(KeySource, NeuronSource, Protocol):
        """Tells both."""


T = TypeVar("T")

NO_CAUSE: Final = "none"
OTHER_CAUSE: Final = "other"

QUESTION_OUTCOMES: Final = (NO_CAUSE, *CAUSES)
"""Why a fetch got no answer; `none` where it got one. A closed set."""


class ObservedSource:
    """A `KeySource` and `NeuronSource` that tells how the questions of another one end."""

    def __init__(self, source: _Source, *, tell: Callable[[str], None]) -> None:
        """Wraps a source, which stays its creator's to close.

        Args:
            source: Asked.
            tell: Given one of `CAUSES` for every question. Must not raise.
        """
        self._source = source
        self._tell = tell

    @property
    def name(self) -> str:
        """See `KeySource.name`."""
        return self._source.name

    async def fetch_keys(self) -> KeyMap:
        """See `KeySource.fetch_keys`."""
        return await self._observed(self._source.fetch_keys())

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """See `KeySource.fetch_key`."""
        return await self._observed(self._source.fetch_key(hotkey))

    async def fetch_neurons(self) -> tuple[Mapping[Hotkey, Neuron], int]:
        """See `NeuronSource.fetch_neurons`."""
        return await self._observed(self._source.fetch_neurons())

    async def _observed(self, question: Awaitable[T]) -> T:
        try:
            answer = await question
        except RegistryError as exc:
            self._tell(exc.cause)
            raise
        except BaseException:
            self._tell(OTHER_CAUSE)
            raise
        self._tell(NO_CAUSE)
        return answer
