"""What matters about the manifests for the Gateway API."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.adapters.headers.names import FACT_HEADERS, HOTKEY_HEADER, XFCC_HEADER
from nexus_auth.adapters.proxies.configuration import build_configuration
from nexus_auth.adapters.proxies.site import UnsuitableSite
from tests.unit.adapters.proxies.test_configuration import GATEWAYS, site_for

KINDS = {
    "envoy-gateway": [
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("gateway.envoyproxy.io/v1alpha1", "ClientTrafficPolicy"),
        ("gateway.envoyproxy.io/v1alpha1", "SecurityPolicy"),
        ("gateway.envoyproxy.io/v1alpha1", "BackendTrafficPolicy"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ],
    "nginx-gateway-fabric": [
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("gateway.nginx.org/v1alpha1", "SnippetsFilter"),
        ("gateway.nginx.org/v1alpha1", "UpstreamSettingsPolicy"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ],
    "istio": [
        ("gateway.networking.k8s.io/v1", "Gateway"),
        ("security.istio.io/v1", "AuthorizationPolicy"),
        ("networking.istio.io/v1alpha3", "EnvoyFilter"),
        ("networking.istio.io/v1", "DestinationRule"),
        ("networking.istio.io/v1", "DestinationRule"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ],
}


def documents(proxy: str, **changes: Any) -> list[dict[str, Any]]:
    """The generated documents, in their order."""
    ((_, text),) = build_configuration(proxy, replace(site_for(proxy), **changes)).files
    return list(yaml.safe_load_all(text))


def spec(proxy: str, kind: str, **changes: Any) -> dict[str, Any]:
    """The spec of the first document of a kind."""
    found = next(each for each in documents(proxy, **changes) if each["kind"] == kind)
    inner: dict[str, Any] = found["spec"]
    return inner


@pytest.mark.parametrize("proxy", GATEWAYS)
def test_the_route_comes_after_all_that_protects_it(proxy: str) -> None:
    """What is applied in this order never lets anybody in for a moment."""
    assert [(each["apiVersion"], each["kind"]) for each in documents(proxy)] == KINDS[proxy]


@pytest.mark.parametrize("proxy", GATEWAYS)
def test_the_gateway_takes_routes_of_its_own_namespace_alone(proxy: str) -> None:
    """Another route on it would be a way around."""
    (listener,) = spec(proxy, "Gateway")["listeners"]
    assert listener["protocol"] == "HTTPS"
    assert listener["allowedRoutes"] == {"namespaces": {"from": "Same"}}
    assert listener["tls"]["mode"] == "Terminate"


@pytest.mark.parametrize("proxy", ["nginx-gateway-fabric", "istio"])
def test_no_authority_is_asked(proxy: str) -> None:
    """Every caller's certificate is its own authority."""
    validation = spec(proxy, "Gateway")["tls"]["frontend"]["default"]["validation"]
    assert validation["mode"] == "AllowInsecureFallback"


def test_envoy_gateway_fails_closed() -> None:
    """No answer, and no hotkey in an answer, let nobody in."""
    policy = spec("envoy-gateway", "SecurityPolicy")
    assert policy["extAuth"]["failOpen"] is False
    assert policy["authorization"]["defaultAction"] == "Deny"
    (rule,) = policy["authorization"]["rules"]
    assert rule["cel"] == "request.headers['x-hotkey'].matches('^5[1-9A-HJ-NP-Za-km-z]+$')"
    assert policy["extAuth"]["http"]["headersToBackend"] == [HOTKEY_HEADER, *FACT_HEADERS]


def test_envoy_gateway_shows_the_certificate_of_the_connection() -> None:
    """Nothing that a client sent under this name, and nothing but the certificate."""
    client = spec("envoy-gateway", "ClientTrafficPolicy")
    assert client["headers"]["xForwardedClientCert"] == {
        "mode": "SanitizeSet",
        "certDetailsToAdd": ["Cert"],
    }
    assert client["headers"]["withUnderscoresAction"] == "DropHeader"
    assert client["tls"]["clientValidation"] == {"mode": "Request"}
    assert client["tls"]["signatureAlgorithms"][0] == "ed25519"


