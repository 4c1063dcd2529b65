"""What is made of which settings."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest
from dependency_injector import errors

from nexus_auth.adapters.pylon.api import FirstGenerationApi, IdentityApi, OpenAccessApi
from nexus_auth.adapters.registry.lookup import LookupRegistry
from nexus_auth.adapters.registry.snapshot import SnapshotRegistry
from nexus_auth.adapters.starlette.auth_app import AuthApp
from nexus_auth.entrypoints.container import Container, build_container
from nexus_auth.entrypoints.settings import Settings

IDENTITY = {
    "NEXUS_PYLON_NETUID": "12",
    "NEXUS_PYLON_IDENTITY_NAME": "miner",
    "NEXUS_PYLON_IDENTITY_TOKEN": "secret",
}


def a_container(**environ: str) -> Container:
    """A container for these settings."""
    return build_container(Settings.load(environ=environ))


def test_every_dependency_is_there() -> None:
    """Nothing is left to be filled in."""
    a_container().check_dependencies()


def test_option_that_nobody_set_is_an_error() -> None:
    """It does not read as None."""
    with pytest.raises(errors.Error):
        Container().config.pylon_endpoint()


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
    assert app.header == b"x-forwarded-client-cert"
    assert app._der_from.__name__ == "der_from_xfcc"
    assert app._reuse == timedelta(seconds=7)
    assert app.trusts(("10.0.0.1", 1))
    assert not app.trusts(("10.0.0.2", 1))


def test_service_loads_no_framework_that_it_does_not_use() -> None:
    """dependency-injector would, where it finds one: memory and start-up are part of the deal."""
    script = (
        "import sys, nexus_auth.entrypoints.service\n"
        "print(*sorted({'fastapi', 'pydantic', 'pydantic_settings', 'redis'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == ""
