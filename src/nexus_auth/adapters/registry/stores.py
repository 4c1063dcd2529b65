"""Chooses the snapshot store that a location names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from nexus_auth.adapters.registry.record import RecordFormat, derive_secret, scope_of
from nexus_auth.adapters.registry.sharing import SharedSnapshots

if TYPE_CHECKING:
    from nexus_auth.adapters.registry.store import SnapshotStore
    from nexus_auth.domain.ports import Clock

FILE: Final = "file:"


class StoreNotInstalled(ImportError):
    """The package that a store needs is not installed."""


def open_store(location: str, *, scope: str, clock: Clock) -> SnapshotStore:
    """Makes the store at a location; opens nothing yet.

    Args:
        location: `file:/path`, `redis://...` or `rediss://...`.
        scope: Names the subnet, see `scope_of`.
        clock: Tells the time (aware, UTC).

    Raises:
        StoreNotInstalled: If its package is missing; the message says how to get it.
        ValueError: If the location cannot be understood.
    """
    if location.startswith(FILE):
        from nexus_auth.adapters.registry.file_store import FileStore  # noqa: PLC0415 - Unix alone.

        return FileStore(_path_of(location))
    try:
        from nexus_auth.adapters.registry.redis_store import RedisStore  # noqa: PLC0415 - an extra.
    except ModuleNotFoundError as exc:
        raise StoreNotInstalled("needs the package redis: pip install 'nexus-auth[redis]'") from exc
    return RedisStore(location, scope=scope, clock=clock)


def open_shared_snapshots(
    location: str | None,
    *,
    endpoint: str,
    netuid: int | None,
    secret: str | None,
    identity_token: str | None,
    open_access_token: str | None,
    clock: Clock,
) -> SharedSnapshots | None:
    """Makes what `SnapshotRegistry` takes as `shared`; None where nothing is shared.

    Args:
        location: See `open_store`; None shares nothing.
        endpoint: Pylon's base URL.
        netuid: The subnet.
        secret: Seals the records; where it is not set, a token does, which replicas share anyway.
        identity_token: See `secret`.
        open_access_token: See `secret`.
        clock: Tells the time (aware, UTC).

    Raises:
        StoreNotInstalled: See `open_store`.
        ValueError: See `open_store`.
    """
    if location is None:
        return None
    scope = scope_of(endpoint=endpoint, netuid=netuid)
    seal = derive_secret(secret, identity_token, open_access_token, scope=scope)
    return SharedSnapshots(
        store=open_store(location, scope=scope, clock=clock),
        record_format=RecordFormat(scope=scope, clock=clock, secret=seal),
    )


def _path_of(location: str) -> Path:
    # file:/path and file:///path are the same; file://host/path is another machine's.
    path = location.removeprefix(FILE)
    return Path(path.removeprefix("//") if path.startswith("///") else path)
