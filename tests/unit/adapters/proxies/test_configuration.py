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
    XFCC_HEADER,
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

GATEWAYS = ("envoy-gateway", "nginx-gateway-fabric", "istio")
"""The implementations of the Gateway API."""


def site_for(proxy: str, site: Site = SITE) -> Site:
    """The site as this proxy can do it: with a name server, or with Services alone."""
    if proxy in GATEWAYS:
        return replace(site, auth=TcpAddress("nexus-auth", 8080))
    if "resolver" not in PROXIES[proxy].options:
        return site
    return replace(site, resolver=(TcpAddress("10.0.0.9", 53),))


def text_of(configuration: Configuration) -> str:
    """All the files in one."""
    return "\n".join(text for _, text in configuration.files)


@pytest.mark.parametrize("proxy", CONFIGURABLE)
def test_every_place_of_a_template_is_filled(proxy: str) -> None:
    """Nothing of the template's own language is left."""
    text = text_of(build_configuration(proxy, site_for(proxy)))
    assert "@{" not in text
    assert "/tls/site.crt" in text
    assert "/tls/site.key" in text or build_configuration(proxy, site_for(proxy)).links


@pytest.mark.parametrize("proxy", sorted(set(CONFIGURABLE) - set(GATEWAYS)))
def test_the_head_names_the_settings_of_the_service(proxy: str) -> None:
    """Proxy and service are set up to match."""
    head = build_configuration(proxy, site_for(proxy)).files[0][1]
    assert f"NEXUS_AUTH_PROXY={proxy}" in head
    assert "NEXUS_AUTH_LISTEN_ADDR=127.0.0.1:8080" in head
    assert "NEXUS_AUTH_TRUSTED_PROXIES=127.0.0.1,::1" in head


@pytest.mark.parametrize(
    "proxy", sorted(set(CONFIGURABLE) - {"traefik", "ingress-nginx", *GATEWAYS})
)
def test_unix_sockets_are_reached_where_the_proxy_can(proxy: str) -> None:
    """Both upstreams can be sockets, and a socket needs no list of trusted proxies."""
    text = text_of(build_configuration(proxy, ON_SOCKETS))
    assert "/run/app.sock" in text
    assert "/run/nexus/auth.sock" in text
    assert "TRUSTED_PROXIES" not in text


@pytest.mark.parametrize("proxy", ["traefik", "ingress-nginx", *GATEWAYS])
def test_a_proxy_that_cannot_reach_a_socket_says_so(proxy: str) -> None:
    """A configuration that cannot work is not written."""
    with pytest.raises(UnsuitableSite) as caught:
        build_configuration(proxy, ON_SOCKETS)
    assert caught.value.argument in {"app", "auth"}


LIKE_NGINX = {"nginx", "nginx-gateway-fabric"}
"""They overwrite X-Hotkey and its facts, and drop names with dots."""


@pytest.mark.parametrize("proxy", sorted(set(CONFIGURABLE) - LIKE_NGINX - {"ingress-nginx"}))
def test_every_forgeable_header_is_removed_by_name(proxy: str) -> None:
    """The list in one place is the list in every configuration."""
    text = text_of(build_configuration(proxy, site_for(proxy))).lower()
    for name in FORGEABLE_HEADERS:
        # Envoy replaces this one by itself, and removes it before the application.
        assert name.lower() in text
    assert PROXIES[proxy].header.name.lower() in text


