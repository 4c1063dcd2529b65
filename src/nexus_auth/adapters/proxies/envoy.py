"""Envoy."""

from __future__ import annotations

from typing import Final

from nexus_auth.adapters.addresses import TcpAddress, UnixAddress
from nexus_auth.adapters.headers.names import FORGEABLE_HEADERS, POLICY_HEADER, XFCC_HEADER
from nexus_auth.adapters.proxies.site import (
    EVERY_IPV6,
    Site,
    UnsuitableSite,
    Upstream,
    lines_of,
    without_localhost,
)

_POLICY: Final = """\
                # Replaces a client's own.
                authorization_request:
                  headers_to_add:
                  - {{key: "{}", value: "{}"}}
"""


def values(site: Site, _directory: str) -> dict[str, str]:
    """Fills the template's places; see `configuration.build_configuration`."""
    listen_host = without_localhost(site.listen).host or "0.0.0.0"  # noqa: S104 - no host means all
    if not TcpAddress(listen_host, site.listen.port).is_numeric:
        raise UnsuitableSite("listen", "Envoy listens on addresses, not on names")
    # Envoy itself replaces the one header by the connection's own certificate.
    removed = [name.lower() for name in FORGEABLE_HEADERS if name != XFCC_HEADER]
    return {
        "listen_host": listen_host,
        "ipv4_compat": "true" if listen_host == EVERY_IPV6 else "false",
        "remove_forged_headers": lines_of(removed, '                - remove: "{}"'),
        "policy": _POLICY.format(POLICY_HEADER.lower(), site.policy) if site.policy else "",
        "auth_type": _discovery(site.auth),
        "auth_address": _address(site.auth),
        "app_type": _discovery(site.app),
        "app_address": _address(site.app),
    }


def _address(upstream: Upstream) -> str:
    if isinstance(upstream, UnixAddress):
        return f'{{pipe: {{path: "{upstream.path}"}}}}'
    return f'{{socket_address: {{address: "{upstream.host}", port_value: {upstream.port}}}}}'


def _discovery(upstream: Upstream) -> str:
    # A name is looked up again and again, an address is not.
    return "STATIC" if isinstance(upstream, UnixAddress) or upstream.is_numeric else "STRICT_DNS"
