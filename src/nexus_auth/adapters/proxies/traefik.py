"""Traefik."""

from __future__ import annotations

from nexus_auth.adapters.addresses import UnixAddress
from nexus_auth.adapters.headers.names import FORGEABLE_HEADERS, with_underscores
from nexus_auth.adapters.proxies.site import Site, UnsuitableSite, lines_of


def values(site: Site, _directory: str) -> dict[str, str]:
    """Fills the template's places; see `configuration.build_configuration`."""
    for argument, upstream in (("auth", site.auth), ("app", site.app)):
        if isinstance(upstream, UnixAddress):
            raise UnsuitableSite(argument, "Traefik cannot reach a unix socket; give host:port")
    # Go keeps the case of the first letter after a hyphen only, so one spelling stands for all
    # cases; an underscore is no hyphen to it.
    spellings = [spelling for name in FORGEABLE_HEADERS for spelling in with_underscores(name)]
    return {"remove_forged_headers": lines_of(spellings, '          {}: ""')}