REMOVES = {
    "nginx": r'^ +proxy_set_header (\S+) "";$',
    "envoy": r'^ +- remove: "(\S+)"$',
    "traefik": r'^ +(\S+): ""$',
    "caddy": r"^\t\trequest_header -(\S+)$",
    "envoy-gateway": r"^      - ([A-Za-z.-]+)$",
    "nginx-gateway-fabric": r'^ +proxy_set_header (\S+) "";$',
    "istio": r'^ +- remove: "(\S+)"$',
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
    text = text_of(build_configuration(proxy, site_for(proxy)))
    removed = {name.lower() for name in re.findall(REMOVES[proxy], text, re.MULTILINE)}
    like_nginx = proxy in LIKE_NGINX
    listed = (POLICY_HEADER, *CERTIFICATE_HEADERS) if like_nginx else FORGEABLE_HEADERS
    expected = {name.lower() for name in listed}
    if proxy == "traefik":
        expected = {each for name in expected for each in with_underscores(name)}
    if proxy in {"envoy-gateway", "istio"}:
        expected.discard(XFCC_HEADER.lower())  # Envoy replaces it by itself.
    assert removed - OTHERS_REMOVED == expected


@pytest.mark.parametrize("proxy", ["envoy", "traefik", "ingress-nginx", *GATEWAYS])
def test_yaml_is_yaml(proxy: str) -> None:
    """The files parse, whatever the proxy thinks of them."""
    for _, text in build_configuration(proxy, site_for(proxy)).files:
        assert all(isinstance(document, dict) for document in yaml.safe_load_all(text))


def test_files_name_one_another_in_their_folder() -> None:
    """Where the folder is known, nothing depends on where the proxy is started."""
    text = text_of(build_configuration("haproxy", SITE, directory="/etc/x"))
    assert "lua-load /etc/x/nexus_auth.lua" in text
    text = text_of(build_configuration("traefik", SITE, directory="/etc/x/"))
    assert 'filename: "/etc/x/traefik-routes.yml"' in text


def test_an_ipv6_listener_is_written_as_each_proxy_wants_it() -> None:
    """Brackets where they belong."""
    site = site_for("nginx", replace(SITE, listen=TcpAddress("::1", 443)))
    assert "listen [::1]:443 ssl" in text_of(build_configuration("nginx", site))
    assert 'address: "::1", port_value: 443' in text_of(
        build_configuration("envoy", replace(site, resolver=()))
    )
    assert "bind ::1" in text_of(build_configuration("caddy", replace(site, resolver=())))


def test_caddy_closes_an_idle_connection_first() -> None:
    """A duration of 0 would mean for ever, so that `off` is written for no keep-alive."""
    usual = text_of(build_configuration("caddy", SITE))
    assert re.findall(r"keepalive (\w+)", usual) == ["off", "3000ms"]
    without = text_of(build_configuration("caddy", replace(SITE, app_keepalive=0)))
    assert re.findall(r"keepalive (\w+)", without) == ["off", "off"]


def test_caddy_is_reloaded_with_its_own_file_over_a_socket() -> None:
    """The command names the file where the folder is known; the endpoint is on no network."""
    placed = text_of(build_configuration("caddy", SITE, directory="/etc/x"))
    assert '-after-change "caddy reload --force' in placed
    assert "--config /etc/x/Caddyfile" in placed
    assert "--config /path/to/Caddyfile" in text_of(build_configuration("caddy", SITE))
    assert re.findall(r"^\tadmin (.+)$", placed, re.MULTILINE) == [
        "unix//var/lib/caddy/nexus-auth-admin.sock"
    ]
    elsewhere = text_of(build_configuration("caddy", replace(SITE, state_dir="/run/caddy/")))
    assert "admin unix//run/caddy/nexus-auth-admin.sock\n" in elsewhere


def test_caddy_asks_the_given_name_servers_on_both_legs_over_udp() -> None:
    """Its own way with a plain address is TCP, which not every name server answers."""
    servers = TcpAddress("10.0.0.2", 53), TcpAddress("::1", 5353)
    text = text_of(build_configuration("caddy", replace(SITE, resolver=servers)))
    assert text.count("resolvers udp/10.0.0.2:53 udp/[::1]:5353\n") == 2


def test_caddy_says_what_to_do_instead_of_a_rate() -> None:
    """Its rate limit is a module that only a Caddy built for it has."""
    with pytest.raises(UnsuitableSite, match="the application can count"):
        build_configuration("caddy", replace(SITE, rate=Rate(20, 1)))


@pytest.mark.parametrize("proxy", CONFIGURABLE)
def test_a_policy_is_named_once_and_only_where_one_is_wanted(proxy: str) -> None:
    """Without a name the service's default holds, and a client's own header is removed anyway."""
    plain = text_of(build_configuration(proxy, site_for(proxy)))
    named = text_of(build_configuration(proxy, replace(site_for(proxy), policy="my-policy")))
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
    without = site_for(proxy, replace(SITE, auth=TcpAddress("auth", 8080)))
    given: dict[str, Any] = {argument: value}
    site = replace(without, **given)
    if argument in PROXIES[proxy].options:
        assert build_configuration(proxy, site) != build_configuration(proxy, without)
        return
    with pytest.raises(UnsuitableSite) as caught:
        build_configuration(proxy, site)
    assert caught.value.argument == argument


def test_nginx_needs_a_name_server_for_a_name_alone() -> None:
    """It looks a name in an upstream block up once, at its start."""
    with pytest.raises(UnsuitableSite, match="address to find app") as caught:
        build_configuration("nginx", SITE)
    assert caught.value.argument == "resolver"
    for host in ("127.0.0.1", "::1", "localhost"):
        text = text_of(build_configuration("nginx", replace(SITE, app=TcpAddress(host, 1))))
        assert "resolver" not in text
        assert text.count("    keepalive 32;") == 2
    text = text_of(build_configuration("nginx", site_for("nginx")))
    assert text.count("resolver         10.0.0.9:53 valid=5s;") == 1
    assert "server app:8000" not in text


def test_nginx_keeps_no_connection_that_the_application_closes_at_once() -> None:
    """A keep-alive time of 0 means that there is none."""
    site = replace(SITE, app=TcpAddress("127.0.0.1", 1), app_keepalive=0)
    text = text_of(build_configuration("nginx", site))
    assert text.count("    keepalive 32;") == 1
    assert "default   close;" in text
    assert "keepalive_timeout 3000ms" not in text


def test_what_an_existing_nginx_includes_is_what_a_whole_one_has() -> None:
    """One text, in one place for both, under names that nobody else has."""
    site = replace(site_for("nginx"), rate=Rate(20, 1), policy="p")
    whole, parts = (
        build_configuration("nginx", site, for_existing=existing) for existing in (False, True)
    )
    assert [name for name, _ in parts.files] == ["nexus-auth-http.conf", "nexus-auth-server.inc"]
    assert '-after-change "nginx -s reload"' in text_of(parts)
    assert '-after-change "pkill -HUP -F /run/nginx.pid"' in text_of(whole)
    lines = {line.strip() for line in text_of(whole).splitlines()}
    others = [
        line
        for line in text_of(parts).splitlines()
        if line.strip() not in lines and not line.startswith("#")
    ]
    log = "access_log /var/log/nginx/nexus-auth.log nexus_auth;"
    assert others == [log, "satisfy all;", "auth_request /.nexus-auth-subrequest;"]
    names = r"(?m)(?:^upstream |^log_format |zone=|\?<|^map .* \$)(\w+)"
    made = re.findall(names, text_of(parts))
    assert all(name.startswith("nexus_auth_") or name == "nexus_auth" for name in made)
    assert len(made) > 8


@pytest.mark.parametrize("proxy", sorted(set(CONFIGURABLE) - {"nginx"}))
def test_only_nginx_has_a_form_to_include(proxy: str) -> None:
    """What is not there is not printed."""
    with pytest.raises(UnsuitableSite) as caught:
        build_configuration(proxy, SITE, for_existing=True)
    assert caught.value.argument == "site"


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
