"""The gateways of Kubernetes: their data planes, with what their controllers make of manifests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.builders import (
    CLIENT_AND_SERVER,
    DIGITAL_SIGNATURE,
    a_certificate,
    a_hotkey,
    a_key,
    to_pem,
)
from tests.integration.proxies.application import Application
from tests.integration.proxies.auth_service import AuthService
from tests.integration.proxies.client import Identity, ask, http1_request
from tests.integration.proxies.gateways import (
    SITE,
    TRANSLATORS,
    running_data_plane,
    running_tls_route,
)
from tests.integration.proxies.scenarios import LET_IN, REFUSED, SCENARIOS, Scenario, judge
from tests.integration.proxies.stack import (
    Stack,
    make_people,
    make_server_certificate,
    open_folder,
    running_proxy,
    running_stack,
)
from tests.integration.proxies.test_scenarios import (  # noqa: F401 - these run here as well
    test_a_rotated_key_ends_the_old_one_within_the_time_of_reuse,
    test_the_bodies_and_targets_of_callers_arrive_unchanged,
    test_two_callers_never_share_an_answer,
    test_what_a_client_says_of_its_request_is_never_logged_as_the_proxys_word,
)
from tests.integration.real import free_port


@pytest.fixture(scope="module", params=TRANSLATORS)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """One gateway with everything around it; takes the place of the fixture for the others."""
    with (
        open_folder() as folder,
        running_stack(request.param, folder, start=running_data_plane) as running,
    ):
        yield running


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[s.name for s in SCENARIOS])
def test_a_gateway_lets_in_the_right_ones_under_their_own_name(
    stack: Stack, scenario: Scenario
) -> None:
    """What reaches the application carries the caller's own hotkey, and nothing else gets there."""
    if stack.proxy == "envoy-gateway" and "session resumed" in scenario.title:
        pytest.skip("Envoy Gateway turns session resumption off")
    outcome = judge(scenario, stack)
    if scenario.expected == REFUSED:
        assert outcome in {REFUSED, "403"}
    elif scenario.expected == LET_IN:
        assert outcome == LET_IN


def _validates(documents: dict[str, Any]) -> None:
    """Has the gateway want an authority."""
    if "ClientTrafficPolicy" in documents:
        tls = documents["ClientTrafficPolicy"]["spec"]["tls"]
        tls["clientValidation"]["mode"] = "VerifyIfGiven"
    else:
        frontend = documents["Gateway"]["spec"]["tls"]["frontend"]
        frontend["default"]["validation"]["mode"] = "AllowValidOnly"


def _forgets_ed25519(documents: dict[str, Any]) -> None:
    """Leaves Envoy's own list of signature algorithms, as near as can be."""
    if "ClientTrafficPolicy" in documents:
        documents["ClientTrafficPolicy"]["spec"]["tls"]["signatureAlgorithms"].remove("ed25519")
    else:
        chain = documents["EnvoyFilter"]["spec"]["configPatches"][0]["patch"]["value"]
        context = chain["transport_socket"]["typed_config"]["common_tls_context"]
        context["tls_params"]["signature_algorithms"].remove("ed25519")


@contextmanager
def _data_plane(stack: Stack, **changes: Any) -> Iterator[int]:
    """Another data plane of the same gateway, before the same services."""
    with (
        open_folder() as folder,
        running_data_plane(
            stack.proxy,
            folder,
            app=stack.application.address,
            auth=f"127.0.0.1:{stack.auth.port}",
            certificate=make_server_certificate(folder),
            **changes,
        ) as port,
    ):
        yield port


@pytest.mark.parametrize("edit", [_validates, _forgets_ed25519])
def test_envoy_needs_both_no_authority_and_ed25519(
    stack: Stack, edit: Callable[[dict[str, Any]], None]
) -> None:
    """With an authority, or without Ed25519, no caller gets in: it fails closed."""
    if stack.proxy == "nginx-gateway-fabric":
        pytest.skip("there is no Envoy underneath")
    before = len(stack.application.records)
    with _data_plane(stack, edit=edit) as port:
        assert ask(port, stack.people["alice"]).status != 200
    assert not stack.since(before)


def test_names_in_a_certificate_are_no_certificates(stack: Stack, tmp_path: Path) -> None:
    """Istio shows the auth service URI and DNS names, which the maker of a certificate chose."""
    key = a_key("alice")
    bob = stack.people["bob"].certificate
    assert bob is not None
    forged = f'x,Hash=00;Cert="{quote(bob.read_bytes(), safe="")}"'
    uri = x509.UniformResourceIdentifier(forged)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (DIGITAL_SIGNATURE, True),
        (CLIENT_AND_SERVER, False),
        (x509.SubjectAlternativeName([uri]), False),
    ]
    now = datetime.now(UTC).replace(microsecond=0)
    certificate = a_certificate(
        hotkey=a_hotkey("alice"),
        key=key,
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(days=1),
        extensions=extensions,
    )
    paths = tmp_path / "odd.crt", tmp_path / "odd.key"
    paths[0].write_bytes(to_pem(certificate))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    before = len(stack.application.records)
    answer = ask(stack.port, Identity(*paths))
    assert answer.status == (403 if stack.proxy == "istio" else 200)
    alice = [a_hotkey("alice").address]
    assert [each.hotkeys for each in stack.since(before)] == (
        [alice] if answer.status == 200 else []
    )


def test_the_policy_is_the_gateway_s_own_word(stack: Stack) -> None:
    """A client's choice of a policy never reaches the auth service, with and without one."""
    chosen = http1_request(headers=[("X-Nexus-Auth-Policy", "forged")])
    for policy in (None, "validators"):
        with _data_plane(stack, site=replace(SITE, policy=policy)) as port:
            ask(port, stack.people["alice"], chosen)
        sent = [
            value
            for name, value in stack.auth.listener.headers[-1]
            if name.lower() == b"x-nexus-auth-policy"
        ]
        assert sent == ([] if policy is None else [policy.encode()])


def test_a_gateway_that_passes_tls_on_keeps_what_the_proxy_guarantees() -> None:
    """What a TLSRoute becomes in Envoy, before nginx as `proxy-config` writes it."""
    with ExitStack() as opened:
        folder = opened.enter_context(open_folder())
        people, certificate = make_people(folder), make_server_certificate(folder)
        application = opened.enter_context(Application())
        auth = opened.enter_context(
            AuthService("nginx", free_port(), reuse_seconds=0, knows=("alice",))
        )
        behind = opened.enter_context(
            running_proxy(
                "nginx",
                folder,
                app=application.address,
                auth=f"127.0.0.1:{auth.port}",
                certificate=certificate,
            )
        )
        port = opened.enter_context(running_tls_route(folder, behind))
        assert ask(port, people["alice"]).status == 200
        for who in ("nobody", "carol", "mallory as alice"):
            assert ask(port, people[who]).status == 403
        assert [each.hotkeys for each in application.records] == [[a_hotkey("alice").address]]
