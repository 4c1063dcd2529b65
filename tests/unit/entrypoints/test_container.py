"""What is made of which settings."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from dependency_injector import errors

from nexus_auth.adapters.pylon.api import FirstGenerationApi, IdentityApi, OpenAccessApi
from nexus_auth.adapters.registry.lookup import LookupRegistry
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.adapters.starlette.auth_app import AuthApp
from nexus_auth.adapters.store.record import RecordFormat
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints.container import Container, build_container
from nexus_auth.entrypoints.settings import Settings

IDENTITY = {
    "NEXUS_PYLON_NETUID": "12",
    "NEXUS_PYLON_IDENTITY_NAME": "miner",
    "NEXUS_PYLON_IDENTITY_TOKEN": "secret",
}

_SECRET = {"NEXUS_AUTH_SNAPSHOT_STORE_SECRET": "shared by the replicas"}


def a_container(**environ: str) -> Container:
    """A container for these settings."""
    return build_container(Settings.load(environ=environ))


def test_every_dependency_is_there() -> None:
    """Nothing is left to be filled in."""
    a_container().check_dependencies()


def test_option_that_nobody_set_is_an_error() -> None:
    """It does not read as None."""
    with pytest.raises(errors.Error):
        Container().settings.provided.pylon_endpoint()


@pytest.mark.parametrize(
    ("environ", "api"),
    [
        ({}, FirstGenerationApi()),
        ({"NEXUS_PYLON_OPEN_ACCESS_TOKEN": "t"}, FirstGenerationApi(token="t")),
        ({"NEXUS_PYLON_NETUID": "12"}, OpenAccessApi(netuid=12)),
        (
            {"NEXUS_PYLON_NETUID": "12", "NEXUS_PYLON_OPEN_ACCESS_TOKEN": "t"},
            OpenAccessApi(netuid=12, token="t"),
        ),
        (IDENTITY, IdentityApi(netuid=12, name="miner", token="secret")),
    ],
)
def test_dialect_follows_from_what_is_given(environ: dict[str, str], api: object) -> None:
    """As the contract says."""
    assert a_container(**environ).pylon_api() == api


async def test_registry_is_the_one_that_is_named() -> None:
    """Made once, and used by the verifier and the admin application alike."""
    container = a_container()
    assert isinstance(container.registry(), SnapshotRegistry)
    assert container.registry() is container.registry()
    assert container.verifier()._registry is container.registry()
    assert isinstance(a_container(NEXUS_AUTH_REGISTRY="lookup").registry(), LookupRegistry)


async def test_auth_app_reads_the_configured_header() -> None:
    """The preset's, with what was said differently."""
    app: AuthApp = a_container(
        NEXUS_AUTH_PROXY="envoy",
        NEXUS_AUTH_REUSE_SECONDS="7",
        NEXUS_AUTH_TRUSTED_PROXIES="10.0.0.1",
    ).auth_app()
    assert app._gate.header == b"x-forwarded-client-cert"
    assert app._gate._der_from.__name__ == "der_from_xfcc"
    assert app._reuse == timedelta(seconds=7)
    assert app.fast_path.trusts(("10.0.0.1", 1), None)
    assert not app.fast_path.trusts(("10.0.0.2", 1), None)


def test_service_loads_no_framework_that_it_does_not_use() -> None:
    """dependency-injector would, where it finds one: memory and start-up are part of the deal."""
    script = (
        "import sys, nexus_auth.entrypoints.service\n"
        "unwanted = {'fastapi', 'opentelemetry', 'pydantic', 'pydantic_settings', 'redis'}\n"
        "print(*sorted(unwanted & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == ""


def test_no_store_is_opened_unless_one_is_named() -> None:
    """`none` is the default."""
    assert build_container(Settings.load(environ={})).shared_snapshots() is None


@pytest.mark.parametrize(
    ("location", "store"),
    [
        ("file:/var/lib/nexus-auth/snapshot.json", "FileStore"),
        ("redis://:pw@localhost:6379/0", "RedisStore"),
        ("rediss://localhost", "RedisStore"),
    ],
)
async def test_store_is_the_one_that_is_named(location: str, store: str) -> None:
    """Files and Redis, with and without TLS; nothing is opened yet."""
    settings = Settings.load(environ=_SECRET | {"NEXUS_AUTH_SNAPSHOT_STORE": location})
    shared = build_container(settings).shared_snapshots()
    assert shared is not None
    assert type(shared._store).__name__ == store
    assert "pw" not in repr(settings)
    await shared.aclose()


@pytest.mark.parametrize(
    "location",
    [
        "redis://:hush@localhost/0?socket_timeout=soon",
        "redis://:hush@localhost/0?no_such_option=1",
        "rediss://:hush@localhost/0?no_such_option=1",
        "rediss://:hush@localhost/0?ssl_cert_reqs=CERT_NONE",
        "redis://:hush@localhost/0?protocol=9",
    ],
)
def test_redis_url_that_cannot_be_read_is_a_configuration_error(location: str) -> None:
    """Said in one line, without the password."""
    settings = Settings.load(environ=_SECRET | {"NEXUS_AUTH_SNAPSHOT_STORE": location})
    with pytest.raises(ConfigurationError) as caught:
        build_container(settings).shared_snapshots()
    assert caught.value.setting == "NEXUS_AUTH_SNAPSHOT_STORE"
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://:pw@localhost:6380/1"])
@pytest.mark.parametrize("netuid", [{}, {"NEXUS_PYLON_NETUID": "12"}])
def test_redis_without_any_secret_is_refused(url: str, netuid: dict[str, str]) -> None:
    """Whoever can write to it would decide who is granted; TLS and a password do not seal."""
    store = {"NEXUS_AUTH_SNAPSHOT_STORE": url, **netuid}
    with pytest.raises(ConfigurationError, match="set NEXUS_AUTH_SNAPSHOT_STORE_SECRET") as caught:
        a_container(**store).shared_snapshots()
    assert caught.value.setting == "NEXUS_AUTH_SNAPSHOT_STORE"
    assert caught.value.source == "environment"
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "is_sealed"),
    [
        (_SECRET, True),
        (IDENTITY, True),
        ({"NEXUS_PYLON_NETUID": "12", "NEXUS_PYLON_OPEN_ACCESS_TOKEN": "secret"}, True),
        ({"NEXUS_AUTH_UNSAFE_UNSEALED_STORE": "true"}, False),
    ],
    ids=["secret", "identity", "open access", "unsafe"],
)
async def test_redis_is_sealed_unless_the_contrary_is_asked_for_by_name(
    more: dict[str, str], *, is_sealed: bool
) -> None:
    """With the secret of the store, or else a Pylon token."""
    settings = Settings.load(environ={"NEXUS_AUTH_SNAPSHOT_STORE": "redis://localhost", **more})
    assert settings.has_unsealed_network_store is not is_sealed
    shared = build_container(settings).shared_snapshots()
    assert shared is not None
    assert isinstance(shared._codec, RecordFormat)
    assert (shared._codec.secret is not None) is is_sealed
    await shared.aclose()


