"""Chooses and connects the adapters. The only module that names them.

    container = build_container(settings)
    verifier = container.verifier()

Nothing is opened here: what serves starts the registry, and closes the source.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nexus_auth.adapters.chain.source import ChainSource
from nexus_auth.adapters.clock import SYSTEM_CLOCKS, Clocks
from nexus_auth.adapters.headers.formats import FORMATS
from nexus_auth.adapters.headers.names import GrantHeader
from nexus_auth.adapters.observability.counters import Counters, ObservedSource
from nexus_auth.adapters.observability.decision_log import DecisionLog
from nexus_auth.adapters.observability.facts import RequestView
from nexus_auth.adapters.observability.monitor import Monitor
from nexus_auth.adapters.observability.shared_memory import SharedReports
from nexus_auth.adapters.policy.live import LivePolicies
from nexus_auth.adapters.policy.parsing import PolicyInvalid, build_policies
from nexus_auth.adapters.pylon.api import build_api
from nexus_auth.adapters.pylon.client import PylonClient
from nexus_auth.adapters.registry.fetch import Timing
from nexus_auth.adapters.registry.lease import NewsSign, SharedSnapshots
from nexus_auth.adapters.registry.lookup import LookupRegistry
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.adapters.starlette.admin_app import build_admin_app
from nexus_auth.adapters.starlette.auth_app import AuthApp
from nexus_auth.adapters.starlette.gate import Gate
from nexus_auth.adapters.store.record import RecordFormat, derive_secret, scope_of, scope_of_chain
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


UNSEALED_STORE: Final = (
    "no secret seals the records, so any client that can write to Redis decides who is granted; "
    "set NEXUS_AUTH_SNAPSHOT_STORE_SECRET (make one: openssl rand -hex 32)"
)


def build_shared_snapshots(
    settings: Settings, clocks: Clocks, sign: NewsSign | None = None
) -> SharedSnapshots | None:
    """Makes what processes share of their snapshots, where a store is configured.

    Raises:
        ConfigurationError: When the store cannot be used, or only unsafely and that is not wanted.
    """
    if settings.snapshot_store is None:
        return None
    if settings.has_unsealed_network_store and not settings.unsafe_unsealed_store:
        raise ConfigurationError(
            setting="NEXUS_AUTH_SNAPSHOT_STORE",
            source=settings.origins["snapshot_store"],
            problem=UNSEALED_STORE,
        )
    if settings.source == "chain":
        nodes = settings.chain_endpoint or ()
        scope = scope_of_chain(
            endpoints=nodes, genesis=settings.chain_genesis, netuid=settings.netuid
        )
    else:
        scope = scope_of(endpoint=settings.pylon_endpoint, netuid=settings.netuid)
    # The Pylon token seals the records where no other secret is set.
    secret = derive_secret(*settings.sealing_secrets, scope=scope)
    return SharedSnapshots(
        store=_build_store(settings.snapshot_store, scope=scope, clock=clocks.wall),
        codec=RecordFormat(scope=scope, secret=secret, clocks=clocks),
        clocks=clocks,
        sign=sign,
    )


def _build_store(store: str, *, scope: str, clock: Clock) -> SnapshotStore:
    # Loaded only where it is configured: most services have none, and Redis is an extra.
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


def build_live_policies(settings: Settings, clock: Clock) -> LivePolicies:
    """Reads who among the registered may enter.

    Raises:
        ConfigurationError: When the policies are not valid, or need what is not fetched.
    """
    path = settings.policy_file
    try:
        source = path or build_policies(
            allow=settings.allow_hotkeys,
            deny=settings.deny_hotkeys,
            require_validator_permit=settings.require_validator_permit,
            min_stake=settings.min_stake,
        )
        return LivePolicies(source, clock=clock, neurons_problem=settings.neurons_problem)
    except PolicyInvalid as exc:
        raise ConfigurationError(
            setting="the access policy" if path is None else "NEXUS_AUTH_POLICY_FILE",
            source=None if path is None else str(path),
            problem=str(exc),
        ) from exc


def build_registry(
    settings: Settings,
    source: ObservedSource,
    clocks: Clocks,
    shared: SharedSnapshots | None,
    policies: LivePolicies,
) -> SnapshotRegistry | LookupRegistry:
    """Makes the registry that is configured. Start it and close it."""
    timing = Timing(
        max_age=timedelta(minutes=settings.cache_duration_mins),
        refresh_every=timedelta(seconds=settings.refresh_seconds),
        clocks=clocks,
    )
    if settings.registry == "lookup":
        return LookupRegistry(source=source, timing=timing, neuron_source=source)
    sends_neurons = bool(_grant_headers(settings))
    return SnapshotRegistry(
        source=source,
        timing=timing,
        shared=shared,
        neuron_source=source,
        needs_neurons=(lambda: True) if sends_neurons else policies.needs_neurons,
    )


def build_gate(settings: Settings, verifier: CertificateVerifier, policies: LivePolicies) -> Gate:
    """Makes the gate that reads the configured header."""
    header = settings.certificate_header
    return Gate(
        verifier=verifier,
        header=header.name,
        der_from=FORMATS[header.format],
        trusted_peers=settings.trusted_proxies,
        policies=policies,
        reads_policy_header=True,
    )


def build_shared_reports(workers: int) -> SharedReports | None:
    """Makes the memory in which workers see each other's counts; to be called before they fork."""
    return SharedReports(workers) if workers > 1 else None


