"""HAProxy."""

from __future__ import annotations

from nexus_auth.adapters.addresses import TcpAddress, UnixAddress
from nexus_auth.adapters.headers.names import FORGEABLE_HEADERS
from nexus_auth.adapters.proxies.site import (
    EVERY_IPV6,
    Site,
    Upstream,
    lines_of,
    without_localhost,
)


def values(site: Site, directory: str) -> dict[str, str]:
    """Fills the template's places; see `configuration.build_configuration`."""
    hint = (
        ""
        if directory
        else "\n# HAProxy wants the key beside the certificate, under this name:\n"
        f"#   ln -s {site.tls_cert} tls.pem\n#   ln -s {site.tls_key} tls.pem.key"
    )
    policy = f"    http-request set-var(txn.nexus_auth_policy) str({site.policy})\n"
    return {
        "link_hint": hint,
        "state_dir": directory if site.state_dir is None else f"{site.state_dir.rstrip('/')}/",
        "listen": _listen(site.listen),
        "auth": _auth(site.auth),
        "policy": policy if site.policy else "",
        "app": f"unix@{site.app.path}" if isinstance(site.app, UnixAddress) else str(site.app),
        "remove_forged_headers": lines_of(FORGEABLE_HEADERS, "    http-request del-header {}"),
    }


def _listen(listen: TcpAddress) -> str:
    if listen.host == EVERY_IPV6:
        return f"[::]:{listen.port} v4v6"
    return str(listen) if listen.host else f"*:{listen.port}"


def _auth(auth: Upstream) -> str:
    if isinstance(auth, UnixAddress):
        return f'{{ url = "http://nexus-auth/", dst = "unix@{auth.path}" }}'
    # HAProxy's own client asks a name server, which need not know this name.
    return f'{{ url = "http://{without_localhost(auth)}/" }}'
