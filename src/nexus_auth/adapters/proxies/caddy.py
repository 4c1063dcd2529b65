"""Caddy."""

from __future__ import annotations

from nexus_auth.adapters.addresses import UnixAddress
from nexus_auth.adapters.headers.names import FORGEABLE_HEADERS, POLICY_HEADER
from nexus_auth.adapters.proxies.site import Site, Upstream, lines_of


def values(site: Site, _directory: str) -> dict[str, str]:
    """Fills the template's places; see `configuration.build_configuration`."""
    return {
        "bind": f"bind {site.listen.host}\n\t" if site.listen.host else "",
        "auth": _upstream(site.auth),
        "policy": f"\t\t\theader_up {POLICY_HEADER} {site.policy}\n" if site.policy else "",
        "app": _upstream(site.app),
        "remove_forged_headers": lines_of(FORGEABLE_HEADERS, "\t\trequest_header -{}"),
    }


def _upstream(upstream: Upstream) -> str:
    return f"unix/{upstream.path}" if isinstance(upstream, UnixAddress) else str(upstream)
