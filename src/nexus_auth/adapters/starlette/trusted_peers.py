"""Whose word on a certificate is believed: the addresses of the reverse proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Endpoint = tuple[Any, ...] | list[Any] | None
"""One end of a connection as ASGI names it: a host and a port, or a path and None for a unix
socket; None where the server does not know."""

UNIX_SOCKET: Final = "unix"
"""Names the peers that come in through a unix socket in a list of trusted peers."""


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
            ValueError: When one is neither, or a network's address has bits beyond its length.
        """
        return cls(_parse_networks(text.split(",")), unix_sockets=True)

    @classmethod
    def of(cls, entries: Iterable[str]) -> Self:
        """Reads a list of addresses (`127.0.0.1`), networks (`10.0.0.0/8`) and `unix`.

        Raises:
            ValueError: When an entry is none of these.
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
            return self.unix_sockets and server is not None and server[1] is None
        return self._has_address(client[0])

    def _has_address(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped is not None:
                # How a listener for both families names an IPv4 peer.
                address = address.ipv4_mapped
            elif address.scope_id is not None:
                address = ipaddress.IPv6Address(int(address))
        return any(address in network for network in self.networks)

    def __str__(self) -> str:
        """The networks as a setting lists them."""
        return ",".join(str(network) for network in self.networks)


def _parse_networks(entries: Iterable[str]) -> tuple[Network, ...]:
    networks: list[Network] = []
    for entry in entries:
        text = entry.strip()
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError:
            raise ValueError(
                "expected addresses or networks separated by commas, such as "
                f"10.0.0.7,192.168.0.0/16; {text!r} is neither"
            ) from None
    return tuple(networks)
