from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus_auth.adapters.addresses import TcpAddress, UnixAddress
from nexus_auth.adapters.headers.names import (
    CERTIFICATE_HEADERS,
    FORGEABLE_HEADERS,
    POLICY_HEADER,
    with_underscores,
)
from nexus_auth.adapters.proxies.configuration import (
    AUTH_KEEPALIVE_SECONDS,
    Configuration,
    build_configuration,
)
from nexus_auth.adapters.proxies.site import Rate, Site, UnsuitableSite
from nexus_auth.adapters.proxies.table import CONFIGURABLE, PROXIES
from nexus_auth.adapters.uvicorn.head_protocol import HEAD_TIMEOUT_SECONDS
from nexus_auth.domain.policy import parse_policy_name

SITE = Site(
    listen=TcpAddress("", 443),
    app=TcpAddress("app", 8000),
    auth=TcpAddress("127.0.0.1", 8080),
    tls_cert="/tls/site.crt",
    tls_key="/tls/site.key",
)
ON_SOCKETS = replace(
    SITE, app=UnixAddress(Path("/run/app.sock")), auth=UnixAddress(Path("/run/nexus/auth.sock"))
)


def text_of(configuration: Configuration) -> str:
    """All the files in one."""
    return "\n".join(text for _, text in configuration.files)


@pytest.mark.parametrize("proxy", CONFIGURABLE)
def test_every_place_of_a_template_is_filled(proxy: str) -> None:
    """Nothing of the template's own language is left."""
    text = text_of(build_configuration(proxy, SITE))
    assert "@{" not in text
    assert "/tls/site.crt" in text
    assert "/tls/site.key" in text or build_configuration(proxy, SITE).links


@pytest.mark.parametrize("proxy", CONFIGURABLE)
def test_the_head_names_the_settings_of_the_service(proxy: str) -> None:
    """Proxy and service are set up to match."""
    head = build_configuration(proxy, SITE).files[0][1]
    assert f"NEXUS_AUTH_PROXY={proxy}" in head
    assert "NEXUS_AUTH_LISTEN_ADDR=127.0.0.1:8080" in head
    assert "NEXUS_AUTH_TRUSTED_PROXIES=127.0.0.1,::1" in head


@pytest.mark.parametrize("proxy", sorted(set(CONFIGURABLE) - {"traefik", "ingress-nginx"}))
def test_unix_sockets_are_reached_where_the_proxy_can(proxy: str) -> None:
    """Both upstreams can be sockets, and a socket needs no list of trusted proxies."""
    text = text_of(build_configuration(proxy, ON_SOCKETS))
    assert "/run/app.sock" in text
    assert "/run/nexus/auth.sock" in text
    assert "TRUSTED_PROXIES" not in text


@pytest.mark.parametrize("proxy", ["traefik", "ingress-nginx"])
def test_a_proxy_that_cannot_reach_a_socket_says_so(proxy: str) -> None:
    """A configuration that cannot work is not written."""
    with pytest.raises(UnsuitableSite) as caught:
        build_configuration(proxy, ON_SOCKETS)
    assert caught.value.argument == "auth"


@pytest.mark.parametrize("proxy", sorted(set(CONFIGURABLE) - {"nginx", "ingress-nginx"}))
def test_every_forgeable_header_is_removed_by_name(proxy: str) -> None:
    """The list in one place is the list in every configuration."""
    text = text_of(build_configuration(proxy, SITE)).lower()
    for name in FORGEABLE_HEADERS:
        # Envoy replaces this one by itself, and removes it before the application.
        assert name.lower() in text
    assert PROXIES[proxy].header.name.lower() in text


REMOVES = {
    "nginx": r'^ +proxy_set_header (\S+) "";$',
    "envoy": r'^ +- remove: "(\S+)"$',
    "traefik": r'^ +(\S+): ""$',
    "caddy": r"^\t\trequest_header -(\S+)$",
    "haproxy": r"^    http-request del-header ([A-Za-z.-]+)$",
}
"""How each language removes a header. ingress-nginx cannot: its page says what to believe."""

OTHERS_REMOVED = {
    *("trailer", "te", "upgrade", "connection", "forwarded", "content-length"),
    *("authorization", "cookie", "*_*", "x-forwarded-method", "x-forwarded-uri"),
}
"""What is removed for other reasons than that it could be forged."""


@pytest.mark.parametrize("proxy", REMOVES)
def test_what_a_configuration_removes_is_what_the_table_lists(proxy: str) -> None:
    """No name stands in a template alone: a header that is added to the table reaches them all."""
    text = text_of(build_configuration(proxy, SITE))
    removed = {name.lower() for name in re.findall(REMOVES[proxy], text, re.MULTILINE)}
    # nginx overwrites X-Hotkey and its facts, and drops names with dots (ignore_invalid_headers).
    listed = (POLICY_HEADER, *CERTIFICATE_HEADERS) if proxy == "nginx" else FORGEABLE_HEADERS
    expected = {name.lower() for name in listed}
    if proxy == "traefik":
        expected = {each for name in expected for each in with_underscores(name)}
    assert removed - OTHERS_REMOVED == expected


