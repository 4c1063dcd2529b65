"""nginx."""

from __future__ import annotations

from nexus_auth.adapters.headers.names import CERTIFICATE_HEADERS, POLICY_HEADER
from nexus_auth.adapters.proxies.site import EVERY_IPV6, Site, lines_of


def values(site: Site, _directory: str) -> dict[str, str]:
    """Fills the template's places; see `configuration.build_configuration`."""
    listen = str(site.listen) if site.listen.host else f"{site.listen.port}"
    if site.listen.host == EVERY_IPV6:
        listen += " ipv6only=off"
    state_dir = (site.state_dir or "/var/cache/nexus-auth-nginx").rstrip("/")
    policy = f"            proxy_set_header {POLICY_HEADER} {site.policy};\n"
    return {
        "state_dir": state_dir,
        # Where the service managers of most systems look for it.
        "pid": "/run/nginx.pid" if site.state_dir is None else f"{state_dir}/nginx.pid",
        "listen": listen,
        "server_name": site.server_name or "_",
        "policy": policy if site.policy else "",
        "policy_name": site.policy or "",
        "remove_certificate_headers": lines_of(
            (POLICY_HEADER, *CERTIFICATE_HEADERS), '            proxy_set_header {} "";'
        ),
    }
