"""`nexus-auth proxy-config`: prints a complete configuration for a reverse proxy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from nexus_auth.domain.errors import ConfigurationError
from nexus_auth.entrypoints import exit_codes

if TYPE_CHECKING:
    from collections.abc import Callable

    from nexus_auth.adapters.addresses import TcpAddress
    from nexus_auth.adapters.proxies.configuration import Configuration
    from nexus_auth.adapters.proxies.site import Site

T = TypeVar("T")

# Named here too, so that the command line need not load the generators; a test compares.
PROXY_NAMES: Final = ("nginx", "ingress-nginx", "envoy", "traefik", "caddy", "haproxy")

_APP: Final = "127.0.0.1:8000"
_AUTH: Final = "127.0.0.1:8080"
# Inside a cluster both are Services.
_CLUSTER: Final = {"app": "app:8000", "auth": "nexus-auth:8080"}

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
    parser.add_argument("name", metavar="NAME", choices=PROXY_NAMES, help=", ".join(PROXY_NAMES))
    for flag, default, text in (
        (
            "listen",
            ":443",
            "where the proxy listens: :443, host:port, or [::]:443 for IPv6 as well",
        ),
        ("app", None, f"the application: host:port or unix:/path.sock (default: {_APP})"),
        ("auth", None, f"the auth service: host:port or unix:/path.sock (default: {_AUTH})"),
        ("tls-cert", "/etc/nexus-auth/tls.crt", "the proxy's certificate with its chain, PEM"),
        ("tls-key", "/etc/nexus-auth/tls.key", "its key, PEM"),
        ("server-name", None, "the public host name (nginx, ingress-nginx)"),
        ("policy", None, "the access policy to apply, by its name in the policy file"),
        ("state-dir", None, "where the proxy may write: cache, process id, sockets"),
        ("output", None, "write the files into this folder instead of printing them"),
    ):
        shown = "" if default is None else f" (default: {default})"
        parser.add_argument(
            f"-{flag}", f"--{flag}", metavar="VALUE", default=default, help=text + shown
        )
    parser.add_argument(
        "-force", "--force", action="store_true", help="with -output: replace existing files"
    )
    parser.add_argument(
        "-check",
        "--check",
        action="store_true",
        help="have the proxy check the result, where it is installed",
    )


def execute(args: argparse.Namespace) -> int:
    """Prints or writes the configuration, and has it checked where that is wanted."""
    from nexus_auth.adapters.proxies.configuration import UnsuitableSite, build_configuration

    site = _site(args)
    folder = None if args.output is None else Path(args.output).absolute()
    directory = None
    if folder is not None:
        from nexus_auth.adapters.proxies.site import parse_path

        directory = _parsed("-output", str(folder), parse_path)
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

    in_cluster = args.name == "ingress-nginx"
    # An empty one is no address: a variable that was never set must not send requests elsewhere.
    app = args.app if args.app is not None else _CLUSTER["app"] if in_cluster else _APP
    auth = args.auth if args.auth is not None else _CLUSTER["auth"] if in_cluster else _AUTH
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
    try:
        return parse(text)
    except ValueError as exc:
        raise ConfigurationError(setting=flag, source="flag", problem=f"{text!r}: {exc}") from None


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
