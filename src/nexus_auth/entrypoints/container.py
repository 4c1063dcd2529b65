"""Chooses and connects the adapters. The only module that names them.

    container = build_container(settings)
    verifier = container.verifier()

Nothing is opened here: the registry is started, and the source closed, by whoever serves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import types
from collections.abc import Iterator
from datetime import timedelta

from nexus_auth.adapters.clock import utc_now
from nexus_auth.adapters.pylon.api import (
    FirstGenerationApi,
    IdentityApi,
    OpenAccessApi,
    PylonApi,
)
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.adapters.registry.lookup import LookupRegistry
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.adapters.starlette.admin_app import build_admin_app
from nexus_auth.adapters.starlette.auth_app import AuthApp
from nexus_auth.adapters.starlette.header_formats import FORMATS
from nexus_auth.adapters.structlog.decision_log import DecisionLog
from nexus_auth.domain.policy import ADMIT_REGISTERED
from nexus_auth.domain.verifier import CertificateVerifier
from nexus_auth.entrypoints.settings import Settings


@contextlib.contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Makes packages look empty to an import, where nobody has loaded them yet."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = _Empty(name)
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


class _Empty(types.ModuleType):
    VERSION = "2"  # what is asked of pydantic


# For its wiring, which is not used here, dependency-injector loads web frameworks and settings
# libraries wherever it finds them: a second at every start, and 30 MB in every worker.
with _hidden("fastapi", "fastapi.params", "pydantic", "pydantic_settings", "werkzeug"):
    from dependency_injector import containers, providers


def build_pylon_api(
    *,
    netuid: int | None,
    identity_name: str | None,
    identity_token: str | None,
    open_access_token: str | None,
) -> PylonApi:
    """Says which dialect of Pylon's API follows from what is configured."""
    if netuid is None:
        return FirstGenerationApi(token=open_access_token)
    if identity_name is not None and identity_token is not None:
        return IdentityApi(netuid=netuid, name=identity_name, token=identity_token)
    return OpenAccessApi(netuid=netuid, token=open_access_token)


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def _minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


class Container(containers.DeclarativeContainer):
    """Everything that the commands are made of, made when it is first asked for."""

    config = providers.Configuration(strict=True)
    """The settings by their attribute names, and `certificate_header`'s two parts."""

    clock = providers.Object(utc_now)

    pylon_api = providers.Callable(
        build_pylon_api,
        netuid=config.netuid,
        identity_name=config.identity_name,
        identity_token=config.identity_token,
        open_access_token=config.open_access_token,
    )
    pylon = providers.Singleton(
        PylonClient,
        endpoint=config.pylon_endpoint,
        api=pylon_api,
        connect_timeout_seconds=config.pylon_connect_timeout_seconds,
        read_timeout_seconds=config.pylon_read_timeout_seconds,
    )
    """A `KeySource` and a `CertIssuer`. Close it."""

    registry = providers.Selector(
        config.registry,
        snapshot=providers.Singleton(
            SnapshotRegistry,
            source=pylon,
            clock=clock,
            max_age=providers.Callable(_minutes, config.cache_duration_mins),
            refresh_every=providers.Callable(_seconds, config.refresh_seconds),
        ),
        lookup=providers.Singleton(
            LookupRegistry,
            source=pylon,
            clock=clock,
            max_age=providers.Callable(_minutes, config.cache_duration_mins),
            refresh_every=providers.Callable(_seconds, config.refresh_seconds),
        ),
    )
    """A `KeyRegistry` that tells its state. Start it and close it."""

    policy = providers.Object(ADMIT_REGISTERED)

    verifier = providers.Singleton(
        CertificateVerifier,
        registry=registry,
        clock=clock,
        leeway=providers.Callable(_seconds, config.leeway_seconds),
    )

    decision_log = providers.Singleton(DecisionLog, grants=config.log_grants)

    der_from = providers.Callable(FORMATS.__getitem__, config.header_format)

    auth_app = providers.Factory(
        AuthApp,
        verifier=verifier,
        clock=clock,
        header=config.header_name,
        der_from=der_from,
        reuse=providers.Callable(_seconds, config.reuse_seconds),
        observers=providers.List(decision_log),
        trusted_proxies=config.trusted_proxies,
        policy=policy,
    )
    """Takes `lifespan` where it shall open and close what it needs."""

    admin_app = providers.Factory(build_admin_app, registry=registry)
    """Needs `is_draining`."""


def build_container(settings: Settings) -> Container:
    """Fills a container with the effective settings."""
    container = Container()
    values = {
        each.name: getattr(settings, each.name)
        for each in dataclasses.fields(settings)
        if "setting" in each.metadata
    }
    header = settings.certificate_header
    container.config.from_dict(
        {**values, "header_name": header.name, "header_format": header.format}
    )
    container.check_dependencies()
    return container