def test_a_chosen_policy_is_set_and_not_removed() -> None:
    """Envoy Gateway allows one action for each header."""
    early = spec("envoy-gateway", "ClientTrafficPolicy", policy="a")["headers"]
    assert early["earlyRequestHeaders"]["set"] == [{"name": "X-Nexus-Auth-Policy", "value": "a"}]
    assert "x-nexus-auth-policy" not in early["earlyRequestHeaders"]["remove"]


def test_istio_is_asked_about_every_request_and_fails_closed() -> None:
    """Also where the AuthorizationPolicy is not there: the filter wants a hotkey."""
    policy = spec("istio", "AuthorizationPolicy")
    assert (policy["action"], policy["rules"]) == ("CUSTOM", [{}])
    ((_, text),) = build_configuration("istio", site_for("istio")).files
    assert "#       failOpen: false" in text.splitlines()
    tls, manager, required = spec("istio", "EnvoyFilter")["configPatches"]
    assert "ed25519" in str(tls)
    assert manager["patch"]["value"]["typed_config"]["forward_client_cert_details"] == (
        "SANITIZE_SET"
    )
    assert required["patch"]["operation"] == "INSERT_BEFORE"
    rules = required["patch"]["value"]["typed_config"]["rules"]
    assert rules["action"] == "ALLOW"


@pytest.mark.parametrize("proxy", ["envoy-gateway", "istio"])
def test_the_application_gets_no_certificate(proxy: str) -> None:
    """It has no use for it."""
    (rule,) = spec(proxy, "HTTPRoute")["rules"]
    (modifier,) = rule["filters"]
    assert XFCC_HEADER in modifier["requestHeaderModifier"]["remove"]


def test_nginx_gateway_fabric_shows_the_certificate_of_the_connection() -> None:
    """Its ExternalAuth filter would show a header of the client, so it is not used."""
    (rule,) = spec("nginx-gateway-fabric", "HTTPRoute")["rules"]
    assert [each["type"] for each in rule["filters"]] == ["ExtensionRef"]
    snippets = spec("nginx-gateway-fabric", "SnippetsFilter")["snippets"]
    server = {each["context"]: each["value"] for each in snippets}["http.server"]
    assert "proxy_pass_request_headers off;" in server
    assert "proxy_set_header X-Client-Cert $ssl_client_escaped_cert;" in server


@pytest.mark.parametrize(("seconds", "shown"), [(5, "3000ms"), (9999, "5999s")])
def test_the_application_s_connections_are_given_up_first(seconds: int, shown: str) -> None:
    """In few digits, as the schemas want it."""
    backend = spec("envoy-gateway", "BackendTrafficPolicy", app_keepalive=seconds)
    assert backend["timeout"]["http"]["connectionIdleTimeout"] == shown
    upstream = spec("nginx-gateway-fabric", "UpstreamSettingsPolicy", app_keepalive=seconds)
    assert upstream["keepAlive"]["timeout"] == shown


def test_without_keep_alive_no_connection_is_kept() -> None:
    """0 means that the application keeps none open."""
    backend = spec("envoy-gateway", "BackendTrafficPolicy", app_keepalive=0)
    assert backend["circuitBreaker"]["maxRequestsPerConnection"] == 1
    upstream = spec("nginx-gateway-fabric", "UpstreamSettingsPolicy", app_keepalive=0)
    assert upstream["keepAlive"] == {"connections": 0}


@pytest.mark.parametrize("proxy", GATEWAYS)
@pytest.mark.parametrize("argument", ["app", "auth"])
@pytest.mark.parametrize("host", ["127.0.0.1", "a.b", "-a", "a-", "A"])
def test_only_a_service_can_be_named(proxy: str, argument: str, host: str) -> None:
    """A manifest that no cluster would take is not written."""
    upstream: dict[str, Any] = {argument: TcpAddress(host, 80)}
    site = replace(site_for(proxy), **upstream)
    with pytest.raises(UnsuitableSite) as caught:
        build_configuration(proxy, site)
    assert caught.value.argument == argument
