"""Whose word on a certificate is believed: the addresses of the reverse proxies."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from nexus_auth.domain.ports import Headers

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Endpoint = tuple[Any, ...] | list[Any] | None
"""One end of a connection as ASGI names it: a host and a port, or a path and None for a unix
socket; None where the server does not know."""

UNIX_SOCKET: Final = "unix"
"""Names the peers that come in through a unix socket in a list of trusted peers.

uvicorn alone says that a connection came in through one. Behind any other server that we know this
entry matches no peer (measured: Hypercorn and Daphne name neither end, Granian no peer).
"""

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
"""RFC 4291 §2.5.5.2: how a listener for both families names IPv4 peers."""

_NOT_FORWARDING: Final = frozenset({b"host", b"content-length"})
"""Headers in which an address or a number is nothing unusual, and from which no server takes a
peer. All others count: Daphne's options name any."""

_PORT: Final = re.compile(r"(?<![\w.-])\d(?:_?\d)*+(?![\w.:-])")
"""A number on its own, or behind a colon, as `int` reads it: servers read a port with it, which
takes 1_0 for 10, and digits of any script."""

_ADDRESS: Final = re.compile(r"[\w.:-]+")
"""What an address without a zone, perhaps with a port, is written with. Anything else parts one
from the next: commas, brackets, quotes, `for=`."""

_MAX_LOOKED_THROUGH: Final = 32 * 1024
_MAX_ADDRESSES: Final = 64
"""How much of headers, in bytes, is looked through for a port, and how many different addresses are
compared. More than that counts as naming the peer. nginx takes 32 KiB of headers by default."""


@dataclass(frozen=True, slots=True)
class TrustedPeers:
    """A set of addresses and networks, perhaps with unix sockets. An empty one trusts no peer."""

    networks: tuple[Network, ...] = ()
    unix_sockets: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads addresses and networks such as `10.0.0.7, 192.168.0.0/16, fd00::/8`.

        For the service, where a unix socket is always trusted: its directory says who may open it.

        Raises:
            ValueError: When one is neither, or a network's address has bits beyond its length, a
                zone, or both IPv4 and IPv6 in it.
        """
        return cls(_parse_networks(text.split(",")), unix_sockets=True)

    @classmethod
    def of(cls, entries: Iterable[str]) -> Self:
        """Reads a list of addresses (`127.0.0.1`), networks (`10.0.0.0/8`) and `unix`.

        `unix` needs a server that names the socket: see `UNIX_SOCKET`.

        Raises:
            ValueError: When an entry is none of these, or cannot mean what it says.
        """
        if isinstance(entries, str):
            raise ValueError("trusted proxies are a list, not a text")  # noqa: TRY004 - one type
        listed = set(entries)
        return cls(
            _parse_networks(sorted(listed - {UNIX_SOCKET})), unix_sockets=UNIX_SOCKET in listed
        )

    def include(self, client: Endpoint, server: Endpoint) -> bool:
        """Says whether the peer of a connection is one of them.

        Args:
            client: The peer, as the server names it. Servers name none on a unix socket; but a
                missing one alone could mean anything, and an unknown peer is an untrusted one.
            server: The server's own end: on a unix socket, a path without a port.
        """
        if client is None:
            return self.unix_sockets and server is not None and [*server[1:]] == [None]
        address = _address(client[0]) if client else None
        return address is not None and any(address in network for network in self.networks)

    def __str__(self) -> str:
        """The networks as a setting lists them."""
        return ",".join(str(network) for network in self.networks)


def is_unnamed(client: Endpoint, server: Endpoint) -> bool:
    """Says whether a server names no peer, and does not say either that it has a unix socket."""
    return server is None if client is None else not (client and client[0])


def is_rewritten(client: Endpoint, headers: Headers) -> bool:
    """Says whether a peer may come from a header, which any client can write.

    Most servers have an option that puts an address from `X-Forwarded-For` or the like in the
    place of the peer, and none says so. What they write there has no port, 0 in its place, or one
    that stands in a header as well as the address does. A peer of TCP has a port that the client
    cannot know when it is not its own.

    Args:
        client: The peer, as the server names it.
        headers: Names in lower case.
    """
    if client is None:
        return False
    # Granian names ports as text.
    port = _number(str(client[1])) if len(client) > 1 else None
    if port is None or not 0 < port < 1 << 16:
        return True
    values = [value for name, value in headers if name not in _NOT_FORWARDING]
    text = b"\n".join(values)
    if text.isascii() and b"%d" % port not in text.replace(b"_", b""):
        return False
    if len(text) > _MAX_LOOKED_THROUGH:
        return True
    # Some servers read Latin-1. What is left out here can only be white space to them.
    decoded = text.decode("utf-8", "ignore")
    if not any(_number(found) == port for found in set(_PORT.findall(decoded))):
        return False
    return _is_named(client[0], decoded)


def is_named(client: Endpoint, headers: Headers) -> bool:
    """Says the same where the port proves nothing: whether the peer's address is in a header.

    What rewrites a peer in WSGI changes the address alone (ProxyFix of Werkzeug, Granian's
    `wrap_wsgi_with_proxy_headers`), and several servers name no port at all.

    Args:
        client: The peer, as the server names it.
        headers: Names in lower case.
    """
    if client is None:
        return False
    text = b"\n".join(value for name, value in headers if name not in _NOT_FORWARDING)
    return len(text) > _MAX_LOOKED_THROUGH or _is_named(client[0], text.decode("utf-8", "ignore"))


def _is_named(address: object, text: str) -> bool:
    named = _address(address)
    spelt = {found for found in _ADDRESS.findall(text) if "." in found or ":" in found}
    return len(spelt) > _MAX_ADDRESSES or any(
        named in {_address(found), _address(found.rpartition(":")[0])} for found in spelt
    )


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _address(text: object) -> Ip | None:
    """An address without a zone, and as IPv4 where it is mapped; None for any other text."""
    try:
        address = ipaddress.ip_address(str(text))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    return address.ipv4_mapped or ipaddress.IPv6Address(int(address))


def _parse_networks(entries: Iterable[str]) -> tuple[Network, ...]:
    networks: list[Network] = []
    for entry in entries:
        text = entry.strip()
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            raise ValueError(
                "expected addresses or networks separated by commas, such as "
                f"10.0.0.7,192.168.0.0/16; {text!r} is neither"
            ) from None
        networks.append(_without_mapping(network))
    return tuple(networks)


def _without_mapping(network: Network) -> Network:
    """A network as peers are compared with it: without a zone, and IPv4 where it is mapped."""
    if isinstance(network, ipaddress.IPv4Network):
        return network
    if network.network_address.scope_id is not None:
        raise ValueError(
            f"expected addresses or networks without a zone; {str(network)!r} would be believed on "
            "every interface"
        )
    if network.subnet_of(_MAPPED):
        address = int(network.network_address) & 0xFFFF_FFFF
        return ipaddress.IPv4Network((address, network.prefixlen - _MAPPED.prefixlen))
    if network.supernet_of(_MAPPED):
        raise ValueError(
            f"expected addresses or networks of one family; {str(network)!r} holds IPv4 addresses "
            "in their IPv6 form: write IPv4 networks as such, and IPv6 as 2000::/3,fc00::/7,::1"
        )
    return network