@pytest.mark.parametrize("proxy", ["envoy", "traefik", "ingress-nginx"])
def test_yaml_is_yaml(proxy: str) -> None:
    """The files parse, whatever the proxy thinks of them."""
    for _, text in build_configuration(proxy, SITE).files:
        assert all(isinstance(document, dict) for document in yaml.safe_load_all(text))


def test_files_name_one_another_in_their_folder() -> None:
    """Where the folder is known, nothing depends on where the proxy is started."""
    text = text_of(build_configuration("haproxy", SITE, directory="/etc/x"))
    assert "lua-load /etc/x/nexus_auth.lua" in text
    text = text_of(build_configuration("traefik", SITE, directory="/etc/x/"))
    assert 'filename: "/etc/x/traefik-routes.yml"' in text


def test_an_ipv6_listener_is_written_as_each_proxy_wants_it() -> None:
    """Brackets where they belong."""
    site = replace(SITE, listen=TcpAddress("::1", 443))
    assert "listen [::1]:443 ssl" in text_of(build_configuration("nginx", site))
    assert 'address: "::1", port_value: 443' in text_of(build_configuration("envoy", site))
    assert "bind ::1" in text_of(build_configuration("caddy", site))


@pytest.mark.parametrize("proxy", CONFIGURABLE)
def test_a_policy_is_named_once_and_only_where_one_is_wanted(proxy: str) -> None:
    """Without a name the service's default holds, and a client's own header is removed anyway."""
    plain = text_of(build_configuration(proxy, SITE))
    named = text_of(build_configuration(proxy, replace(SITE, policy="my-policy")))
    assert "my-policy" not in plain
    assert "my-policy" in named
    # The service knows no policy by name unless it is given a file.
    assert "NEXUS_AUTH_POLICY_FILE" not in plain
    assert "NEXUS_AUTH_POLICY_FILE" in named
    for text in (plain, named):
        lower = text.lower()
        assert "x-nexus-auth-policy" in lower
        for fact in ("uid", "validator", "stake"):
            assert f"x-hotkey-{fact}" in lower


@pytest.mark.parametrize("name", ["", "a b", "a;", "a\n", '"', "$x", "é", "a" * 65, "-a", "{a}"])
def test_a_name_that_no_policy_can_have_is_refused(name: str) -> None:
    """Nothing in a name has a meaning in any configuration language."""
    with pytest.raises(ValueError, match="1 to 64"):
        parse_policy_name(name)


def test_a_connection_is_given_up_before_the_service_closes_it() -> None:
    """The proxy's idle time is clearly shorter than the other side's."""
    assert AUTH_KEEPALIVE_SECONDS == HEAD_TIMEOUT_SECONDS


@pytest.mark.parametrize("proxy", CONFIGURABLE)
@pytest.mark.parametrize(
    ("argument", "value"),
    [("rate", Rate(20, 1)), ("resolver", (TcpAddress("10.0.0.2", 53),))],
)
def test_an_argument_is_followed_or_refused(proxy: str, argument: str, value: object) -> None:
    """A limit that was asked for and is not there would be believed in."""
    without = replace(SITE, auth=TcpAddress("auth", 8080))
    given: dict[str, Any] = {argument: value}
    site = replace(without, **given)
    if argument in PROXIES[proxy].options:
        assert build_configuration(proxy, site) != build_configuration(proxy, without)
        return
    with pytest.raises(UnsuitableSite) as caught:
        build_configuration(proxy, site)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (Rate(20, 1), {"average": 20, "period": "1s", "burst": 20}),
        (Rate(300, 60), {"average": 300, "period": "60s", "burst": 5}),
        (Rate(3, 60), {"average": 3, "period": "60s", "burst": 1}),
    ],
)
def test_traefik_allows_no_burst_that_a_pause_of_a_second_would_bring_back(
    rate: Rate, expected: dict[str, object]
) -> None:
    """It forgets a caller after that pause: a burst of 300 would mean 300 in every second."""
    text = build_configuration("traefik", replace(SITE, rate=rate)).files[1][1]
    http = yaml.safe_load(text)["http"]
    by_caller = {"sourceCriterion": {"requestHeaderName": "X-Hotkey"}}
    assert http["middlewares"]["limit-rate"]["rateLimit"] == expected | by_caller
    # After the gate has named the caller: a client's own header is gone by then.
    assert http["routers"]["app"]["middlewares"][0] == "limit-rate"


def test_traefik_gives_up_an_idle_connection_before_the_application_does() -> None:
    """Zero would mean for ever, so an application without keep-alive has a setting of its own."""

    def transport(seconds: int) -> dict[str, object]:
        site = replace(SITE, app_keepalive=seconds)
        text = build_configuration("traefik", site).files[1][1]
        found: dict[str, object] = yaml.safe_load(text)["http"]["serversTransports"]["app"]
        return found

    assert transport(5) == {"forwardingTimeouts": {"idleConnTimeout": "3000ms"}}
    assert transport(0) == {"maxIdleConnsPerHost": -1}
