"""What a proxy spells in a way of its own: values of its templates beside those that all share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from nexus_auth.adapters.addresses import Address, TcpAddress, UnixAddress
from nexus_auth.adapters.headers import names
from nexus_auth.adapters.proxies.site import Rate, Site, UnsuitableSite, idle_ms

_SERVICE_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")

_MAX_GATEWAY_MS: Final = 9_999
"""The schema of NGINX Gateway Fabric takes four digits."""

_EVERY_IPV6: Final = "::"
"""Listening there takes IPv4 as well. Without a host only IPv4 is taken, since a machine may have
no IPv6, and the proxy would not start. (Caddy and Traefik find out by themselves.)"""


def _nginx(site: Site, _directory: str) -> dict[str, str]:
    listen = str(site.listen) if site.listen.host else str(site.listen.port)
    state_dir = (site.state_dir or "/var/cache/nexus-auth-nginx").rstrip("/")
    # Where the service managers of most systems look for it.
    pid = "/run/nginx.pid" if site.state_dir is None else f"{state_dir}/nginx.pid"
    if site.names and not site.resolver:
        raise UnsuitableSite(
            "resolver", f"nginx needs a name server's address to find {site.names[0].host}"
        )
    auth_by_name, app_by_name = site.auth in site.names, site.app in site.names
    # nginx 1.18 to 1.27.2 look a name in an upstream block up once. In a variable they look it up
    # again and again, and keep no connection open.
    keeps_app = bool(site.app_keepalive) and not app_by_name
    rate = site.rate
    return {
        "state_dir": state_dir,
        # Root alone writes to /run itself, and a full disk does not matter there.
        "grants": "/run/nexus-auth-grants" if site.state_dir is None else f"{state_dir}/grants",
        "log_dir": "/var/log/nginx" if site.state_dir is None else state_dir,
        "pid": pid,
        "listen": f"{listen} ipv6only=off" if site.listen.host == _EVERY_IPV6 else listen,
        "server_name": site.server_name or "_",
        "resolver": " ".join(map(str, site.resolver)) if site.names else "",
        "by_name": "yes" if site.names else "",
        "auth_pooled": "" if auth_by_name else "yes",
        "auth_by_name": "yes" if auth_by_name else "",
        "auth_upstream": "$nexus_auth_service" if auth_by_name else "http://nexus_auth/",
        "auth_connection": "close" if auth_by_name else '""',
        "app_pooled": "" if app_by_name else "yes",
        "app_by_name": "yes" if app_by_name else "",
        "app_kept": "yes" if keeps_app else "",
        "app_upstream": str(site.app) if app_by_name else "nexus_auth_app",
        "app_connection": '""' if keeps_app else "close",
        "rate": f"{rate.requests}r/{'s' if rate.seconds == 1 else 'm'}" if rate else "",
        "burst": str(rate.requests - 1) if rate else "",
        "reload": f"pkill -HUP -F {pid}",
        # It overwrites X-Hotkey, and drops names with dots.
        "forged": " ".join((names.POLICY_HEADER, *names.CERTIFICATE_HEADERS)),
    }


def _ingress_nginx(site: Site, _directory: str) -> dict[str, str]:
    if isinstance(site.auth, UnixAddress):
        raise UnsuitableSite("auth", "ingress-nginx needs a Service: host:port")
    host = "" if isinstance(site.app, UnixAddress) else site.app.host
    if _SERVICE_NAME.fullmatch(host) is None:
        raise UnsuitableSite(
            "app", "ingress-nginx needs the name of a Service in its own namespace: name:port"
        )
    return {
        "app_service": host,
        "app_port": str(site.app).rpartition(":")[2],
        "server_name": site.server_name or "app.example.com",
    }


def _gateway(site: Site, _directory: str) -> dict[str, str]:
    """What the manifests of every implementation of the Gateway API have places for."""
    values = {"server_name": site.server_name or "app.example.com"}
    for argument, upstream in (("app", site.app), ("auth", site.auth)):
        host = "" if isinstance(upstream, UnixAddress) else upstream.host
        if _SERVICE_NAME.fullmatch(host) is None:
            raise UnsuitableSite(
                argument, "a Gateway needs the name of a Service in its own namespace: name:port"
            )
        values[f"{argument}_service"] = host
        values[f"{argument}_port"] = str(upstream).rpartition(":")[2]
    idle = idle_ms(site.app_keepalive)
    shown = f"{idle}ms" if idle <= _MAX_GATEWAY_MS else f"{idle // 1000}s"
    values |= {"app_idle": shown if idle else "", "app_closes": "" if idle else "yes"}
    return values


def _envoy_underneath(site: Site, directory: str) -> dict[str, str]:
    # Where a policy is chosen, the proxy's own word replaces the client's.
    kept = {names.XFCC_HEADER} | ({names.POLICY_HEADER} if site.policy else set())
    forged = " ".join(name.lower() for name in names.FORGEABLE_HEADERS if name not in kept)
    return {**_gateway(site, directory), "forged": forged}


def _nginx_gateway_fabric(site: Site, directory: str) -> dict[str, str]:
    # As for nginx.
    forged = " ".join((names.POLICY_HEADER, *names.CERTIFICATE_HEADERS))
    return {**_gateway(site, directory), "forged": forged}


def _envoy(site: Site, _directory: str) -> dict[str, str]:
    listen_host = _without_localhost(site.listen).host or "0.0.0.0"  # noqa: S104 - no host means all
    if not TcpAddress(listen_host, site.listen.port).is_numeric:
        raise UnsuitableSite("listen", "Envoy listens on addresses, not on names")

    def address(upstream: Address) -> str:
        if isinstance(upstream, UnixAddress):
            return f'{{pipe: {{path: "{upstream.path}"}}}}'
        return f'{{socket_address: {{address: "{upstream.host}", port_value: {upstream.port}}}}}'

    def discovery(upstream: Address) -> str:
        # A name is looked up again and again, an address is not.
        is_fixed = isinstance(upstream, UnixAddress) or upstream.is_numeric
        return "STATIC" if is_fixed else "STRICT_DNS"

    tls_folders = {path.rpartition("/")[0] or "/" for path in (site.tls_cert, site.tls_key)}
    return {
        "listen_host": listen_host,
        "ipv4_compat": "true" if listen_host == _EVERY_IPV6 else "false",
        # Envoy itself replaces the one header by the connection's own certificate.
        "forged": " ".join(
            name.lower() for name in names.FORGEABLE_HEADERS if name != names.XFCC_HEADER
        ),
        "trailers": " ".join(name.lower() for name in names.FORGEABLE_HEADERS),
        "auth_type": discovery(site.auth),
        "auth_address": address(site.auth),
        "app_type": discovery(site.app),
        "app_address": address(site.app),
        "app_closes": "" if site.app_keepalive else "yes",
        # Without it Envoy watches each file by itself, and misses a link that turns (Kubernetes).
        "tls_folder": tls_folders.pop() if len(tls_folders) == 1 else "",
        "rate_requests": str(site.rate.requests) if site.rate else "",
        "rate_seconds": str(site.rate.seconds) if site.rate else "",
    }


def _traefik(site: Site, directory: str) -> dict[str, str]:
    for argument, upstream in (("auth", site.auth), ("app", site.app)):
        if isinstance(upstream, UnixAddress):
            raise UnsuitableSite(argument, "Traefik cannot reach a unix socket; give host:port")
    # Go keeps the case of the first letter after a hyphen only, so one spelling stands for all
    # cases; an underscore is no hyphen to it.
    spellings = [form for name in names.FORGEABLE_HEADERS for form in names.with_underscores(name)]
    rate = site.rate or Rate(0, 1)
    return {
        "forged": " ".join(spellings),
        "reload": f"touch {directory}traefik-routes.yml",
        "app_keeps": "yes" if site.app_keepalive else "",
        "app_closes": "" if site.app_keepalive else "yes",
        "limit": "limit-rate, " if site.rate else "",
        "rate_average": str(rate.requests),
        "rate_period": f"{rate.seconds}s",
        "rate_burst": str(max(1, rate.requests // rate.seconds)),
    }


def _caddy(site: Site, _directory: str) -> dict[str, str]:
    if site.rate is not None:
        raise UnsuitableSite(
            "rate", "Caddy has no rate limit as it is shipped; the application can count X-Hotkey"
        )
    return {
        "auth": _upstream(site.auth, "unix/"),
        "app": _upstream(site.app, "unix/"),
        # The home of the user that packages make for Caddy.
        "state_dir": (site.state_dir or "/var/lib/caddy").rstrip("/"),
        "app_keeps": "yes" if site.app_keepalive else "",
        "app_closes": "" if site.app_keepalive else "yes",
        "resolves": "yes" if site.resolver else "",
        # Caddy itself would ask over TCP, which not every name server answers.
        "resolver": " ".join(f"udp/{server}" for server in site.resolver),
    }


def _haproxy(site: Site, directory: str) -> dict[str, str]:
    listen = str(site.listen) if site.listen.host else f"*:{site.listen.port}"

    # A name server need not know localhost.
    auth, app = (
        _without_localhost(upstream) if isinstance(upstream, TcpAddress) else upstream
        for upstream in (site.auth, site.app)
    )

    def server(upstream: Address) -> str:
        follow = " resolvers nexus_auth_names resolve-prefer ipv4 init-addr last,libc,none"
        return _upstream(upstream, "unix@") + (follow if upstream in site.names else "")

    pid = f"{(site.state_dir or '/run').rstrip('/')}/haproxy.pid"
    return {
        "unlinked": "" if directory else "yes",
        "pid": pid,
        "reload": f"pkill -USR2 -F {pid}",
        "listen": f"{listen} v4v6" if site.listen.host == _EVERY_IPV6 else listen,
        "auth_server": server(auth),
        "app_server": server(app),
        "names": "yes" if site.names else "",
        "parse_resolv_conf": "yes" if site.names and not site.resolver else "",
        "nameservers": " ".join(map(str, site.resolver)) if site.names else "",
        "rate_requests": "" if site.rate is None else str(site.rate.requests),
        "rate_seconds": "" if site.rate is None else str(site.rate.seconds),
    }


def _upstream(address: Address, scheme: str) -> str:
    return f"{scheme}{address.path}" if isinstance(address, UnixAddress) else str(address)


def _without_localhost(address: TcpAddress) -> TcpAddress:
    """The same address with a number where it has the name of this machine."""
    return TcpAddress("127.0.0.1", address.port) if address.host == "localhost" else address


DIALECTS: Final[Mapping[str, Callable[[Site, str], dict[str, str]]]] = MappingProxyType(
    {
        "nginx": _nginx,
        "ingress-nginx": _ingress_nginx,
        "envoy-gateway": _envoy_underneath,
        "nginx-gateway-fabric": _nginx_gateway_fabric,
        "istio": _envoy_underneath,
        "envoy": _envoy,
        "traefik": _traefik,
        "caddy": _caddy,
        "haproxy": _haproxy,
    }
)
"""The functions by a proxy's name. Each takes the site and the folder of the files, as
`build_configuration` does (with a slash at its end; empty where it is not known), and raises
`UnsuitableSite` when the proxy cannot do that. A proxy without one needs no value of its own."""