CHAIN = {
    "NEXUS_AUTH_SOURCE": "chain",
    "NEXUS_CHAIN_ENDPOINT": "ws://node",
    "NEXUS_PYLON_NETUID": "12",
}


@pytest.mark.parametrize(
    ("more", "is_sealed"),
    [(_SECRET, True), (IDENTITY, False), ({"NEXUS_PYLON_OPEN_ACCESS_TOKEN": "t"}, False)],
    ids=["secret", "identity", "open access"],
)
async def test_token_of_pylon_seals_nothing_that_the_chain_said(
    more: dict[str, str], *, is_sealed: bool
) -> None:
    """Pylon's operator, who knows it, is not trusted with keys here: Redis needs its own secret."""
    redis = {"NEXUS_AUTH_SNAPSHOT_STORE": "redis://localhost"}
    container = a_container(**CHAIN, **redis, **{k: v for k, v in more.items() if k not in CHAIN})
    if not is_sealed:
        with pytest.raises(ConfigurationError, match="set NEXUS_AUTH_SNAPSHOT_STORE_SECRET"):
            container.shared_snapshots()
        return
    shared = container.shared_snapshots()
    assert shared is not None
    assert isinstance(shared._codec, RecordFormat)
    assert shared._codec.secret is not None
    await shared.aclose()


def scope(**environ: str) -> str:
    """What the records of a service with these settings are kept under."""
    container = a_container(NEXUS_AUTH_SNAPSHOT_STORE="file:/nowhere/snapshot", **environ)
    shared = container.shared_snapshots()
    assert shared is not None
    assert isinstance(shared._codec, RecordFormat)
    return shared._codec.scope


def test_records_of_pylon_and_of_chains_never_mix() -> None:
    """One store may be shared by services of several subnets, chains and sources."""
    genesis = {"NEXUS_CHAIN_GENESIS": "0x" + "2f" * 32}
    scopes = [
        scope(NEXUS_PYLON_NETUID="12"),
        scope(**CHAIN),
        scope(**{**CHAIN, "NEXUS_PYLON_NETUID": "1"}),
        scope(**{**CHAIN, "NEXUS_CHAIN_ENDPOINT": "ws://elsewhere"}),
        scope(**CHAIN, **genesis),
    ]
    assert len(set(scopes)) == len(scopes)
    # The same chain by its name: replicas may prefer other nodes.
    assert scope(**{**CHAIN, "NEXUS_CHAIN_ENDPOINT": "ws://elsewhere"}, **genesis) == scopes[-1]


async def test_file_needs_no_secret() -> None:
    """It is its owner's alone, and is not believed otherwise."""
    settings = Settings.load(environ={"NEXUS_AUTH_SNAPSHOT_STORE": "file:/nowhere/snapshot"})
    assert not settings.has_unsealed_network_store
    assert build_container(settings).shared_snapshots() is not None


async def test_traces_are_made_only_where_they_are_wanted() -> None:
    """Off by default; with them, the application tells one observer more."""
    assert a_container().traces() is None
    assert len(a_container().auth_app()._observers) == 2
    traced = a_container(NEXUS_AUTH_TRACES="otlp")
    assert traced.auth_app()._observers[2] is traced.traces() is not None


def test_traces_without_their_packages_are_a_configuration_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The extra is named."""
    monkeypatch.delitem(sys.modules, "nexus_auth.adapters.observability.traces", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigurationError, match=re.escape("nexus-auth[otel]")):
        a_container(NEXUS_AUTH_TRACES="otlp").traces()


def test_policy_file_that_needs_neurons_of_the_chain_needs_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without it the service does not start; a policy that looks at no neurons needs none."""
    file = tmp_path / "policy.toml"
    environ = {
        "NEXUS_AUTH_SOURCE": "chain",
        "NEXUS_CHAIN_ENDPOINT": "ws://node:9944",
        "NEXUS_PYLON_NETUID": "1",
        "NEXUS_AUTH_POLICY_FILE": str(file),
    }
    file.write_text("[policies.validators]\nrequire_validator_permit = true\n")
    assert a_container(**environ).policies().needs_neurons()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'nexus-auth\[chain\]'") as caught:
        a_container(**environ).policies()
    assert caught.value.setting == "NEXUS_AUTH_POLICY_FILE"
    file.write_text("[policies.everyone]\n")
    assert not a_container(**environ).policies().needs_neurons()
