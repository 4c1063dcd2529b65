"""The table of reverse proxies: one row for each, and all that the rest of the code knows of it.

Light on purpose: the command line and the settings read this without loading anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from nexus_auth.adapters.headers import names
from nexus_auth.adapters.headers.names import CertificateFormat, HeaderPreset


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A reverse proxy, or a convention that several of them keep.

    Attributes:
        name: What `NEXUS_AUTH_PROXY` and `proxy-config` call it.
        header: The header in which it sends the certificate.
        templates: The files of its configuration, in `templates/`; the first is what it is
            started with. Empty where no configuration is made for it. Values that only this
            proxy has come from `dialects.py`.
        includes: The files for a proxy that has a configuration already (`-site`), to include
            there. Empty where it has no such form.
        includes_frame: The smallest configuration that includes them, for a check.
        tls_links: Names of symbolic links to its own certificate and its key, in this order, that
            belong beside the files.
        check: The command that checks a configuration, without the file's path, which comes
            last. Empty where the proxy offers none.
        app: Where the application is, unless the user says otherwise.
        auth: Where the auth service is, unless the user says otherwise.
        options: Which of the arguments that not every proxy can follow this one does: `rate`,
            `resolver`.
        needs_resolver: Whether it follows names only where name servers are written down; others
            take those of the machine that they run on.
        reload: The command that has a running one read its own certificate again, in the
            template's language. Empty where it does that by itself.
    """

    name: str
    header: HeaderPreset
    templates: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    includes_frame: str = ""
    tls_links: tuple[str, ...] = ()
    check: tuple[str, ...] = ()
    app: str = "127.0.0.1:9000"
    auth: str = "127.0.0.1:8080"
    options: frozenset[str] = frozenset()
    needs_resolver: bool = False
    reload: str = ""


_ROWS: Final = (
    Proxy(
        name="nginx",
        header=HeaderPreset(names.X_CLIENT_CERT, CertificateFormat.PERCENT_ENCODED_PEM),
        templates=("nginx.conf",),
        includes=("nexus-auth-http.conf", "nexus-auth-server.inc"),
        includes_frame="nginx-site-check.conf",
        check=("nginx", "-t", "-e", "stderr", "-c"),
        options=frozenset({"rate", "resolver"}),
        needs_resolver=True,
        reload="nginx -s reload",
    ),
    Proxy(
        name="ingress-nginx",
        header=HeaderPreset(names.INGRESS_NGINX_HEADER, CertificateFormat.PERCENT_ENCODED_PEM),
        templates=("ingress-nginx.yaml",),
        # Inside a cluster both are Services.
        app="app:8000",
        auth="nexus-auth:8080",
    ),
    Proxy(
        name="envoy",
        header=HeaderPreset(names.XFCC_HEADER, CertificateFormat.XFCC),
        templates=("envoy.yaml", "envoy-tls.yaml"),
        check=("envoy", "--mode", "validate", "-l", "warning", "-c"),
        options=frozenset({"rate"}),
    ),
    Proxy(
        name="traefik",
        header=HeaderPreset(names.TRAEFIK_HEADER, CertificateFormat.BASE64_DER),
        templates=("traefik.yml", "traefik-routes.yml"),
        options=frozenset({"rate"}),
        reload="touch traefik-routes.yml",
    ),
    Proxy(
        name="caddy",
        header=HeaderPreset(names.X_CLIENT_CERT, CertificateFormat.BASE64_DER),
        templates=("Caddyfile",),
        check=("caddy", "validate", "--adapter", "caddyfile", "--config"),
        options=frozenset({"resolver"}),
        # Without --force it does nothing while the text of the file is the same.
        reload="caddy reload --force --adapter caddyfile --config @{directory}Caddyfile",
    ),
    Proxy(
        name="haproxy",
        header=HeaderPreset(names.X_CLIENT_CERT, CertificateFormat.BASE64_DER),
        templates=("haproxy.cfg", "nexus_auth.lua"),
        tls_links=("tls.pem", "tls.pem.key"),
        check=("haproxy", "-c", "-f"),
        options=frozenset({"rate", "resolver"}),
        reload="pkill -USR2 -F /run/haproxy.pid",
    ),
    Proxy(
        name="envoy-gateway",
        header=HeaderPreset(names.XFCC_HEADER, CertificateFormat.XFCC),
        templates=("envoy-gateway.yaml",),
        app="app:8000",
        auth="nexus-auth:8080",
    ),
    Proxy(
        name="nginx-gateway-fabric",
        header=HeaderPreset(names.X_CLIENT_CERT, CertificateFormat.PERCENT_ENCODED_PEM),
        templates=("nginx-gateway-fabric.yaml",),
        app="app:8000",
        auth="nexus-auth:8080",
    ),
    Proxy(
        name="istio",
        header=HeaderPreset(names.XFCC_HEADER, CertificateFormat.XFCC),
        templates=("istio.yaml",),
        app="app:8000",
        auth="nexus-auth:8080",
    ),
    Proxy(
        name="aws-alb",
        header=HeaderPreset(names.AWS_ALB_HEADER, CertificateFormat.PERCENT_ENCODED_PEM),
    ),
    Proxy(name="rfc9440", header=HeaderPreset(names.RFC9440_HEADER, CertificateFormat.RFC9440)),
)

PROXIES: Final[Mapping[str, Proxy]] = MappingProxyType({proxy.name: proxy for proxy in _ROWS})
"""What `NEXUS_AUTH_PROXY` takes. The first one is the default."""

DEFAULT_PROXY: Final = _ROWS[0].name

CONFIGURABLE: Final = tuple(proxy.name for proxy in _ROWS if proxy.templates)
"""The names of those that a configuration can be made for."""
