"""ingress-nginx, the controller of Kubernetes."""

from __future__ import annotations

import re

from nexus_auth.adapters.addresses import UnixAddress
from nexus_auth.adapters.proxies.site import Site, UnsuitableSite


def values(site: Site, _directory: str) -> dict[str, str]:
    """Fills the template's places; see `configuration.build_configuration`."""
    if isinstance(site.auth, UnixAddress):
        raise UnsuitableSite("auth", "ingress-nginx needs a Service: host:port")
    if (
        isinstance(site.app, UnixAddress)
        or re.fullmatch(r"[a-z][a-z0-9-]{0,62}", site.app.host) is None
    ):
        raise UnsuitableSite(
            "app", "ingress-nginx needs the name of a Service in its own namespace: name:port"
        )
    return {
        "app_service": site.app.host,
        "app_port": str(site.app.port),
        "server_name": site.server_name or "app.example.com",
    }
