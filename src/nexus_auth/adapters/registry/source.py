"""Where a registry learns keys from, as a Protocol: Pylon's client is one, a fake is another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from nexus_auth.domain.errors import RegistryUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron


class BulkNotOffered(RegistryUnavailable):
    """The source cannot give all keys at once; ask it for each hotkey on its own."""


class KeyMap(Protocol):
    """All the keys of a subnet, as the source told them in one answer."""

    @property
    def keys(self) -> Mapping[Hotkey, bytes]:
        """The good entries: raw Ed25519 public keys."""

    @property
    def rejected(self) -> int:
        """How many entries were nonsense and were left out."""


class KeySource(Protocol):
    """Tells which keys are registered. Concurrent calls are fine; its creator closes it.

    Both methods end by themselves, in time and in memory, whatever the other side does.
    """

    async def fetch_keys(self) -> KeyMap:
        """Asks for all the keys of the subnet, in one request.

        Raises:
            BulkNotOffered: If there is no such question.
            RegistryError: If no usable answer came. Nothing else is raised.
        """

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """Asks for one hotkey's key; None when there is none.

        Raises:
            RegistryError: If no usable answer came. Nothing else is raised.
        """


class NeuronSource(Protocol):
    """Tells who the neurons of the subnet are. Concurrent calls are fine; its creator closes it."""

    async def fetch_neurons(self) -> tuple[Mapping[Hotkey, Neuron], int]:
        """Asks for all of them; ends by itself, in time and in memory.

        Returns:
            The good entries, and how many were nonsense and were left out.

        Raises:
            RegistryError: If no usable answer came. Nothing else is raised.
        """
