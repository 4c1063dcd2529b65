"""What `nexus_auth.testing` promises to those who test against us."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from nexus_auth import DenialReason, Denied, Granted, KeyRegistry
from nexus_auth.adapters.starlette.middleware import NexusAuthMiddleware
from nexus_auth.testing import InMemoryRegistry, Subnet, build_certificate, hotkey_named, key_named

EXAMPLE = """
import pytest
from app import make_app
from starlette.testclient import TestClient


def test_only_registered_callers_enter(subnet):
    client = TestClient(make_app(subnet.verifier), client=("127.0.0.1", 50000))
    alice, mallory = subnet.register("alice"), subnet.stranger("mallory")
    assert client.get("/", headers=alice.headers).text == alice.hotkey.address
    assert client.get("/", headers=mallory.headers).status_code == 403
"""
APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from nexus_auth.adapters.starlette.middleware import NexusAuthMiddleware


async def whoami(request):
    return PlainTextResponse(request.user.hotkey.address)


def make_app(verifier):
    app = Starlette(routes=[Route("/", whoami)])
    return NexusAuthMiddleware(app, verifier=verifier, trusted_proxies=["127.0.0.1"])
"""

pytest_plugins = ["pytester"]


def test_ten_lines_test_an_application(pytester: pytest.Pytester) -> None:
    """The example of the docstring, run as somebody else's project."""
    pytester.makeini("[pytest]")  # not that of a checkout in which temporary folders may lie
    pytester.makeconftest('pytest_plugins = ["nexus_auth.testing.pytest_plugin"]')
    pytester.makepyfile(app=APP, test_app=EXAMPLE)
    pytester.syspathinsert()
    # Plugins of ours, not of the example; loading them takes a second.
    needless = ("-p", "no:hypothesispytest", "-p", "no:xdist")
    pytester.runpytest_subprocess("-q", *needless).assert_outcomes(passed=1)
    assert len(EXAMPLE.strip().splitlines()) <= 10


async def reason(subnet: Subnet, presented: bytes) -> DenialReason | None:
    """The code of a denial, None for a grant."""
    match await subnet.verifier.verify(presented):
        case Granted():
            return None
        case Denied(reason=code):
            return code


async def test_people_of_a_subnet() -> None:
    """Each kind of caller gets the decision that it stands for."""
    subnet = Subnet()
    alice = subnet.register("alice")
    assert await reason(subnet, alice.pem) is None
    assert await reason(subnet, alice.der) is None
    assert await reason(subnet, subnet.stranger("bob").pem) is DenialReason.NOT_REGISTERED
    assert await reason(subnet, subnet.impostor(alice).pem) is DenialReason.KEY_MISMATCH
    renewed = subnet.rotate(alice)
    assert await reason(subnet, renewed.pem) is None
    assert await reason(subnet, alice.pem) is DenialReason.KEY_MISMATCH
    subnet.registry.unregister(alice.hotkey)
    assert await reason(subnet, renewed.pem) is DenialReason.NOT_REGISTERED
    subnet.registry.unregister(alice.hotkey)
    subnet.registry.available = False
    assert await reason(subnet, renewed.pem) is DenialReason.REGISTRY_UNAVAILABLE


def test_unusable_key_cannot_be_registered() -> None:
    """The registry of the tests is as strict as the real ones."""
    with pytest.raises(ValueError, match="registered key"):
        InMemoryRegistry().register(hotkey_named("alice"), bytes(32))


def test_registry_fulfils_the_port() -> None:
    """It can stand wherever a real one does."""
    registry: KeyRegistry = InMemoryRegistry()
    assert registry.peek(hotkey_named("alice")) is None


def test_names_make_the_same_people_every_time() -> None:
    """A failing test can be repeated."""
    assert Subnet().register("alice").hotkey == hotkey_named("alice")
    assert Subnet().stranger("alice").public_key == Subnet().register("alice").public_key


def test_private_keys_are_not_shown() -> None:
    """Not even invented ones, so that nobody gets used to it."""
    assert "rivate" not in repr(Subnet().register("alice"))


def test_built_certificate_is_valid_today_by_default() -> None:
    """The builder goes by the clock on the wall."""
    certificate = build_certificate(hotkey=hotkey_named("alice"), key=key_named("alice"))
    assert certificate.not_valid_before_utc < certificate.not_valid_after_utc


async def test_headers_open_an_application() -> None:
    """What a test client sends is what nginx would."""
    subnet = Subnet()
    alice = subnet.register("alice")

    async def whoami(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.user.hotkey.address)

    app = NexusAuthMiddleware(
        Starlette(routes=[Route("/", whoami)]),
        verifier=subnet.verifier,
        trusted_proxies=["127.0.0.1"],
    )
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 50000))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        assert (await client.get("/", headers=alice.headers)).text == alice.hotkey.address
        assert (await client.get("/")).status_code == 403
