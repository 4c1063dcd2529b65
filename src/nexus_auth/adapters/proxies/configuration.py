"""Builds complete proxy configurations from templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from nexus_auth.adapters.addresses import TcpAddress, UnixAddress
from nexus_auth.adapters.headers.names import (
    CERTIFICATE_HEADERS,
    FORGEABLE_HEADERS,
    POLICY_HEADER,
    with_underscores,
)
from nexus_auth.adapters.headers.presets import PRESETS
from nexus_auth.adapters.proxies.site import Site, Upstream

# Listening there takes IPv4 as well. Without a host only IPv4 is taken, since a machine may have no
# IPv6, and the proxy would not start. (Caddy and Traefik find out by themselves.)
_EVERY_IPV6: Final = "::"

# Not string.Template: its dollar sign is a word of these languages.
_PLACE: Final = re.compile(r"@\{([a-z0-9_]+)\}")


class UnsuitableSite(ValueError):
    """A proxy cannot do what was asked for, such as reach a unix socket.

    Attributes:
        argument: Which argument, such as `auth`.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(problem)
        self.argument = argument


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The files that make up one proxy's configuration.

    Attributes:
        files: Name and text. The first one is what the proxy is started with.
        links: Name and target of symbolic links that belong beside them.
    """

    files: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...] = ()


def build_configuration(proxy: str, site: Site, *, directory: str | None = None) -> Configuration:
    """Builds the configuration of one proxy.

    Args:
        proxy: One of `GENERATORS`.
        site: What it is for.
        directory: Where the files will lie; None where that is not known. Files then name one
            another without a folder.

    Raises:
        UnsuitableSite: When this proxy cannot do that.
    """
    prefix = "" if directory is None else f"{directory.rstrip('/')}/"
    return GENERATORS[proxy](site, prefix)


def _fill(template: str, values: Mapping[str, str]) -> str:
    text = files("nexus_auth.adapters.proxies").joinpath("templates", template).read_text("utf-8")
    return _PLACE.sub(lambda place: values[place[1]], text)


def _head(proxy: str, site: Site) -> str:
    """The comment at the top: the settings of the auth service that go with it."""
    header = PRESETS[proxy]
    lines = [
        f"# Made by: nexus-auth proxy-config {proxy}",
        "#",
        "# The auth service that goes with it needs these settings:",
        f"#   NEXUS_AUTH_PROXY={proxy}",
        f"#   NEXUS_AUTH_LISTEN_ADDR={_listen_setting(site.auth)}",
    ]
    if isinstance(site.auth, UnixAddress):
        lines.append("# Its socket belongs into a folder that only this proxy can enter.")
    elif site.auth.is_loopback:
        lines.append("#   NEXUS_AUTH_TRUSTED_PROXIES=127.0.0.1,::1")
    else:
        lines += [
            "#   NEXUS_AUTH_TRUSTED_PROXIES=...",
            "# The dots stand for the addresses that this proxy calls from. Without this setting,",
            "# whoever reaches the port can show anybody's certificate, which is public.",
        ]
    if site.policy is not None:
        lines += [
            "#   NEXUS_AUTH_POLICY_FILE=...",
            f"# The file has a policy of the name {site.policy}; without it nobody is let in.",
        ]
    lines += [
        f"# It then reads the certificate from {header.name} ({header.format}) alone.",
        "#",
        "# The application must be reachable through this proxy alone: it believes X-Hotkey.",
    ]
    return "\n".join(lines)


def _listen_setting(auth: Upstream) -> str:
    if isinstance(auth, UnixAddress) or auth.is_loopback:
        return str(auth)
    return f":{auth.port}"


def _without_localhost(address: TcpAddress) -> TcpAddress:
    return TcpAddress("127.0.0.1", address.port) if address.host == "localhost" else address


def _lines(names: Mapping[str, str] | tuple[str, ...], form: str) -> str:
    return "\n".join(form.format(name) for name in names)


def _nginx(site: Site, _prefix: str) -> Configuration:
    listen = str(site.listen) if site.listen.host else f"{site.listen.port}"
    if site.listen.host == _EVERY_IPV6:
        listen += " ipv6only=off"
    state_dir = (site.state_dir or "/var/cache/nexus-auth-nginx").rstrip("/")
    values = {
        "head": _head("nginx", site),
        "state_dir": state_dir,
        # Where the service managers of most systems look for it.
        "pid": "/run/nginx.pid" if site.state_dir is None else f"{state_dir}/nginx.pid",
        "auth": str(site.auth),
        "app": str(site.app),
        "listen": listen,
        "server_name": site.server_name or "_",
        "tls_cert": site.tls_cert,
        "tls_key": site.tls_key,
        "policy": f"            proxy_set_header {POLICY_HEADER} {site.policy};\n"
        if site.policy
        else "",
        "policy_name": site.policy or "",
        "remove_certificate_headers": _lines(
            (POLICY_HEADER, *CERTIFICATE_HEADERS), '            proxy_set_header {} "";'
        ),
    }
    return Configuration(files=(("nginx.conf", _fill("nginx.conf", values)),))


def _ingress_nginx(site: Site, _prefix: str) -> Configuration:
    if isinstance(site.auth, UnixAddress):
        raise UnsuitableSite("auth", "ingress-nginx needs a Service: host:port")
    if (
        isinstance(site.app, UnixAddress)
        or re.fullmatch(r"[a-z][a-z0-9-]{0,62}", site.app.host) is None
    ):
        raise UnsuitableSite(
            "app", "ingress-nginx needs the name of a Service in its own namespace: name:port"
        )
    values = {
        "head": _head("ingress-nginx", site),
        "auth": str(site.auth),
        "policy": site.policy or "",
        "app_service": site.app.host,
        "app_port": str(site.app.port),
        "server_name": site.server_name or "app.example.com",
        "tls_cert": site.tls_cert,
        "tls_key": site.tls_key,
    }
    return Configuration(files=(("ingress-nginx.yaml", _fill("ingress-nginx.yaml", values)),))


def _envoy_address(upstream: Upstream) -> str:
    if isinstance(upstream, UnixAddress):
        return f'{{pipe: {{path: "{upstream.path}"}}}}'
    return f'{{socket_address: {{address: "{upstream.host}", port_value: {upstream.port}}}}}'


def _envoy_discovery(upstream: Upstream) -> str:
    # A name is looked up again and again, an address is not.
    return "STATIC" if isinstance(upstream, UnixAddress) or upstream.is_numeric else "STRICT_DNS"


_ENVOY_POLICY: Final = """\
                # Replaces a client's own.
                authorization_request:
                  headers_to_add:
                  - {{key: "x-nexus-auth-policy", value: "{}"}}
