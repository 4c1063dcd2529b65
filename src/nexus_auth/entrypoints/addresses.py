"""Where a listener listens: a TCP address or a unix socket."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MAX_PORT: Final = 65535
_BACKLOG: Final = 2048
_HOST_AND_PORT: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^:\[\]/\s]*)):(?P<port>[0-9]{1,5})"
)


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port; an empty host means every interface, port 0 any free port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

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


ListenAddress = TcpAddress | UnixAddress


def parse_listen_address(text: str) -> ListenAddress:
    """Reads `:8080`, `host:port`, `[::1]:8080` or `unix:/path.sock`.

    Raises:
        ValueError: When it is none of these; the message says what is expected.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute():
            raise ValueError(
                "a unix socket needs an absolute path, as in unix:/run/nexus-auth.sock"
            )
        return UnixAddress(path)
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None or int(match["port"]) > _MAX_PORT:
        raise ValueError("expected :8080, host:port, [::1]:8080 or unix:/path.sock")
    return TcpAddress(match["v6"] or match["host"] or "", int(match["port"]))


def bind(address: ListenAddress) -> socket.socket:
    """Opens a listening socket.

    A stale unix socket file of a dead process is replaced; one that somebody answers is not.

    Raises:
        OSError: When the address is taken or not ours to bind.
    """
    if isinstance(address, UnixAddress):
        return _bind_unix(address.path)
    if not address.host and socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", address.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
        )
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                else:
                    raise OSError(f"{path} is in use by a running process")
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
