"""Whose word on a certificate is believed: the addresses of the reverse proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Self

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_REMEMBERED_PEERS: Final = 1024
"""How many peers' answers are kept: proxies are few, and strangers push one another out."""


class TrustedProxies:
    """A set of addresses and networks. An empty one trusts nobody.

    Says nothing about unix sockets: whoever can open one was let in by its directory.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        """Holds the networks; see `parse` for text."""
        self.networks = tuple(networks)
        # Bound to the instance, so that two sets never share answers.
        self._trusts_host = lru_cache(maxsize=_REMEMBERED_PEERS)(self._is_inside)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads addresses and networks such as `10.0.0.7, 192.168.0.0/16, fd00::/8`.

        Raises:
            ValueError: When one is neither, or a network's address has bits beyond its length.
        """
        parts = [part.strip() for part in text.split(",")]
        networks: list[Network] = []
        for part in parts:
            try:
                networks.append(ipaddress.ip_network(part))
            except ValueError:
                raise ValueError(
                    "expected addresses or networks separated by commas, such as "
                    f"10.0.0.7,192.168.0.0/16; {part!r} is neither"
                ) from None
        return cls(networks)

    def trusts(self, host: str) -> bool:
        """Says whether the peer at this address (as the socket names it) is a trusted proxy."""
        return self._trusts_host(host)

    def _is_inside(self, host: str) -> bool:
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

    def __eq__(self, other: object) -> bool:
        """Two sets are equal when their networks are."""
        return isinstance(other, TrustedProxies) and self.networks == other.networks

    def __hash__(self) -> int:
        """Goes with `__eq__`."""
        return hash(self.networks)

    def __str__(self) -> str:
        """The networks as they are written."""
        return ",".join(str(network) for network in self.networks)
