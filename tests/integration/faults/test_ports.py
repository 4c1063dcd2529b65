"""What the ports of a Pylon, or of a node, declare is all that comes out, whatever it does."""

from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import pytest

from nexus_auth.adapters.chain.source import ChainSource
from nexus_auth.adapters.pylon.api import IdentityApi
from nexus_auth.adapters.pylon.client import MAX_NEURONS_BYTES, PylonClient
from nexus_auth.domain.errors import IssuerUnavailable, IssuingRefused, RegistryError
from nexus_auth.domain.neuron import Place
from nexus_auth.domain.ports import (
    CertIssuer,
    IssuedKeyPair,
    KeyMap,
    KeySource,
    NeuronSource,
    PlaceSource,
)
from nexus_auth.domain.prospect import Comparison
from tests.integration.chain.node import NETUID as CHAIN_NETUID
from tests.integration.faults.chain_faults import CHAIN_FAULTS, ChainFault, LivingNode
from tests.integration.faults.faults import FAULTS, OWNER, Fault
from tests.integration.faults.faulty_pylon import NETUID, FaultyPylon
from tests.unit.adapters.registry.sources import keys_of

MEMORY_BYTES: Final = 4 * MAX_NEURONS_BYTES
"""The longest answer, as it comes in and as one piece, with room for the Pylon that sends it."""


async def use_key_source(source: KeySource) -> None:
    """A `KeySource` gives a value of its kind, or a `RegistryError`."""
    with suppress(RegistryError):
        assert isinstance(await source.fetch_keys(), KeyMap)
    with suppress(RegistryError):
        assert isinstance(await source.fetch_key(OWNER), bytes | None)


async def use_neuron_source(source: NeuronSource) -> None:
    """A `NeuronSource` too."""
    with suppress(RegistryError):
        neurons, rejected = await source.fetch_neurons()
        assert len(neurons) >= 0
        assert isinstance(rejected, int)


async def use_place_source(source: PlaceSource) -> None:
    """And so does a `PlaceSource`."""
    with suppress(RegistryError):
        assert isinstance(await source.fetch_place(OWNER), Place | None)


async def use_issuer(issuer: CertIssuer) -> None:
    """A `CertIssuer` has one of two errors."""
    with suppress(IssuerUnavailable, IssuingRefused):
        assert isinstance(await issuer.generate(algorithm=1), IssuedKeyPair)
    with suppress(IssuerUnavailable, IssuingRefused):
        assert isinstance(await issuer.published_key(OWNER), bytes | None)


async def use_comparison(client: PylonClient) -> None:
    """The comparison of an identity with a hotkey has those errors too."""
    with suppress(IssuerUnavailable, IssuingRefused):
        assert isinstance(await client.compare(OWNER), Comparison)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_every_fault_is_a_declared_error_or_value(fault: Fault) -> None:
    """In a time that ends by the client's own limits, and in bounded memory."""
    async with (
        FaultyPylon(keys_of("alice", "dave")) as pylon,
        PylonClient(
            endpoint=pylon.endpoint,
            api=IdentityApi(netuid=NETUID, name="dev", token="token"),
            connect_timeout_seconds=0.5,
            read_timeout_seconds=0.5,
            generate_timeout_seconds=0.5,
        ) as client,
    ):
        await fault.begin(pylon)
        tracemalloc.start()
        async with asyncio.timeout(30):
            await use_key_source(client)
            await use_neuron_source(client)
            await use_place_source(client)
            await use_issuer(client)
            await use_comparison(client)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MEMORY_BYTES


@pytest.mark.parametrize("fault", CHAIN_FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("is_websocket", [False, True], ids=["http", "ws"])
async def test_every_fault_of_a_node_is_a_declared_error_or_value(
    fault: ChainFault, *, is_websocket: bool
) -> None:
    """As above, over either transport."""
    node = LivingNode("alice", "dave", clock=lambda: datetime.now(UTC))
    node.start()
    try:
        async with ChainSource(
            endpoints=[node.ws_url if is_websocket else node.url],
            netuid=CHAIN_NETUID,
            clock=lambda: datetime.now(UTC),
            connect_timeout_seconds=0.5,
            read_timeout_seconds=0.5,
        ) as source:
            await fault.begin(node)
            async with asyncio.timeout(30):
                await use_key_source(source)
                await use_neuron_source(source)
                await use_place_source(source)
    finally:
        node.stop()
