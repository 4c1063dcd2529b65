"""`nexus-auth proxy-config`: prints a complete configuration for a reverse proxy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from nexus_auth.adapters.proxies.table import CONFIGURABLE, DEFAULT_PROXY, PROXIES
from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints import exit_codes
from nexus_auth.entrypoints.arguments import add_switch, add_value, parsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from nexus_auth.adapters.addresses import TcpAddress
    from nexus_auth.adapters.proxies.configuration import Configuration
    from nexus_auth.adapters.proxies.site import Site

T = TypeVar("T")

_EPILOG: Final = """\
The comment at the top of the result names the settings of the auth service that
go with it.

examples:
  nexus-auth proxy-config nginx -tls-cert /etc/ssl/a.crt -tls-key /etc/ssl/a.key
  nexus-auth proxy-config nginx -auth unix:/run/nexus-auth/auth.sock -check
  nexus-auth proxy-config haproxy -listen :8443 -output /etc/haproxy/nexus

exit codes: 0 printed or written ·
            1 the files could not be written, or the check did not pass ·
            2 wrong usage
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("name", metavar="NAME", choices=CONFIGURABLE, help=", ".join(CONFIGURABLE))
    usual = PROXIES[DEFAULT_PROXY]
    where = "host:port or unix:/path.sock"
    for flag, default, text in (
        (
            "listen",
            ":443",
            "where the proxy listens: :443, host:port, or [::]:443 for IPv6 as well",
        ),
        ("app", None, f"the application: {where} (default: {usual.app})"),
        ("auth", None, f"the auth service: {where} (default: {usual.auth})"),
        ("tls-cert", "/etc/nexus-auth/tls.crt", "the proxy's certificate with its chain, PEM"),
        ("tls-key", "/etc/nexus-auth/tls.key", "its key, PEM"),
        ("server-name", None, "the public host name (nginx, ingress-nginx)"),
        ("policy", None, "the access policy to apply, by its name in the policy file"),
        ("state-dir", None, "where the proxy may write: cache, process id, sockets"),
        ("output", None, "write the files into this folder instead of printing them"),
    ):
        shown = "" if default is None else f" (default: {default})"
        add_value(parser, flag, metavar="VALUE", default=default, help=text + shown)
    add_switch(parser, "force", "with -output: replace existing files")
    add_switch(parser, "check", "have the proxy check the result, where it is installed")


def execute(args: argparse.Namespace) -> int:
    """Prints or writes the configuration, and has it checked where that is wanted."""
    from nexus_auth.adapters.proxies.configuration import build_configuration
    from nexus_auth.adapters.proxies.site import UnsuitableSite, parse_path

    site = _site(args)
    folder = None if args.output is None else Path(args.output).absolute()
    directory = None if folder is None else _parsed("-output", str(folder), parse_path)
    try:
        configuration = build_configuration(args.name, site, directory=directory)
    except UnsuitableSite as exc:
        raise ConfigurationError(
            setting=f"-{exc.argument}", source="flag or default", problem=str(exc)
        ) from None
    if folder is None:
        _print(args.name, configuration)
    else:
        code = _write(configuration, folder, force=args.force)
        if code != exit_codes.DONE:
            return code
    return _check(args.name, site) if args.check else exit_codes.DONE


def _site(args: argparse.Namespace) -> Site:
    from nexus_auth.adapters.proxies.site import (
        Site,
        parse_host,
        parse_path,
        parse_tcp_address,
        parse_upstream,
    )
    from nexus_auth.domain.policy import parse_policy_name

    def listen(text: str) -> TcpAddress:
        return parse_tcp_address(text, every_interface=True)

    proxy = PROXIES[args.name]
    # An empty one is no address: a variable that was never set must not send requests elsewhere.
    app = proxy.app if args.app is None else args.app
    auth = proxy.auth if args.auth is None else args.auth
    return Site(
        listen=_parsed("-listen", args.listen, listen),
        app=_parsed("-app", app, parse_upstream),
        auth=_parsed("-auth", auth, parse_upstream),
        tls_cert=_parsed("-tls-cert", args.tls_cert, parse_path),
        tls_key=_parsed("-tls-key", args.tls_key, parse_path),
        server_name=_optional("-server-name", args.server_name, parse_host),
        policy=_optional("-policy", args.policy, parse_policy_name),
        state_dir=_optional("-state-dir", args.state_dir, parse_path),
    )


def _parsed(flag: str, text: str, parse: Callable[[str], T]) -> T:
    return parsed(flag, text, parse, source="flag")


def _optional(flag: str, text: str | None, parse: Callable[[str], T]) -> T | None:
    return None if text is None else _parsed(flag, text, parse)


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


def _write(configuration: Configuration, folder: Path, *, force: bool) -> int:
    from nexus_auth.adapters.proxies.syntax_check import write_configuration

    names = [name for name, _ in (*configuration.files, *configuration.links)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [str(folder / name) for name in names if (folder / name).exists()]
        if taken and not force:
            print(f"nexus-auth: {taken[0]} exists already; -force replaces it", file=sys.stderr)
            return exit_codes.FAILED
        write_configuration(configuration, folder)
    except OSError as exc:
        print(f"nexus-auth: the files could not be written: {exc}", file=sys.stderr)
        return exit_codes.FAILED
    for name in names:
        print(folder / name)
    return exit_codes.DONE


def _check(name: str, site: Site) -> int:
    from nexus_auth.adapters.proxies.syntax_check import check_configuration

    result = check_configuration(name, site)
    if result.output:
        print(result.output, file=sys.stderr)
    print(f"nexus-auth: check {'passed' if result.passed else 'not passed'}", file=sys.stderr)
    return exit_codes.DONE if result.passed else exit_codes.FAILED
