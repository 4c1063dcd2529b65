"""A blocking socket that speaks TLS over memory buffers, so that a handshake can be stopped."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_READ_BYTES: Final = 64 * 1024
_WRITE_BYTES: Final = 256 * 1024
"""How much is encrypted at a time, at most."""


class PinnedSocket(socket.socket):
    """A connected socket, with TLS on top. One thread may read while another one writes.

    Whatever `socket.socket` has and would pass by TLS raises `NotImplementedError`.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: ssl.SSLObject,
        *,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        handshakes: bool = True,
        suppress_ragged_eofs: bool = True,
    ) -> None:
        """Takes over a socket, which must not be used afterwards; closes it where this fails.

        Raises:
            ValueError: If the socket does not block.
            OSError: If it is not connected, or what the handshake raises.
        """
        if sock.gettimeout() == 0:
            raise ValueError("expected a socket that blocks; for others there is wrap_bio")
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.fileno())
        super().settimeout(sock.gettimeout())
        sock.detach()
        self._connection, self._incoming, self._outgoing = connection, incoming, outgoing
        self._suppress_ragged_eofs = suppress_ragged_eofs
        self._state, self._sending = threading.Lock(), threading.Lock()
        try:
            self.getpeername()
            if handshakes:
                self.do_handshake()
        except BaseException:
            self.close()
            raise

    def do_handshake(self) -> None:
        """Completes the handshake; nothing else does."""
        self._run(self._connection.do_handshake)

    def _run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Takes a step of the connection, and moves bytes until it is done."""
        while True:
            try:
                with self._state:
                    result = step(*args, **kwargs)
            except ssl.SSLWantReadError:
                self._flush()
                # Where another thread has read meanwhile, it is the step that finds out.
                received = super().recv(_READ_BYTES)
                with self._state:
                    if received:
                        self._incoming.write(received)
                    else:
                        self._incoming.write_eof()
            except ssl.SSLError:
                # An alert, which says why; the error counts, not whether that arrives.
                with suppress(OSError):
                    self._flush()
                raise
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        with self._sending:
            with self._state:
                waiting = self._outgoing.read()
            if waiting:
                super().sendall(waiting)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Reads at most `bufsize` bytes; none at the end."""
        buffer = bytearray(bufsize)
        return bytes(buffer[: self.recv_into(buffer, bufsize, flags)])

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Reads into a buffer, and gives the number of bytes; 0 at the end."""
        _require_none(flags)
        with memoryview(buffer) as view, view.cast("B") as room:
            wanted = nbytes or len(room)
            if not wanted:
                return 0
            try:
                return int(self._run(self._connection.read, wanted, room))
            except ssl.SSLEOFError:
                if self._suppress_ragged_eofs:
                    return 0
                raise

    def send(self, data: Any, flags: int = 0) -> int:
        """Writes all of it."""
        self.sendall(data, flags)
        return memoryview(data).nbytes

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Writes all of it."""
        _require_none(flags)
        with memoryview(data) as view, view.cast("B") as content:
            for begin in range(0, len(content), _WRITE_BYTES):
                self._run(self._connection.write, content[begin : begin + _WRITE_BYTES])

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Writes what is in a file."""
        if offset:
            file.seek(offset)
        sent = 0
        while content := file.read(
            min(_WRITE_BYTES, _WRITE_BYTES if count is None else count - sent)
        ):
            self.sendall(content)
            sent += len(content)
        return sent

    def settimeout(self, value: float | None) -> None:
        """As the parent's; the socket always blocks.

        Raises:
            ValueError: For zero.
        """
        if value == 0:
            raise ValueError("this socket always blocks; for others there is wrap_bio")
        super().settimeout(value)

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the parent's signature
        """As the parent's; the socket always blocks."""
        self.settimeout(None if flag else 0)

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: FBT001, FBT002
        """As `ssl.SSLSocket.getpeercert`."""
        return self._connection.getpeercert(binary_form)

    def version(self) -> str | None:
        """As `ssl.SSLSocket.version`."""
        return self._connection.version()

    def cipher(self) -> tuple[str, str, int] | None:
        """As `ssl.SSLSocket.cipher`."""
        return self._connection.cipher()

    def selected_alpn_protocol(self) -> str | None:
        """As `ssl.SSLSocket.selected_alpn_protocol`."""
        return self._connection.selected_alpn_protocol()

    def pending(self) -> int:
        """As `ssl.SSLSocket.pending`."""
        return self._connection.pending()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("would pass by TLS")

    recvfrom = recvfrom_into = recvmsg = recvmsg_into = sendto = sendmsg = dup = _refuse


def _require_none(flags: int) -> None:
    if flags:
        raise ValueError("TLS knows no flags")
