"""One process of a fleet: a registry over Pylon and a store, which tells what it knows.

Arguments: Pylon's endpoint, the store's location, seconds between refreshes.
Writes a line whenever the key that it knows of alice changes: its hex, or "nothing".
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from nexus_auth.adapters.clock import SYSTEM_CLOCKS
from nexus_auth.adapters.pylon.api import OpenAccessApi
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.adapters.registry.fetch import Timing
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.entrypoints.container import build_shared_snapshots
from nexus_auth.entrypoints.settings import Settings
from tests.builders import a_hotkey
from tests.integration.faults.faulty_pylon import NETUID


async def run(endpoint: str, location: str, refresh_seconds: float) -> None:
    """Runs until it is killed."""
    alice = a_hotkey("alice")
    known: str | None = None
    settings = Settings.load(
        environ={
            "NEXUS_AUTH_SNAPSHOT_STORE": location,
            "NEXUS_AUTH_SNAPSHOT_STORE_SECRET": "shared by the fleet",
            "NEXUS_PYLON_ENDPOINT": endpoint,
            "NEXUS_PYLON_NETUID": str(NETUID),
        }
    )
    async with PylonClient(endpoint=endpoint, api=OpenAccessApi(netuid=NETUID)) as client:
        registry = SnapshotRegistry(
            source=client,
            timing=Timing(
                max_age=timedelta(minutes=1), refresh_every=timedelta(seconds=refresh_seconds)
            ),
            shared=build_shared_snapshots(settings, SYSTEM_CLOCKS),
        )
        await registry.start()
        while True:
            registration = registry.peek(alice)
            now = "nothing" if registration is None else registration.public_key.hex()
            if now != known:
                known = now
                print(known, flush=True)
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], float(sys.argv[3])))