"""


def _envoy(site: Site, _prefix: str) -> Configuration:
    removed = [name.lower() for name in FORGEABLE_HEADERS]
    # Envoy itself replaces this one by the connection's own certificate.
    removed.remove("x-forwarded-client-cert")
    listen_host = _without_localhost(site.listen).host or "0.0.0.0"  # noqa: S104 - as was asked
    if not TcpAddress(listen_host, site.listen.port).is_numeric:
        raise UnsuitableSite("listen", "Envoy listens on addresses, not on names")
    values = {
        "head": _head("envoy", site),
        "listen_host": listen_host,
        "listen_port": str(site.listen.port),
        "ipv4_compat": "true" if listen_host == _EVERY_IPV6 else "false",
        "tls_cert": site.tls_cert,
        "tls_key": site.tls_key,
        "remove_forged_headers": _lines(tuple(removed), '                - remove: "{}"'),
        "policy": _ENVOY_POLICY.format(site.policy) if site.policy else "",
        "auth_type": _envoy_discovery(site.auth),
        "auth_address": _envoy_address(site.auth),
        "app_type": _envoy_discovery(site.app),
        "app_address": _envoy_address(site.app),
    }
    return Configuration(files=(("envoy.yaml", _fill("envoy.yaml", values)),))


def _traefik(site: Site, prefix: str) -> Configuration:
    for argument, upstream in (("auth", site.auth), ("app", site.app)):
        if isinstance(upstream, UnixAddress):
            raise UnsuitableSite(argument, "Traefik cannot reach a unix socket; give host:port")
    # Go keeps the case of the first letter after a hyphen only, so one spelling stands for all
    # cases; an underscore is no hyphen to it.
    spellings = tuple(spelling for name in FORGEABLE_HEADERS for spelling in with_underscores(name))
    values = {
        "head": _head("traefik", site),
        "directory": prefix,
        "policy": site.policy or "",
        "listen": str(site.listen),
        "tls_cert": site.tls_cert,
        "tls_key": site.tls_key,
        "auth": str(site.auth),
        "app": str(site.app),
        "remove_forged_headers": _lines(spellings, '          {}: ""'),
    }
    return Configuration(
        files=tuple((name, _fill(name, values)) for name in ("traefik.yml", "traefik-routes.yml"))
    )


def _caddy_upstream(upstream: Upstream) -> str:
    return f"unix/{upstream.path}" if isinstance(upstream, UnixAddress) else str(upstream)


def _caddy(site: Site, _prefix: str) -> Configuration:
    values = {
        "head": _head("caddy", site),
        "site_host": "",
        "listen_port": str(site.listen.port),
        "bind": f"bind {site.listen.host}\n\t" if site.listen.host else "",
        "tls_cert": site.tls_cert,
        "tls_key": site.tls_key,
        "auth": _caddy_upstream(site.auth),
        "policy": f"\t\t\theader_up {POLICY_HEADER} {site.policy}\n" if site.policy else "",
        "app": _caddy_upstream(site.app),
        "remove_forged_headers": _lines(FORGEABLE_HEADERS, "\t\trequest_header -{}"),
    }
    return Configuration(files=(("Caddyfile", _fill("Caddyfile", values)),))


def _haproxy_upstream(upstream: Upstream) -> str:
    return f"unix@{upstream.path}" if isinstance(upstream, UnixAddress) else str(upstream)


def _haproxy_listen(listen: TcpAddress) -> str:
    if listen.host == _EVERY_IPV6:
        return f"[::]:{listen.port} v4v6"
    return str(listen) if listen.host else f"*:{listen.port}"


def _haproxy_auth(auth: Upstream) -> str:
    if isinstance(auth, UnixAddress):
        return f'{{ url = "http://nexus-auth/", dst = "unix@{auth.path}" }}'
    # HAProxy's own client asks a name server, which need not know this name.
    return f'{{ url = "http://{_without_localhost(auth)}/" }}'


def _haproxy(site: Site, prefix: str) -> Configuration:
    links = (("tls.pem", site.tls_cert), ("tls.pem.key", site.tls_key))
    hint = (
        ""
        if prefix
        else "\n# HAProxy wants the key beside the certificate, under this name:\n"
        f"#   ln -s {site.tls_cert} tls.pem\n#   ln -s {site.tls_key} tls.pem.key"
    )
    values = {
        "head": _head("haproxy", site),
        "link_hint": hint,
        "directory": prefix,
        "state_dir": prefix if site.state_dir is None else f"{site.state_dir.rstrip('/')}/",
        "listen": _haproxy_listen(site.listen),
        "auth": _haproxy_auth(site.auth),
        "policy": f"    http-request set-var(txn.nexus_auth_policy) str({site.policy})\n"
        if site.policy
        else "",
        "app": _haproxy_upstream(site.app),
        "remove_forged_headers": _lines(FORGEABLE_HEADERS, "    http-request del-header {}"),
    }
    return Configuration(
        files=tuple((name, _fill(name, values)) for name in ("haproxy.cfg", "nexus_auth.lua")),
        links=links,
    )


GENERATORS: Final[Mapping[str, Callable[[Site, str], Configuration]]] = MappingProxyType(
    {
        "nginx": _nginx,
        "ingress-nginx": _ingress_nginx,
        "envoy": _envoy,
        "traefik": _traefik,
        "caddy": _caddy,
        "haproxy": _haproxy,
    }
)
"""Every proxy that a configuration can be made for."""