def build_view(settings: Settings) -> RequestView:
    """Says what logs and traces have of requests."""
    return RequestView(
        with_query=settings.log_query, knows_proxies=settings.trusted_proxies is not None
    )


def build_news_sign(workers: int) -> NewsSign | None:
    """Makes the sign by which workers see each other's news; to be called before they fork."""
    return NewsSign() if workers > 1 else None


def build_traces(traces: str, view: RequestView) -> DecisionTraces | None:
    """Makes the observer that sends spans to an OpenTelemetry collector, where that is configured.

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
    return DecisionTraces(view=view)


def _observers(*observers: DecisionObserver | None) -> tuple[DecisionObserver, ...]:
    """Those that are switched on."""
    return tuple(each for each in observers if each is not None)


def _grant_headers(settings: Settings) -> frozenset[GrantHeader]:
    return frozenset() if settings.grant_headers is None else settings.grant_headers.headers


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


class Container(containers.DeclarativeContainer):
    """Everything that the commands are made of, made when it is first used."""

    settings = providers.Dependency(instance_of=Settings)
    news_sign: providers.Object[NewsSign | None] = providers.Object(None)
    """That of all workers, where there are several."""

    clocks = providers.Object(SYSTEM_CLOCKS)
    clock = clocks.provided.wall

    counters = providers.Singleton(Counters, clock=clock)
    """What this process counts."""

    pylon_api = providers.Callable(
        build_api,
        netuid=settings.provided.netuid,
        identity_name=settings.provided.identity_name,
        identity_token=settings.provided.identity_token,
        open_access_token=settings.provided.open_access_token,
    )
    pylon = providers.Singleton(
        PylonClient,
        endpoint=settings.provided.pylon_endpoint,
        api=pylon_api,
        connect_timeout_seconds=settings.provided.pylon_connect_timeout_seconds,
        read_timeout_seconds=settings.provided.pylon_read_timeout_seconds,
        observe=counters.provided.count_pylon_request,
        reread_token=settings.provided.reread,
    )
    """A `KeySource` and a `CertIssuer`. Close it."""

    chain = providers.Singleton(
        ChainSource,
        endpoints=settings.provided.chain_endpoint,
        netuid=settings.provided.netuid,
        genesis=settings.provided.chain_genesis,
        clock=clock,
        connect_timeout_seconds=settings.provided.pylon_connect_timeout_seconds,
        read_timeout_seconds=settings.provided.pylon_read_timeout_seconds,
        observe=counters.provided.count_chain_request,
    )
    """A `KeySource`, `NeuronSource` and `PlaceSource`. Close it."""

    source = providers.Selector(settings.provided.source, pylon=pylon, chain=chain)
    """The one that is configured. Close it."""

    key_source = providers.Singleton(
        ObservedSource,
        source=source,
        neuron_source=source,
        notify=counters.provided.count_fetch,
    )

    policies = providers.Singleton(build_live_policies, settings, clock)
    """Gives the policies in force. Start it and close it."""

    shared_snapshots = providers.Singleton(build_shared_snapshots, settings, clocks, news_sign)

    registry = providers.Singleton(
        build_registry, settings, key_source, clocks, shared_snapshots, policies
    )
    """A `KeyRegistry` that knows its health. Start it and close it."""

    verifier = providers.Singleton(
        CertificateVerifier,
        registry=registry,
        clock=clock,
        leeway=providers.Callable(_seconds, settings.provided.leeway_seconds),
    )

    view = providers.Singleton(build_view, settings)

    decision_log = providers.Singleton(DecisionLog, grants=settings.provided.log_grants, view=view)

    traces = providers.Singleton(build_traces, settings.provided.traces, view)
    """None where they are off. Start it and close it."""

    # The policies themselves, which are called at every decision.
    gate = providers.Singleton(build_gate, settings, verifier, policies)

    auth_app = providers.Factory(
        AuthApp,
        gate=gate,
        clock=clock,
        reuse=providers.Callable(_seconds, settings.provided.reuse_seconds),
        observers=providers.Callable(_observers, counters, decision_log, traces),
        grant_headers=providers.Callable(_grant_headers, settings),
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
        build_admin_app, token=settings.provided.admin_token, policy_health=policies.provided.health
    )
    """Needs `monitor` and `is_draining`."""


def build_container(settings: Settings, *, news_sign: NewsSign | None = None) -> Container:
    """Fills a container with the effective settings, and what its workers share."""
    container = Container(settings=settings, news_sign=providers.Object(news_sign))
    container.check_dependencies()
    return container
