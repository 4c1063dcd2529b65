"""New keys in, old keys out, with the service's own limits and real waiting."""

from __future__ import annotations

import asyncio
import time

import pytest

from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.pylon.api import OpenAccessApi
from nexus_auth.adapters.pylon.client import DEFAULT_READ_TIMEOUT_SECONDS, PylonClient
from nexus_auth.adapters.registry.fetch import Timing
from nexus_auth.adapters.registry.refresh import EARLY_SECONDS
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.domain.decision import Denied, Granted
from nexus_auth.domain.reasons import DenialReason
from nexus_auth.domain.verifier import CertificateVerifier
from tests.builders import a_hotkey, a_key
from tests.integration.faults.faulty_pylon import NETUID, FaultyPylon
from tests.integration.faults.test_faults import certificate_of
from tests.unit.adapters.registry.sources import MAX_AGE, REFRESH_EVERY, key_of, keys_of

OLD = certificate_of("alice")
NEW = certificate_of("alice", key=a_key("alice's new"))


def registry_over(client: PylonClient) -> SnapshotRegistry:
    """A registry with the limits of the service."""
    return SnapshotRegistry(
        source=client, timing=Timing(max_age=MAX_AGE, refresh_every=REFRESH_EVERY)
    )


@pytest.mark.parametrize("pause", [0.0, 0.3, 1.0, 2.5])
async def test_new_certificate_is_in_with_the_next_fetch_and_the_old_one_out_with_it(
    pause: float,
) -> None:
    """However long ago the last refresh was when the key changed: fetches are 2 s apart at most."""
    async with (
        FaultyPylon(keys_of("alice")) as pylon,
        PylonClient(endpoint=pylon.endpoint, api=OpenAccessApi(netuid=NETUID)) as client,
        registry_over(client) as registry,
    ):
        verifier = CertificateVerifier(registry=registry, clock=utc_now)
        assert isinstance(await verifier.verify(OLD), Granted)
        await asyncio.sleep(pause)
        pylon.keys[a_hotkey("alice")] = key_of("alice's new")
        asked = len(pylon.requests)
        assert isinstance(await verifier.verify(OLD), Granted)
        while not isinstance(await verifier.verify(NEW), Granted):  # noqa: ASYNC110 - as a client would.
            await asyncio.sleep(0.02)
        assert len(pylon.requests) == asked + 1
        assert verifier.verify_remembered(OLD) is None
        match await verifier.verify(OLD):
            case Denied() as denied:
                assert denied.reason is DenialReason.KEY_MISMATCH
            case Granted():
                pytest.fail("the old certificate is still let in")


async def test_stranger_does_not_wait_for_the_end_of_a_silent_pylon() -> None:
    """Known callers meanwhile are served at once."""
    async with (
        FaultyPylon(keys_of("alice")) as pylon,
        PylonClient(endpoint=pylon.endpoint, api=OpenAccessApi(netuid=NETUID)) as client,
        registry_over(client) as registry,
    ):
        verifier = CertificateVerifier(registry=registry, clock=utc_now)
        assert isinstance(await verifier.verify(OLD), Granted)
        pylon.behaviour = lambda _: None
        await asyncio.sleep(EARLY_SECONDS)
        began = time.monotonic()
        stranger = asyncio.create_task(verifier.verify(certificate_of("eve")))
        await asyncio.sleep(0.1)
        assert isinstance(await verifier.verify(OLD), Granted)
        assert not stranger.done()
        assert isinstance(await stranger, Denied)
        assert isinstance(await verifier.verify(certificate_of("mallory")), Denied)
        # Both are over while the request still waits for its answer. (How long before that, the
        # registry's own tests say, in virtual time.)
        assert time.monotonic() - began < DEFAULT_READ_TIMEOUT_SECONDS
        assert len(pylon.requests) == 2
