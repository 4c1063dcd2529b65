"""What a proxy configuration is made for: addresses and files, checked so that none can inject.

A parser here takes text and returns the value, or raises ValueError saying what is expected.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from nexus_auth.adapters.addresses import MAX_PORT, Address, TcpAddress, UnixAddress
from nexus_auth.domain.policy import parse_policy_name

# Nothing in these has a meaning in any configuration language that is written here: no quotes,
# no white space, no $, {, }, ;, #, %, backslash.
_PATH: Final = re.compile(r"/[A-Za-z0-9._/@+=~-]{1,400}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_HOST_AND_PORT: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})"
)
_RATE: Final = re.compile(r"([1-9][0-9]{0,5})/([sm])")
_DNS_PORT: Final = 53
# sun_path, 108 bytes with its final zero.
_MAX_SOCKET_PATH: Final = 107


class UnsuitableSite(ValueError):
    """A proxy cannot do what a site needs, such as reach a unix socket.

    Attributes:
        argument: Which argument, such as `auth`.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(problem)
        self.argument = argument


def parse_path(text: str) -> str:
    """Parses an absolute path without characters that a configuration could misread."""
    if _PATH.fullmatch(text) is None:
        raise ValueError("expected an absolute path of letters, digits and . _ - / @ + = ~")
    return text


def parse_host(text: str) -> str:
    """Parses a host name or an IPv4 address."""
    if _HOST.fullmatch(text) is None:
        raise ValueError("expected a host name of letters, digits, dots and hyphens")
    return text


def parse_tcp_address(text: str, *, every_interface: bool = False) -> TcpAddress:
    """Parses `host:port` or `[::1]:port`, and `:port` where every interface is meant."""
    example = ":443, " if every_interface else ""
    problem = f"expected {example}host:port or [::1]:port"
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None or not 0 < int(match["port"]) <= MAX_PORT:
        raise ValueError(problem)
    host = match["v6"] or match["host"]
    if match["v6"]:
        try:
            host = str(ipaddress.IPv6Address(host))
        except ValueError:
            raise ValueError(problem) from None
    elif host:
        parse_host(host)
    elif not every_interface:
        raise ValueError(problem)
    return TcpAddress(host, int(match["port"]))


def parse_upstream(text: str) -> Address:
    """Parses `host:port`, `[::1]:port` or `unix:/path.sock`."""
    if not text.startswith("unix:"):
        return parse_tcp_address(text)
    path = parse_path(text.removeprefix("unix:"))
    if len(path) > _MAX_SOCKET_PATH:
        raise ValueError(f"a unix socket's path has at most {_MAX_SOCKET_PATH} characters")
    return UnixAddress(Path(path))


def parse_keepalive(text: str) -> int:
    """Parses the whole seconds after which an application closes an idle connection."""
    if re.fullmatch(r"[0-9]{1,4}", text) is None:
        raise ValueError("expected whole seconds from 0 to 9999; 0 means no keep-alive")
    return int(text)


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit on the requests of one caller: so many in one second, or in one minute."""

    requests: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.requests}/{'s' if self.seconds == 1 else 'm'}"


def parse_rate(text: str) -> Rate:
    """Parses `20/s` or `300/m`."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("expected a rate such as 20/s or 300/m, from 1 to 999999")
    return Rate(int(match[1]), 1 if match[2] == "s" else 60)


def parse_resolvers(text: str) -> tuple[TcpAddress, ...]:
    """Parses addresses of name servers, separated by commas: `10.0.0.2`, `[fd00::1]:5353`."""
    found = []
    for part in text.split(","):
        try:
            found.append(TcpAddress(str(ipaddress.ip_address(part)), _DNS_PORT))
        except ValueError:
            found.append(parse_tcp_address(part))
        # A zone (fe80::1%eth0) may be any text.
        if not found[-1].is_numeric or "%" in part:
            raise ValueError("expected the addresses of name servers, such as 10.0.0.2 or [::1]:53")
    return tuple(found)


PARSERS: Final[Mapping[str, Callable[[str], object]]] = {
    "listen": partial(parse_tcp_address, every_interface=True),
    "app": parse_upstream,
    "auth": parse_upstream,
    "tls_cert": parse_path,
    "tls_key": parse_path,
    "server_name": parse_host,
    "policy": parse_policy_name,
    "state_dir": parse_path,
    "app_keepalive": parse_keepalive,
    "resolver": parse_resolvers,
    "rate": parse_rate,
}
"""How the text of each attribute of a `Site` is read."""


def idle_ms(keepalive_seconds: int) -> int:
    """How long a proxy keeps an idle connection: clearly shorter than the other side does.

    What is sent while the other side closes is lost, and a POST cannot be sent again.
    """
    return keepalive_seconds * 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a configuration is made for.

    Attributes:
        listen: Where the proxy listens.
        app: The application behind it.
        auth: The auth service.
        tls_cert: The proxy's own certificate with its chain, PEM.
        tls_key: Its key, PEM.
        server_name: The public host name, where one is needed.
        policy: The name of the access policy that the auth service shall apply; None for its
            default.
        state_dir: Where the proxy may keep its files (cache, process id); None leaves that to the
            proxy's own habits.
        app_keepalive: After how many seconds the application closes an idle connection; 0 where
            it keeps none open.
        resolver: The name servers to ask for the names of `app` and `auth`; empty leaves them to
            the proxy.
        rate: How many requests each caller may send; None for any number.
    """

    listen: TcpAddress
    app: Address
    auth: Address
    tls_cert: str
    tls_key: str
    server_name: str | None = None
    policy: str | None = None
    state_dir: str | None = None
    app_keepalive: int = 5
    resolver: tuple[TcpAddress, ...] = ()
    rate: Rate | None = None

    @property
    def names(self) -> tuple[TcpAddress, ...]:
        """Those of `auth` and `app` that a name server has to be asked for."""
        return tuple(
            address
            for address in (self.auth, self.app)
            if isinstance(address, TcpAddress)
            and not (address.is_numeric or address.host == "localhost")
        )
