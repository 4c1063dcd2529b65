"""A verifier for one's own application, wired to a Pylon in one line."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from nexus_auth.adapters.clock import utc_now
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.domain.verifier import DEFAULT_REMEMBERED, CertificateVerifier
from nexus_auth.entrypoints.defaults import LEEWAY, MAX_AGE, REFRESH_EVERY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

    from nexus_auth.adapters.pylon.api import PylonApi


@asynccontextmanager
async def connect(
    endpoint: str,
    *,
    netuid: int | None = None,
    identity_name: str | None = None,
    identity_token: str | None = None,
    open_access_token: str | None = None,
    max_age: timedelta = MAX_AGE,
    refresh_every: timedelta = REFRESH_EVERY,
    leeway: timedelta = LEEWAY,
    remember: int = DEFAULT_REMEMBERED,
    neurons: bool = False,
) -> AsyncIterator[CertificateVerifier]:
    """Opens a verifier that fetches from a Pylon who is registered, and closes it at the end.

    All keys of the subnet are fetched in one request and renewed in the background, so that a
    decision on a known caller waits for nothing. Does not wait for Pylon either: while it cannot
    be reached, callers are denied with `registry-unavailable`.

    Reads no setting from the environment. What is given decides which of Pylon's APIs is spoken:
    with an identity, that of the identity; with a netuid alone, open access; with neither, the
    first generation, which knows one subnet only.

    Args:
        endpoint: Base URL, such as `http://pylon:8000`.
        netuid: The subnet.
        identity_name: For the identity API; goes with `identity_token`.
        identity_token: Its token.
        open_access_token: For the open-access API, where it needs one.
        max_age: How long keys may be used without news from Pylon; zero fetches every time.
        refresh_every: How often they are renewed.
        leeway: By how much a certificate's validity may begin later than now; its end has no
            leeway.
        remember: How many certificates are remembered at most.
        neurons: Whether neurons are fetched along with the keys. Policies with rules about stake,
            permits, activity or uids need them, and deny every caller without.

    Raises:
        ConfigurationError: When the arguments do not fit together.
        ValueError: When a span or a number is below what makes sense.
    """
    # Only a program that connects pays for the HTTP client.
    from nexus_auth.adapters.pylon.client import PylonClient
    from nexus_auth.adapters.registry.fetch import Timing
    from nexus_auth.adapters.registry.snapshot import SnapshotRegistry

    if neurons and not max_age:
        raise ConfigurationError(
            setting="neurons", problem="come with all keys at once; that needs a max_age above zero"
        )
    api = _choose_api(netuid, identity_name, identity_token, open_access_token)
    try:
        client = PylonClient(endpoint=endpoint, api=api)
    except ValueError as exc:
        raise ConfigurationError(setting="endpoint", problem=str(exc)) from None
    async with (
        client,
        SnapshotRegistry(
            source=client,
            timing=Timing(max_age=max_age, refresh_every=refresh_every),
            neuron_source=client,
            needs_neurons=lambda: neurons,
        ) as registry,
    ):
        yield CertificateVerifier(
            registry=registry, clock=utc_now, leeway=leeway, remember=remember
        )


def _choose_api(
    netuid: int | None,
    identity_name: str | None,
    identity_token: str | None,
    open_access_token: str | None,
) -> PylonApi:
    from nexus_auth.adapters.pylon.api import build_api

    if (identity_name is None) is not (identity_token is None):
        raise ConfigurationError(
            setting="identity_name, identity_token", problem="give both or neither"
        )
    if netuid is None and (identity_name is not None or open_access_token is not None):
        raise ConfigurationError(
            setting="netuid", problem="needed with an identity or a token: which subnet?"
        )
    try:
        return build_api(
            netuid=netuid,
            identity_name=identity_name,
            identity_token=identity_token,
            open_access_token=open_access_token,
        )
    except ValueError as exc:
        # Says what is wrong with a token or a name, and repeats neither.
        raise ConfigurationError(setting="connect", problem=str(exc)) from None
