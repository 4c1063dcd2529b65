"""A Redis that answers whatever it is told to, over a real socket."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

Behaviour = Callable[[socket.socket], None]
"""What is done for a command. The connection stays open afterwards, unless it raises."""

_GREETINGS: Final = frozenset({b"AUTH", b"CLIENT", b"SELECT"})


class HostileRedis(socketserver.ThreadingTCPServer):
    """Reads commands as Redis does, and does the same for each of them.

    Where it is polite, commands that only open a connection get the answer that they should.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, behaviour: Behaviour, *, is_polite: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.behaviour = behaviour
        self.is_polite = is_polite
        self.commands = 0

    @property
    def url(self) -> str:
        """How a client reaches it."""
        return f"redis://127.0.0.1:{self.server_address[1]}/0"

    def handle_error(self, *_: object) -> None:
        """A client that leaves is no error here."""


class _Connection(socketserver.BaseRequestHandler):
    server: HostileRedis

    def handle(self) -> None:
        connection: socket.socket = self.request
        with connection.makefile("rb") as stream:
            while command := _read_command(stream):
                if self.server.is_polite and command[0] in _GREETINGS:
                    connection.sendall(b"+OK\r\n")
                else:
                    self.server.commands += 1
                    self.server.behaviour(connection)


def _read_command(stream: BinaryIO) -> list[bytes]:
    """One command, an array of texts; empty at the end of the connection."""
    head = stream.readline()
    return [stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:] or 0))]


@contextlib.contextmanager
def hostile_redis(behaviour: Behaviour, *, is_polite: bool = True) -> Iterator[HostileRedis]:
    """Runs one in a thread until the block ends."""
    with HostileRedis(behaviour, is_polite=is_polite) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def answering(reply: bytes) -> Behaviour:
    """Sends the same for each command."""
    return lambda connection: connection.sendall(reply)


def answering_half(reply: bytes) -> Behaviour:
    """Sends something, and closes the connection."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_RDWR)

    return behave


def pouring(head: bytes, part: bytes) -> Behaviour:
    """Sends the same part again and again, until the client leaves."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(part)

    return behave


def dripping(head: bytes, part: bytes) -> Behaviour:
    """Sends a byte now and then, until the client leaves."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(part)
            time.sleep(0.01)

    return behave


def saying_nothing(_: Any) -> None:
    """Reads commands, and that is all."""
