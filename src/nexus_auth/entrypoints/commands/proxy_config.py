"""`nexus-auth proxy-config`: prints a complete configuration for a reverse proxy."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nexus_auth.adapters.proxies.table import CONFIGURABLE, DEFAULT_PROXY, PROXIES
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch, add_value, parsed

if TYPE_CHECKING:
    from nexus_auth.adapters.addresses import TcpAddress
    from nexus_auth.adapters.proxies.configuration import Configuration
    from nexus_auth.adapters.proxies.site import Site

_FLAG: Final = "flag"
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_EPILOG: Final = """\
The comment at the top of the result names the settings of the auth service that
go with it.

For Kubernetes, envoy-gateway, nginx-gateway-fabric and istio speak the Gateway
API; ingress-nginx was retired by its maintainers in March 2026.

examples:
  nexus-auth proxy-config nginx -tls-cert /etc/ssl/a.crt -tls-key /etc/ssl/a.key
  nexus-auth proxy-config nginx -auth unix:/run/nexus-auth/auth.sock -check
  nexus-auth proxy-config nginx -site -output /etc/nginx/conf.d
  nexus-auth proxy-config haproxy -listen :8443 -output /etc/haproxy/nexus

exit codes: 0 printed or written;
            1 the files could not be written, or the check did not pass;
            2 wrong usage
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("name", metavar="NAME", choices=CONFIGURABLE, help=", ".join(CONFIGURABLE))
    usual = PROXIES[DEFAULT_PROXY]
    where = "host:port or unix:/path.sock"
    listen = "where the proxy listens: :443, host:port, or [::]:443 for IPv6 as well"
    for flag, default, text in (
        ("listen", ":443", listen),
        ("app", None, f"the application: {where} (default: {usual.app})"),
        ("auth", None, f"the auth service: {where} (default: {usual.auth})"),
        ("tls-cert", "/etc/nexus-auth/tls.crt", "the proxy's certificate with its chain, PEM"),
        ("tls-key", "/etc/nexus-auth/tls.key", "its key, PEM"),
        ("server-name", None, "the public host name (nginx, Kubernetes)"),
        ("policy", None, "the access policy to apply, by its name in the policy file"),
        ("state-dir", None, "where the proxy may write: cache, process id, sockets"),
        ("app-keepalive", "5", "after how many idle seconds the application closes a connection"),
        ("resolver", None, "the name servers for names in -app and -auth: ADDRESS[:PORT],..."),
        ("rate", None, "how many requests each caller may send, such as 20/s or 300/m"),
        ("output", None, "write the files into this folder instead of printing them"),
    ):
        shown = "" if default is None else f" (default: {default})"
        add_value(parser, flag, metavar="VALUE", default=default, help=text + shown)
    add_switch(parser, "site", "print includes for one server block of an nginx that exists")
    add_switch(parser, "force", "with -output: replace existing files")
    add_switch(parser, "check", "have the proxy check the result, where it is installed")


def execute(args: argparse.Namespace) -> int:
    """Prints or writes the configuration, and has it checked where that is wanted."""
    from nexus_auth.adapters.proxies.configuration import build_configuration
    from nexus_auth.adapters.proxies.site import UnsuitableSite, parse_path
    from nexus_auth.adapters.proxies.syntax_check import check_configuration

    site = _parse_site(args)
    folder = None if args.output is None else Path(args.output).absolute()
    directory = None if folder is None else parsed("-output", str(folder), parse_path, source=_FLAG)
    try:
        configuration = build_configuration(
            args.name, site, directory=directory, for_existing=args.site
        )
    except UnsuitableSite as exc:
        raise ConfigurationError(
            setting=f"-{exc.argument}", source="flag or default", problem=str(exc)
        ) from None
    if folder is None:
        _print(args.name, configuration)
    else:
        problem = _write(configuration, folder, force=args.force)
        if problem:
            print(f"nexus-auth: {problem}", file=sys.stderr)
            return exit_codes.FAILED
    if not args.check:
        return exit_codes.DONE
    passed, output = check_configuration(args.name, site, for_existing=args.site)
    if output:
        print(output, file=sys.stderr)
    print(f"nexus-auth: check {'passed' if passed else 'not passed'}", file=sys.stderr)
    return exit_codes.DONE if passed else exit_codes.FAILED


def _parse_site(args: argparse.Namespace) -> Site:
    from nexus_auth.adapters.proxies.site import PARSERS, Site

    proxy = PROXIES[args.name]
    usual = {"app": proxy.app, "auth": proxy.auth}
    values: dict[str, Any] = {}
    for name, parse in PARSERS.items():
        text = getattr(args, name)
        # An empty one is no address: a variable that was never set must not send requests
        # elsewhere.
        if text is None:
            text = usual.get(name)
        if text is not None:
            values[name] = parsed(f"-{name.replace('_', '-')}", text, parse, source=_FLAG)
    site = Site(**values)
    if proxy.needs_resolver and site.names and not site.resolver:
        return replace(site, resolver=_name_servers())
    return site


def _name_servers() -> tuple[TcpAddress, ...]:
    """The name servers of this machine; none where it names none that can be written down."""
    from nexus_auth.adapters.proxies.site import parse_resolvers

    found: list[TcpAddress] = []
    with contextlib.suppress(OSError):
        for line in _RESOLV_CONF.read_text("utf-8", "replace").splitlines():
            words = line.split()
            if words[:1] == ["nameserver"]:
                with contextlib.suppress(ValueError):
                    found += parse_resolvers(",".join(words[1:2]))
    return tuple(found)


def _print(name: str, configuration: Configuration) -> None:
    several = len(configuration.files) > 1
    for file_name, text in configuration.files:
        if several:
            comment = "--" if file_name.endswith(".lua") else "#"
            print(f"{comment} ==> {file_name} <==")
        print(text, end="")
    if several:
        print(
            f"nexus-auth: {name} needs {len(configuration.files)} files, printed one after "
            "another; -output DIR writes them",
            file=sys.stderr,
        )


def _write(configuration: Configuration, folder: Path, *, force: bool) -> str:
    """Writes the files and prints their names; returns what kept it from that."""
    from nexus_auth.adapters.proxies.syntax_check import write_configuration

    paths = [folder / name for name, _ in (*configuration.files, *configuration.links)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [path for path in paths if path.exists()]
        if taken and not force:
            return f"{taken[0]} exists already; -force replaces it"
        write_configuration(configuration, folder)
    except OSError as exc:
        return f"the files could not be written: {exc}"
    print(*paths, sep="\n")
    return ""
