"""Uses the public API as a caller would. Only type-checked, never run."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta
from pathlib import Path
from typing import assert_never, assert_type

import httpx
from django.core.wsgi import get_wsgi_application
from flask import Flask

import nexus_auth
from nexus_auth import (
    AccessPolicy,
    CertificateRejected,
    CertificateVerifier,
    ClientCertificate,
    Clock,
    Decision,
    DenialReason,
    Denied,
    Granted,
    Hotkey,
    InvalidHotkey,
    KeyRegistry,
    MinStake,
    Neuron,
    NotHotkeys,
    Registration,
    RegistryUnavailable,
    StakeKind,
    SyncVerifier,
    client,
    connect,
    connect_chain,
    evaluate,
    utc_now,
)
from nexus_auth.testing import Caller, InMemoryRegistry, Subnet
from nexus_auth.wsgi import UNIX_SOCKET, NexusAuthMiddleware, der_from_header


class OwnRegistry:
    """A registry of the caller's own, without a base class."""

    def peek(self, hotkey: Hotkey) -> Registration | None:
        """As the port says."""
        return None

    async def lookup(self, hotkey: Hotkey, *, presented: bytes) -> Registration | None:
        """As the port says."""
        if hotkey.account_id == presented:
            raise RegistryUnavailable("away")
        return Registration(public_key=presented, expires_at=utc_now() + timedelta(minutes=1))


async def decide() -> str:
    """Opens a verifier, and takes both kinds of decision apart."""
    async with connect("http://pylon:8000", netuid=12) as verifier:
        assert_type(verifier, CertificateVerifier)
        decision = await verifier.verify(b"", policy=AccessPolicy(name="all"))
        assert_type(decision, Granted | Denied)
        match decision:
            case Granted(hotkey=hotkey, expires_at=expires_at, neuron=neuron):
                assert_type(hotkey, Hotkey)
                assert_type(expires_at, datetime)
                assert_type(neuron, Neuron | None)
                return hotkey.address
            case Denied(reason=reason, detail=detail):
                assert_type(reason, DenialReason)
                return f"{reason.value} {reason.body} {detail}"
            case _:
                assert_never(decision)


async def decide_by_the_chain() -> Decision:
    """The same without a Pylon; the nodes are named in the order of preference."""
    async with connect_chain("wss://node:443", "http://127.0.0.1:9944", netuid=12) as verifier:
        assert_type(verifier, CertificateVerifier)
        return await verifier.verify(b"")


def decide_without_a_loop(certificate: str | None) -> Decision:
    """The synchronous form, around `connect` and around a verifier."""
    with SyncVerifier(lambda: connect("http://pylon:8000")) as verifier:
        assert_type(verifier, SyncVerifier)
        verifier.verify(certificate)
    return SyncVerifier(verifier_over(OwnRegistry()), timeout_seconds=3.0).verify(certificate)


def verifier_over(registry: KeyRegistry, clock: Clock = utc_now) -> CertificateVerifier:
    """Any registry and any clock will do."""
    return CertificateVerifier(
        registry=registry, clock=clock, leeway=timedelta(seconds=10), remember=100
    )


def read(text: str) -> tuple[Hotkey, ClientCertificate] | None:
    """Parses what strangers wrote."""
    try:
        return Hotkey.parse(text), ClientCertificate.from_pem(text)
    except (InvalidHotkey, CertificateRejected):
        return None


def decide_purely(certificate: ClientCertificate, registration: Registration) -> Decision:
    """The pure function, with a policy."""
    rules = (MinStake(StakeKind.ALPHA, 10.0), NotHotkeys(frozenset({certificate.hotkey})))
    policy = AccessPolicy(name="some", rules=rules)
    return evaluate(certificate, registration, utc_now(), policy=policy)


def guard_wsgi(verifier: SyncVerifier) -> NexusAuthMiddleware:
    """Around applications of Flask and Django, with each kind of verifier."""
    app = Flask("app")
    inner = NexusAuthMiddleware(app.wsgi_app, verifier=verifier, trusted_proxies=[UNIX_SOCKET])
    app.wsgi_app = inner  # type: ignore[method-assign]
    NexusAuthMiddleware(
        app,
        verifier=lambda: connect("http://pylon:8000", netuid=12),
        trusted_proxies=("10.0.0.0/8",),
        header="X-Forwarded-Tls-Client-Cert",
        header_format="base64-der",
        policy=AccessPolicy(name="all"),
    )
    return NexusAuthMiddleware(
        get_wsgi_application(),
        verifier=verifier_over(OwnRegistry()),
        trusted_proxies=["127.0.0.1"],
        on_denial="anonymous",
        server_keeps_trailers_apart=True,
        proxy_removes_spellings=True,
    )


def decode(value: str) -> ClientCertificate:
    """What a proxy sends."""
    assert_type(der_from_header(value.encode(), header_format="xfcc"), bytes)
    return ClientCertificate.from_der(der_from_header(value, proxy="caddy"))


def test_an_application() -> Caller:
    """What the helpers for tests give."""
    subnet = Subnet()
    assert_type(subnet.registry, InMemoryRegistry)
    return subnet.rotate(subnet.register("alice"))


async def call(hotkey: Hotkey) -> int:
    """Calls hotkeys, with one's own registry as well."""
    async with client.connect("http://pylon:8000", netuid=12, certificates="./certs") as caller:
        assert_type(caller, client.Caller)
        assert_type(await caller.tls_context(hotkey.address), ssl.SSLContext)
        async with caller.http_client(hotkeys={"miner:8443": hotkey}, timeout=3.0) as http:
            assert_type(http, httpx.AsyncClient)
            try:
                answer = await http.get("https://miner:8443/", extensions={"hotkey": hotkey})
            except client.ServerKeyMismatch as exc:
                assert_type(exc.expected, str)
                assert_type(exc.found, str | None)
            else:
                return answer.status_code
    async with client.connect_chain("wss://node:443", netuid=12, certificates=Path("certs")):
        return 0


def call_without_a_loop(hotkey: Hotkey) -> None:
    """The synchronous form, around `connect` and around a caller."""
    with client.SyncCaller(client.Caller(registry=OwnRegistry())) as caller:
        assert_type(caller.tls_context(hotkey), ssl.SSLContext)
    with (
        client.SyncCaller(
            lambda: client.connect("http://pylon:8000"), timeout_seconds=3.0
        ) as other,
        other.http_client() as http,
    ):
        assert_type(http, httpx.Client)


VERSION: str = nexus_auth.__version__
