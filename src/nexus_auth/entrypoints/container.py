"""Chooses and connects the adapters. The only module that names them.

    container = build_container(settings)
    verifier = container.verifier()

Nothing is opened here: the registry is started, and the source closed, by whoever serves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_auth.adapters.clock import SYSTEM_CLOCKS, Clocks
from nexus_auth.adapters.headers.formats import FORMATS
from nexus_auth.adapters.headers.names import GrantHeader, GrantHeaders
from nexus_auth.adapters.observability.counters import Counters
from nexus_auth.adapters.observability.decision_log import DecisionLog
from nexus_auth.adapters.observability.monitor import Monitor
from nexus_auth.adapters.observability.shared_memory import SharedReports
from nexus_auth.adapters.observability.source import ObservedSource
from nexus_auth.adapters.policy.live import LivePolicies
from nexus_auth.adapters.policy.short_form import HotkeyList, StakeMinimums, build_policies
from nexus_auth.adapters.policy.toml_file import PolicyInvalid
from nexus_auth.adapters.pylon.api import build_api
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.adapters.registry.fetch import Timing
from nexus_auth.adapters.registry.lease import SharedSnapshots
from nexus_auth.adapters.registry.lookup import LookupRegistry
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.adapters.starlette.admin_app import build_admin_app
from nexus_auth.adapters.starlette.auth_app import AuthApp
from nexus_auth.adapters.starlette.gate import Gate
from nexus_auth.adapters.store.record import RecordFormat, derive_secret, scope_of
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.domain.ports import Clock, DecisionObserver, SnapshotStore
from nexus_auth.domain.verifier import CertificateVerifier
from nexus_auth.entrypoints.hidden_packages import hidden
from nexus_auth.entrypoints.settings import Settings

if TYPE_CHECKING:
    from nexus_auth.adapters.observability.traces import DecisionTraces


# For its wiring, which is not used here, dependency-injector loads web frameworks and settings
# libraries wherever it finds them: a second at every start, and 30 MB in every worker.
with hidden(
    "yaml", emptied=("fastapi", "fastapi.params", "pydantic", "pydantic_settings", "werkzeug")
):
    from dependency_injector import containers, providers


def build_shared_snapshots(
    *,
    store: str | None,
    store_secret: str | None,
    identity_token: str | None,
    open_access_token: str | None,
    endpoint: str,
    netuid: int | None,
    clocks: Clocks,
) -> SharedSnapshots | None:
    """Makes what processes share of their snapshots, where a store is configured.

    Args:
        store: `file:/path`, `redis://...` or `rediss://...`; None where there is none.
        store_secret: Seals the records; the Pylon token serves where it is not set.
        identity_token: As configured.
        open_access_token: As configured.
        endpoint: Which Pylon.
        netuid: Which subnet.
        clocks: Give the time, and measure spans.
    """
    if store is None:
        return None
    scope = scope_of(endpoint=endpoint, netuid=netuid)
    secret = derive_secret(store_secret, identity_token, open_access_token, scope=scope)
    return SharedSnapshots(
        store=_build_store(store, scope=scope, clock=clocks.wall),
        codec=RecordFormat(scope=scope, secret=secret, clocks=clocks),
        clocks=clocks,
    )


def _build_store(store: str, *, scope: str, clock: Clock) -> SnapshotStore:
    # Loaded only where it is wanted: most services have none, and Redis is an extra.
    if store.startswith("file:"):
        from nexus_auth.adapters.store.file_store import FileStore

        return FileStore(Path(store.removeprefix("file:")))
    try:
        from nexus_auth.adapters.store.redis_store import RedisStore
    except ImportError:
        raise ConfigurationError(
            setting="NEXUS_AUTH_SNAPSHOT_STORE",
            problem="Redis needs the extra of that name: pip install 'nexus-auth[redis]'",
        ) from None
    try:
        return RedisStore(store, scope=scope, clock=clock)
    except ValueError:
        # The package's message may repeat a part of the URL, and with it a password.
        raise ConfigurationError(
            setting="NEXUS_AUTH_SNAPSHOT_STORE",
            problem="the redis package cannot read this URL; check its options behind the ?",
        ) from None


def build_live_policies(
    *,
    clock: Clock,
    policy_file: Path | None,
    allow_hotkeys: HotkeyList | None,
    deny_hotkeys: HotkeyList | None,
    require_validator_permit: bool,
    min_stake: StakeMinimums | None,
    offers_neurons: bool,
) -> LivePolicies:
    """Reads who among the registered may enter.

    Raises:
        ConfigurationError: When the policies are not valid, or need what is not fetched.
    """
    try:
        if policy_file is not None:
            return LivePolicies.from_file(policy_file, clock=clock, offers_neurons=offers_neurons)
        policies = build_policies(
            allow=allow_hotkeys,
            deny=deny_hotkeys,
            require_validator_permit=require_validator_permit,
            min_stake=min_stake,
        )
        return LivePolicies(policies, clock=clock, offers_neurons=offers_neurons)
    except PolicyInvalid as exc:
        raise ConfigurationError(
            setting="the access policy" if policy_file is None else "NEXUS_AUTH_POLICY_FILE",
            source=None if policy_file is None else str(policy_file),
            problem=str(exc),
        ) from exc


def build_shared_reports(workers: int) -> SharedReports | None:
    """Makes the memory in which workers see each other's counts; to be called before they fork."""
    return SharedReports(workers) if workers > 1 else None


