"""Where something listens: a TCP address or a unix socket, parsed and opened.

Parsers check, the values do not. A proxy's configuration has a stricter parser of its own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from nexus_auth.domain.errors import NexusAuthError

MAX_PORT: Final = 65535

_BACKLOG: Final = 2048
_EVERY_INTERFACE: Final = frozenset({"", "::"})
"""Both mean IPv4 too, as they do to the original. 0.0.0.0 is IPv4 alone."""
_HOST_AND_PORT: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^:\[\]/\s]*))"
    r":(?:(?P<port>[0-9]{1,5})|(?P<service>[a-z][a-z0-9-]*))"
)


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

    is_loopback: ClassVar[bool] = True
    """Only this machine can reach it."""

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


class CannotListen(NexusAuthError):
    """An address is taken, or not ours to listen on."""

    def __init__(self, address: Address, source: str, cause: OSError) -> None:
        super().__init__(f"cannot listen on {address} (from {source}): {cause.strerror or cause}")


def parse_listen_address(text: str) -> Address:
    """Parses `:8080`, `host:port`, `[::1]:8080` or `unix:/path.sock`, or raises ValueError.

    A port may be named as in /etc/services: `localhost:http`.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute():
            raise ValueError(
                "a unix socket needs an absolute path, as in unix:/run/nexus-auth.sock"
            )
        return UnixAddress(path)
    match = _HOST_AND_PORT.fullmatch(text)
    if match is not None:
        with contextlib.suppress(OSError):  # no service of that name
            port = int(match["port"] or socket.getservbyname(match["service"], "tcp"))
            if port <= MAX_PORT:
                return TcpAddress(match["v6"] or match["host"] or "", port)
    raise ValueError("expected :8080, host:port, [::1]:8080 or unix:/path.sock")


def bind(address: Address, *, mode: int = 0o600) -> socket.socket:
    """Opens a listening socket.

    The socket file of a dead process is replaced, one on which a process listens is not.

    Args:
        address: Where to listen.
        mode: The mode of a unix socket; until it has it, it is open to its owner alone.

    Raises:
        OSError: When the address is taken, or not ours to bind.
    """
    if isinstance(address, UnixAddress):
        return _bind_unix(address.path, mode)
    if address.host in _EVERY_INTERFACE and socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", address.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
        )
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)


def _bind_unix(path: Path, mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_abandoned(path)
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        path.chmod(mode)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_abandoned(path: Path) -> None:
    """Removes the socket file of a dead process; raises OSError where a process listens on it."""
    if not path.is_socket():
        return
    found = SocketFile(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)  # a busy process may have a full queue
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            found.remove()
        except BlockingIOError:
            raise OSError(f"{path} is in use by a busy process") from None
        else:
            raise OSError(f"{path} is in use by a running process")


class SocketFile:
    """The file of a unix socket, known by its inode: a successor's has the same name.

    The inode is not used again while the socket is open.
    """

    def __init__(self, path: Path) -> None:
        """Takes the file that is there now; raises OSError when there is none."""
        self._path = path
        self._inode: tuple[int, int] | None = self._read()

    def remove(self) -> None:
        """Removes this file, and no other that has taken its name. Removing twice is fine."""
        with contextlib.suppress(FileNotFoundError):
            if self._read() == self._inode:
                self._path.unlink()
        self._inode = None

    def _read(self) -> tuple[int, int]:
        status = self._path.lstat()
        return status.st_dev, status.st_ino
