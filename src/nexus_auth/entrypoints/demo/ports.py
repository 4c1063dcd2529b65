"""Free ports on loopback that stay free until the program they are meant for takes them."""

from __future__ import annotations

import socket
import sys
from typing import Final

LOOPBACK: Final = "127.0.0.1"


class ReservedPort:
    """A port that nobody else is given.

    On Linux a bound socket that does not listen keeps the port from being handed out, while a
    program that sets SO_REUSEADDR, as every server does, may listen on it. Elsewhere the
    reservation ends at once, and a clash is possible, if unlikely.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, 0))
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def close(self) -> None:
        """Gives the port back."""
        self._socket.close()

    @property
    def address(self) -> str:
        """As `host:port`."""
        return f"{LOOPBACK}:{self.number}"

    def is_answered(self) -> bool:
        """Whether somebody listens on it."""
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((LOOPBACK, self.number)) == 0
