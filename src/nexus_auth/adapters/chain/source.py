"""Keys, neurons and places from the nodes of the chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.neuron import Neuron, Place
from nexus_auth.domain.ports import Clock, KeyMap
from nexus_auth.domain.snapshot import Block


class ChainSource:
    """A `KeySource`, a `NeuronSource` and a `PlaceSource` over the RPC of subtensor's nodes.

    Concurrent calls are fine. Its creator closes it.
    """

    name: Final = "chain"

    def __init__(
        self,
        *,
        endpoints: Sequence[str],
        netuid: int,
        clock: Clock,
        genesis: str | None = None,
        connect_timeout_seconds: float = 2.0,
        read_timeout_seconds: float = 10.0,
        observe: Callable[[int | None, float], None] | None = None,
    ) -> None:
        """Prepares a source; nothing is opened before the first request.

        Args:
            endpoints: The nodes, the preferred one first; see `parse_endpoints`.
            netuid: The subnet.
            clock: The wall clock.
            genesis: The hash of the chain's block 0; where it is None, the first node that
                answers says which chain is meant.
            connect_timeout_seconds: How long a connection may take to open.
            read_timeout_seconds: How long all of an answer may take.
            observe: Called with the status and the seconds of every request; the status is None
                where no whole answer came. Must not raise.
        """
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""

    async def fetch_keys(self) -> KeyMap:
        """See `KeySource.fetch_keys`."""
        raise NotImplementedError

    async def fetch_key(self, hotkey: Hotkey) -> bytes | None:
        """See `KeySource.fetch_key`."""
        raise NotImplementedError

    async def fetch_neurons(
        self, *, at: Block | None = None
    ) -> tuple[Mapping[Hotkey, Neuron], int]:
        """See `NeuronSource.fetch_neurons`."""
        raise NotImplementedError

    async def fetch_place(self, hotkey: Hotkey) -> Place | None:
        """See `PlaceSource.fetch_place`."""
        raise NotImplementedError
