"""A development Pylon: everything can be tried without a chain. Never for production.

It answers as the Pylon service 2.0 and later does, and keeps in an SQLite file what the chain
would hold. Nothing is checked on any chain: every holder of a token may publish a key.
"""

from __future__ import annotations

from nexus_auth.adapters.devnet.app import build_devnet_app
from nexus_auth.adapters.devnet.records import DEFAULT_NETUID, Axon, IdentityRecord, NeuronRecord
from nexus_auth.adapters.devnet.store import DevnetStore, DevnetStoreUnusable

__all__ = [
    "DEFAULT_NETUID",
    "Axon",
    "DevnetStore",
    "DevnetStoreUnusable",
    "IdentityRecord",
    "NeuronRecord",
    "build_devnet_app",
]
