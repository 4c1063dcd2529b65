"""A caller for one's own program, wired to a Pylon or to the chain in one line."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from nexus_auth.adapters.tls.caller import Caller
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints.connecting import chain_source, open_registry, pylon_source
from nexus_auth.entrypoints.defaults import MAX_AGE, REFRESH_EVERY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta
    from pathlib import Path


@asynccontextmanager
async def connect(
    endpoint: str,
    *,
    certificates: str | Path | None = None,
    netuid: int | None = None,
    identity_name: str | None = None,
    identity_token: str | None = None,
    open_access_token: str | None = None,
    max_age: timedelta = MAX_AGE,
    refresh_every: timedelta = REFRESH_EVERY,
) -> AsyncIterator[Caller]:
    """Opens a caller that fetches from a Pylon which keys servers must hold; closes it at the end.

    All keys of the subnet are fetched in one request and renewed in the background. While Pylon
    cannot be reached, calls go on with what is known for `max_age`, and no longer.

    Args:
        endpoint: As for `nexus_auth.connect`, and so are the arguments that are not named here.
        certificates: The directory of `client.key` and `client.crt`, the pair that is shown to
            servers. They are read again when `generate` has replaced them. None shows no pair.
        netuid: The subnet.
        identity_name: For the identity API; goes with `identity_token`.
        identity_token: Its token.
        open_access_token: For the open-access API, where it needs one.
        max_age: How long keys may be used without news from Pylon; above zero.
        refresh_every: How often they are renewed.

    Raises:
        ConfigurationError: When the arguments do not fit together.
        ValueError: When a span is below what makes sense.
    """
    _require_age(max_age)
    source = pylon_source(endpoint, netuid, identity_name, identity_token, open_access_token)
    async with open_registry(source, max_age, refresh_every) as registry:
        yield Caller(registry=registry, certificates=certificates)


@asynccontextmanager
async def connect_chain(
    *endpoints: str,
    netuid: int,
    certificates: str | Path | None = None,
    genesis: str | None = None,
    max_age: timedelta = MAX_AGE,
    refresh_every: timedelta = REFRESH_EVERY,
) -> AsyncIterator[Caller]:
    """Opens a caller that reads from the chain itself which keys servers must hold.

    Args:
        endpoints: As for `nexus_auth.connect_chain`.
        netuid: The subnet.
        certificates: As for `connect`.
        genesis: As for `nexus_auth.connect_chain`.
        max_age: As for `connect`.
        refresh_every: As for `connect`.

    Raises:
        ConfigurationError: When the arguments do not fit together, or an extra is missing.
        ValueError: When a span is below what makes sense.
    """
    _require_age(max_age)
    source = chain_source(endpoints, netuid, genesis)
    async with open_registry(source, max_age, refresh_every) as registry:
        yield Caller(registry=registry, certificates=certificates)


def _require_age(max_age: timedelta) -> None:
    if not max_age:
        # A connection outlives the request that it was opened for.
        raise ConfigurationError(setting="max_age", problem="must be above zero")
