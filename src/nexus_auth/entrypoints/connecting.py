"""A verifier for one's own application, wired to a Pylon or to the chain in one line."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from nexus_auth.adapters.clock import utc_now
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.domain.verifier import DEFAULT_REMEMBERED, CertificateVerifier
from nexus_auth.entrypoints.defaults import LEEWAY, MAX_AGE, REFRESH_EVERY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

    from nexus_auth.adapters.chain.source import ChainSource
    from nexus_auth.adapters.pylon.api import PylonApi
    from nexus_auth.adapters.pylon.client import PylonClient
    from nexus_auth.adapters.registry.snapshot import SnapshotRegistry


_MAX_NETUID: Final = 2**16 - 1


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
    source = pylon_source(endpoint, netuid, identity_name, identity_token, open_access_token)
    async with open_registry(source, max_age, refresh_every, neurons=neurons) as registry:
        yield CertificateVerifier(
            registry=registry, clock=utc_now, leeway=leeway, remember=remember
        )


@asynccontextmanager
async def connect_chain(
    *endpoints: str,
    netuid: int,
    genesis: str | None = None,
    max_age: timedelta = MAX_AGE,
    refresh_every: timedelta = REFRESH_EVERY,
    leeway: timedelta = LEEWAY,
    remember: int = DEFAULT_REMEMBERED,
    neurons: bool = False,
) -> AsyncIterator[CertificateVerifier]:
    """Opens a verifier that reads from the chain itself who is registered; no Pylon is needed.

    All keys of the subnet are read at one finalised block; everything else is as for `connect`.
    A node that stops advancing counts as one that cannot be reached.

    Args:
        endpoints: Nodes, such as `wss://node:443` or `http://127.0.0.1:9944`, the preferred one
            first. `ws://` and `wss://` need the extra `chain`.
        netuid: The subnet.
        genesis: The hash of the chain's block 0: nodes of any other chain are refused. Where it is
            None, the first node that answers says which chain is meant.
        max_age: How long keys may be used without news; zero fetches every time.
        refresh_every: How often they are renewed.
        leeway: As for `connect`.
        remember: As for `connect`.
        neurons: As for `connect`; needs the extra `chain`.

    Raises:
        ConfigurationError: When the arguments do not fit together, or an extra is missing.
        ValueError: When a span or a number is below what makes sense.
    """
    source = chain_source(endpoints, netuid, genesis, neurons=neurons)
    async with open_registry(source, max_age, refresh_every, neurons=neurons) as registry:
        yield CertificateVerifier(
            registry=registry, clock=utc_now, leeway=leeway, remember=remember
        )


@asynccontextmanager
async def open_registry(
    source: PylonClient | ChainSource,
    max_age: timedelta,
    refresh_every: timedelta,
    *,
    neurons: bool = False,
) -> AsyncIterator[SnapshotRegistry]:
    """Renews what a source says, and closes both at the end; the arguments are those of `connect`.

    Raises:
        ConfigurationError: When the arguments do not fit together.
        ValueError: When a span is below what makes sense.
    """
    from nexus_auth.adapters.registry.fetch import Timing
    from nexus_auth.adapters.registry.snapshot import SnapshotRegistry

    async with source:
        if neurons and not max_age:
            raise ConfigurationError(
                setting="neurons",
                problem="come with all keys at once; that needs a max_age above zero",
            )
        async with SnapshotRegistry(
            source=source,
            timing=Timing(max_age=max_age, refresh_every=refresh_every),
            neuron_source=source,
            needs_neurons=lambda: neurons,
        ) as registry:
            yield registry


def pylon_source(
    endpoint: str,
    netuid: int | None,
    identity_name: str | None,
    identity_token: str | None,
    open_access_token: str | None,
) -> PylonClient:
    """Builds the source that the arguments of `connect` describe.

    Raises:
        ConfigurationError: When the arguments do not fit together.
    """
    # Only a program that connects pays for the HTTP client.
    from nexus_auth.adapters.pylon.client import PylonClient

    api = _choose_api(netuid, identity_name, identity_token, open_access_token)
    try:
        return PylonClient(endpoint=endpoint, api=api)
    except ValueError as exc:
        raise ConfigurationError(setting="endpoint", problem=str(exc)) from None


def chain_source(
    endpoints: tuple[str, ...], netuid: int, genesis: str | None, *, neurons: bool = False
) -> ChainSource:
    """Builds the source that the arguments of `connect_chain` describe.

    Raises:
        ConfigurationError: When the arguments do not fit together, or an extra is missing.
    """
    from nexus_auth.adapters.chain.endpoints import parse_endpoints, parse_genesis
    from nexus_auth.adapters.chain.neurons import find_library
    from nexus_auth.adapters.chain.source import ChainSource

    if neurons and find_library() is None:
        raise ConfigurationError(
            setting="neurons",
            problem="of the chain need the extra of that name: pip install 'nexus-auth[chain]'",
        )
    _check_netuid(netuid)
    try:
        nodes = parse_endpoints(",".join(endpoints))
        genesis = None if genesis is None else parse_genesis(genesis)
        return ChainSource(endpoints=nodes, netuid=netuid, clock=utc_now, genesis=genesis)
    except ValueError as exc:
        raise ConfigurationError(setting="connect_chain", problem=str(exc)) from None


def _check_netuid(netuid: int) -> None:
    if not 0 <= netuid <= _MAX_NETUID:
        raise ConfigurationError(setting="netuid", problem=f"expected 0 to {_MAX_NETUID}")


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
    if netuid is not None:
        _check_netuid(netuid)
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
