"""A blocking socket that speaks TLS over memory buffers, so that a handshake can be stopped."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_READ_BYTES: Final = 64 * 1024
_WRITE_BYTES: Final = 256 * 1024
"""How much is encrypted at a time, at most."""
_MAX_LEFT_BYTES: Final = 2 * _WRITE_BYTES
"""More than what one thread encrypts, while another one has left something."""


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
        self._state, self._sending = threading.Lock(), threading.RLock()
        try:
            self.getpeername()
            if handshakes:
                self.do_handshake()
        except BaseException:
            self.close()
            raise

    def do_handshake(self) -> None:
        """Completes the handshake; nothing else does. The timeout is for all of it."""
        self._run(self._connection.do_handshake)

    def _run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Takes a step of the connection, and moves bytes until it is done."""
        timeout = self.gettimeout()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                with self._state:
                    result = step(*args, **kwargs)
            except ssl.SSLWantReadError:
                self._flush()
                self._receive(deadline)
            except ssl.SSLError:
                # An alert, which says why; the error counts, not whether that arrives.
                with suppress(OSError):
                    self._flush()
                raise
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        """Sends what waits, where that takes no time.

        One who reads does not wait for one who writes: the server may take no more before its own
        bytes are read. What is left here, such as the answer to a key update, goes with the next
        bytes, or when there is room; only a server that causes too much of it is made to wait.
        """
        while left := self._outgoing.pending:
            waits = left > _MAX_LEFT_BYTES
            if not (waits or self._poll(select.POLLOUT, 0)) or not self._sending.acquire(waits):
                return
            try:
                self._send_waiting()
            finally:
                self._sending.release()

    def _send_waiting(self) -> None:
        with self._state:
            waiting = self._outgoing.read()
        super().sendall(waiting)

    def _receive(self, deadline: float | None) -> None:
        # The time is that of the step: a byte now and then does not make it longer.
        seconds = None if deadline is None else max(0, deadline - time.monotonic())
        events = self._poll(
            select.POLLIN | (select.POLLOUT if self._outgoing.pending else 0), seconds
        )
        if not events:
            raise TimeoutError("timed out")
        if events == select.POLLOUT:
            return
        received = super().recv(_READ_BYTES)
        with self._state:
            if received:
                self._incoming.write(received)
            else:
                self._incoming.write_eof()

    def _poll(self, events: int, seconds: float | None) -> int:
        """Waits for events, and says which have come; 0 for none in time."""
        if self.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        poll = select.poll()
        poll.register(self.fileno(), events)
        return sum(event for _, event in poll.poll(None if seconds is None else seconds * 1000))

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Reads at most `bufsize` bytes; none at the end."""
        buffer = bytearray(min(bufsize, _READ_BYTES))
        return bytes(buffer[: self.recv_into(buffer, flags=flags)])

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
                with self._sending:
                    with self._state:
                        self._connection.write(content[begin : begin + _WRITE_BYTES])
                    self._send_waiting()
                # What another thread has left meanwhile.
                self._flush()

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Writes what is in a file."""
        by_sending: Any = super()._sendfile_use_send  # type: ignore[misc] # as `ssl` does
        return int(by_sending(file, offset, count))

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
        """How many bytes wait, for those who look before they wait: some are still encrypted."""
        return self._connection.pending() or self._incoming.pending

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("would pass by TLS")

    recvfrom = recvfrom_into = recvmsg = recvmsg_into = sendto = sendmsg = _refuse
    dup = detach = accept = bind = connect = connect_ex = listen = _refuse
    _sendfile_use_sendfile = _refuse


def _require_none(flags: int) -> None:
    if flags:
        raise ValueError("TLS knows no flags")
