"""Counts how a registry's fetches end, without knowing the registry or its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from nexus_auth.domain.errors import CAUSES, RegistryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron
    from nexus_auth.domain.ports import KeyMap, KeySource, NeuronSource

T = TypeVar("T")

NO_CAUSE: Final = "none"
OTHER_CAUSE: Final = "other"

FETCH_OUTCOMES: Final = (NO_CAUSE, *CAUSES)
"""Why a fetch got no answer; `none` where it got one. A closed set."""


class ObservedSource:
    """A `KeySource` and `NeuronSource` that notifies of how another one's fetches end."""

    def __init__(
        self,
        *,
        source: KeySource,
        neuron_source: NeuronSource,
        notify: Callable[[str], None],
    ) -> None:
        """Wraps sources, which their creator closes.

        Args:
            source: Fetches keys.
            neuron_source: Fetches neurons.
            notify: Called with one of `FETCH_OUTCOMES` after every fetch. Must not raise.
        """
        self._source = source
        self._neuron_source = neuron_source
        self._notify = notify

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
        return await self._observed(self._neuron_source.fetch_neurons())

    async def _observed(self, fetch: Awaitable[T]) -> T:
        try:
            answer = await fetch
        except RegistryError as exc:
            self._notify(exc.cause)
            raise
        except BaseException:
            self._notify(OTHER_CAUSE)
            raise
        self._notify(NO_CAUSE)
        return answer
