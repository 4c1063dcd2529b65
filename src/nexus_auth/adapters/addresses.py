"""Where something listens: a TCP address or a unix socket. Parsers check, these values do not."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port; to listen, an empty host means every interface, port 0 any free port."""

    host: str
    port: int

    @property
    def is_numeric(self) -> bool:
        """Whether the host is an address, not a name."""
        return self._ip() is not None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine is meant."""
        address = self._ip()
        return self.host == "localhost" if address is None else address.is_loopback

    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket in the file system."""

    path: Path

    @property
    def is_loopback(self) -> bool:
        """Always true: only this machine can reach it."""
        return True

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress
