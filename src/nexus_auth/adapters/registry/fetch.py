"""One fetch of a whole snapshot, keys and neurons; and the spans that hold for every fetch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from nexus_auth.adapters.clock import SYSTEM_CLOCKS, Clocks
from nexus_auth.domain.errors import BulkNotOffered, RegistryUnavailable
from nexus_auth.domain.snapshot import SubnetSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nexus_auth.domain.hotkey import Hotkey
    from nexus_auth.domain.neuron import Neuron
    from nexus_auth.domain.ports import Clock, KeyMap, KeySource, NeuronSource

FETCH_SECONDS: Final = 60.0
"""When a fetch is given up. A source ends by itself long before that; this holds if it does not."""

PATIENCE_SECONDS: Final = 1.7
"""The longest time `lookup` waits for a fetch, counted from the start of the fetch: a caller gets
a decision within 2 s, also on a busy machine."""

PATIENCE_IN_OUTAGE_SECONDS: Final = 0.25
"""The same while the source is known to be down. A source that has recovered answers sooner."""

CONFIRM_SECONDS: Final = 5.0
"""The time after which a fetch is repeated whose answer is not believed at once: a source says
"not found", or nothing at all, also when it could not read the chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long what is known may be used, when it is renewed, and who measures that.

    Attributes:
        max_age: How long keys may be used without news; zero fetches every time.
        refresh_every: How often they are renewed.
        patience: How long `lookup` may wait for a fetch.
        clocks: Give the time, and measure spans.
    """

    max_age: timedelta
    refresh_every: timedelta
    patience: timedelta = timedelta(seconds=PATIENCE_SECONDS)
    clocks: Clocks = SYSTEM_CLOCKS

    def __post_init__(self) -> None:
        if self.max_age < timedelta(0) or self.refresh_every <= timedelta(0):
            raise ValueError("max_age is not negative, refresh_every is positive")


async def fetch_snapshot(
    source: KeySource,
    neuron_source: NeuronSource | None,
    needs_neurons: Callable[[], bool],
    clock: Clock,
) -> tuple[SubnetSnapshot, int]:
    """Fetches a snapshot; says as well how many entries were nonsense and were left out.

    Its age counts from the start: a slow answer is not younger for it.

    Raises:
        BulkNotOffered: If the source cannot give all keys at once, and no neurons are needed.
        RegistryError: If no usable answer came.
        TimeoutError: If the source did not end by itself.
    """
    said_at = clock()
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            if needs_neurons():
                answer, neurons, rejected = await _fetch_both(source, neuron_source)
            else:
                answer, neurons, rejected = await source.fetch_keys(), None, 0
    except BulkNotOffered:
        if not needs_neurons():
            raise
        raise RegistryUnavailable(
            "a policy needs neurons, which go with all keys at once; the source offers "
            "keys one by one only"
        ) from None
    snapshot = SubnetSnapshot(
        keys=answer.keys, neurons=neurons, said_at=said_at, block=answer.block
    )
    return snapshot, answer.rejected + len(answer.keys) - len(snapshot.keys) + rejected


async def _fetch_both(
    source: KeySource, neuron_source: NeuronSource | None
) -> tuple[KeyMap, Mapping[Hotkey, Neuron], int]:
    """Fetches keys, and neurons of the same block: facts that are used together, or none."""
    if neuron_source is None:
        raise RegistryUnavailable("a policy needs neurons, and there is no source of them")
    keys = await source.fetch_keys()
    neurons, rejected = await neuron_source.fetch_neurons(at=keys.block)
    return keys, neurons, rejected