def build_traces(traces: str) -> DecisionTraces | None:
    """Makes what tells an OpenTelemetry collector of decisions, where that is wanted.

    Raises:
        ConfigurationError: When the packages for it are not installed.
    """
    if traces == "off":
        return None
    try:
        from nexus_auth.adapters.observability.traces import DecisionTraces
    except ImportError:
        raise ConfigurationError(
            setting="NEXUS_AUTH_TRACES",
            problem="otlp needs the extra otel: pip install 'nexus-auth[otel]'",
        ) from None
    return DecisionTraces()


def _observers(*observers: DecisionObserver | None) -> tuple[DecisionObserver, ...]:
    """Those that are switched on."""
    return tuple(each for each in observers if each is not None)


def _needs_neurons(
    policies: LivePolicies, grant_headers: GrantHeaders | None
) -> Callable[[], bool]:
    if grant_headers is not None and grant_headers.headers:
        return lambda: True
    return policies.needs_neurons


def _grant_headers(grant_headers: GrantHeaders | None) -> frozenset[GrantHeader]:
    return frozenset() if grant_headers is None else grant_headers.headers


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def _minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


class Container(containers.DeclarativeContainer):
    """Everything that the commands are made of, made when it is first asked for."""

    config = providers.Configuration(strict=True)
    """The settings by their attribute names, and what follows from them: the two parts of
    `certificate_header`, and `offers_neurons`."""

    clocks = providers.Object(SYSTEM_CLOCKS)
    clock = clocks.provided.wall

    counters = providers.Singleton(Counters, clock=clock)
    """What this process counts."""

    pylon_api = providers.Callable(
        build_api,
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
        observe=counters.provided.count_pylon_request,
    )
    """A `KeySource` and a `CertIssuer`. Close it."""

    key_source = providers.Singleton(
        ObservedSource,
        source=pylon,
        neuron_source=pylon,
        notify=counters.provided.count_fetch,
    )

    policies = providers.Singleton(
        build_live_policies,
        clock=clock,
        policy_file=config.policy_file,
        allow_hotkeys=config.allow_hotkeys,
        deny_hotkeys=config.deny_hotkeys,
        require_validator_permit=config.require_validator_permit,
        min_stake=config.min_stake,
        offers_neurons=config.offers_neurons,
    )
    """Tells which policies are in force. Start it and close it."""

    shared_snapshots = providers.Singleton(
        build_shared_snapshots,
        store=config.snapshot_store,
        store_secret=config.snapshot_store_secret,
        identity_token=config.identity_token,
        open_access_token=config.open_access_token,
        endpoint=config.pylon_endpoint,
        netuid=config.netuid,
        clocks=clocks,
    )

    timing = providers.Singleton(
        Timing,
        max_age=providers.Callable(_minutes, config.cache_duration_mins),
        refresh_every=providers.Callable(_seconds, config.refresh_seconds),
        clocks=clocks,
    )
    registry = providers.Selector(
        config.registry,
        snapshot=providers.Singleton(
            SnapshotRegistry,
            source=key_source,
            timing=timing,
            shared=shared_snapshots,
            neuron_source=key_source,
            needs_neurons=providers.Callable(_needs_neurons, policies, config.grant_headers),
        ),
        lookup=providers.Singleton(LookupRegistry, source=key_source, timing=timing),
    )
    """A `KeyRegistry` that tells its state. Start it and close it."""

    verifier = providers.Singleton(
        CertificateVerifier,
        registry=registry,
        clock=clock,
        leeway=providers.Callable(_seconds, config.leeway_seconds),
    )

    decision_log = providers.Singleton(DecisionLog, grants=config.log_grants)

    traces = providers.Singleton(build_traces, config.traces)
    """None where they are off. Start it and close it."""

    der_from = providers.Callable(FORMATS.__getitem__, config.header_format)

    gate = providers.Singleton(
        Gate,
        verifier=verifier,
        header=config.header_name,
        der_from=der_from,
        trusted_peers=config.trusted_proxies,
        # The object itself, which is called at every decision.
        policies=policies,
        reads_policy_header=True,
    )

    auth_app = providers.Factory(
        AuthApp,
        gate=gate,
        clock=clock,
        reuse=providers.Callable(_seconds, config.reuse_seconds),
        observers=providers.Callable(_observers, counters, decision_log, traces),
        grant_headers=providers.Callable(_grant_headers, config.grant_headers),
    )
    """Takes `lifespan` where it shall open and close what it needs."""

    monitor = providers.Factory(
        Monitor,
        counters=counters,
        registry_health=registry.provided.health,
        remembered=verifier.provided.remembered_certificates,
        clock=clock,
    )
    """Takes `shared_reports` and `worker` where there are several. Start it and close it."""

    admin_app = providers.Factory(
        build_admin_app, token=config.admin_token, policy_health=policies.provided.health
    )
    """Needs `monitor` and `is_draining`."""


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
        {
            **values,
            "header_name": header.name,
            "header_format": header.format,
            "offers_neurons": settings.offers_neurons,
        }
    )
    container.check_dependencies()
    return container
