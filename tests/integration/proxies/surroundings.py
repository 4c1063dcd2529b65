"""What surrounds a proxy on a real machine: names that change, idle connections, many callers.

Everything is on loopback. The proxy has a name server and files in /etc of its own: it starts in a
mount namespace, which needs the rights of root.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import secrets
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import pytest

from tests.integration.real import REQUIRE_REAL

_A: Final = 1
_NO_SUCH_NAME: Final = 3
_AUTHORITATIVE: Final = 0x8580


class NameServer:
    """Knows the names in `addresses` (IPv4, for a second), and keeps what it was asked for."""

    def __init__(self, addresses: dict[str, str] | None = None, *, port: int = 53) -> None:
        """Opens it on an address of its own; /etc/resolv.conf has no place for another port."""
        self.addresses = addresses or {}
        self.asked: set[str] = set()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.host = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.9"
        self._socket.bind((self.host, port))
        self._thread = threading.Thread(target=self._serve)
        self._is_over = False

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return f"{self.host}:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            query, peer = self._socket.recvfrom(4096)
            if self._is_over:
                return
            with contextlib.suppress(ValueError, IndexError, OSError):
                self._socket.sendto(self._answer(query), peer)

    def _answer(self, query: bytes) -> bytes:
        """RFC 1035 §4.1: the question comes back, with an address where there is one."""
        labels, at = list[str](), 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode("ascii"))
            at += 1 + length
        name, end = ".".join(labels).lower(), at + 5
        self.asked.add(name)
        address = self.addresses.get(name)
        kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
        flags = _AUTHORITATIVE if address else _AUTHORITATIVE | _NO_SUCH_NAME
        found = b""
        if address and kind == _A:
            found = b"\xc0\x0c" + struct.pack("!HHIH", _A, 1, 1, 4) + socket.inet_aton(address)
        counts = struct.pack("!HHHHH", flags, 1, 1 if found else 0, 0, 0)
        return query[:2] + counts + query[12:end] + found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


def with_files_of_etc(folder: Path, *, hosts: str, resolver: str | None = None) -> list[str]:
    """The start of a command that sees other files /etc/hosts and /etc/resolv.conf, for root."""
    tried = ["unshare", "--mount", "true"]
    if shutil.which("unshare") is None or subprocess.run(tried, check=False).returncode:
        message = "this needs the rights of root: a mount namespace of its own"
        if REQUIRE_REAL:
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    (folder / "hosts").write_text(hosts, encoding="ascii")
    script = f"mount --bind {folder}/hosts /etc/hosts"
    if resolver is not None:
        (folder / "resolv.conf").write_text(f"nameserver {resolver}\n", encoding="ascii")
        script += f"; mount --bind {folder}/resolv.conf /etc/resolv.conf"
    return ["unshare", "--mount", "sh", "-c", f'{script}; exec "$@"', "sh"]


class _PatientHandler(socketserver.StreamRequestHandler):
    server: _PatientServer

    def handle(self) -> None:
        next(self.server.opened)
        with contextlib.suppress(OSError):
            while self._one_request():
                pass
        self.server.closed_by_peer.release()

    def _one_request(self) -> bool:
        length, method = 0, self.rfile.readline(1 << 20)[:5]
        while (line := self.rfile.readline(1 << 20)) != b"\r\n":
            if not line:
                return False
            name, _, value = line.lower().partition(b":")
            length = int(value) if name == b"content-length" else length
        self.rfile.read(length)
        next(self.server.asked)
        time.sleep(self.server.delay_seconds)
        head, separator, body = self.server.answer.partition(b"\r\n\r\n")
        self.wfile.write(head + separator + (b"" if method == b"HEAD " else body))
        return True


class _PatientServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    answer: bytes
    closed_by_peer: threading.Semaphore
    opened: itertools.count[int]
    asked: itertools.count[int]
    delay_seconds: float


class PatientServer:
    """An HTTP server that keeps every connection open for as long as the other side does."""

    def __init__(
        self,
        *headers: str,
        status: str = "200 OK",
        body: str = "Hello",
        delay_seconds: float = 0.0,
    ) -> None:
        self._server = _PatientServer(("127.0.0.1", 0), _PatientHandler)
        lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", body]
        self._server.answer = "\r\n".join(lines).encode("ascii")
        self._server.closed_by_peer = threading.Semaphore(0)
        self._server.opened = itertools.count()
        self._server.asked = itertools.count()
        self._server.delay_seconds = delay_seconds
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def connections(self) -> int:
        """How many connections were opened so far; to be asked once, at the end."""
        return next(self._server.opened)

    def requests(self) -> int:
        """How many requests came so far; to be asked once, at the end."""
        return next(self._server.asked)

    def is_closed_by_peer(self, seconds: float) -> bool:
        """Waits until the other side closed a connection; False when it did not in time."""
        return self._server.closed_by_peer.acquire(timeout=seconds)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _GatheringHandler(socketserver.StreamRequestHandler):
    server: _GatheringServer

    def handle(self) -> None:
        with contextlib.suppress(OSError, threading.BrokenBarrierError):
            while (line := self.rfile.readline(1 << 20)) != b"\r\n":
                if not line:
                    return
            next(self.server.arrivals)
            self.server.barrier.wait()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")


class _GatheringServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 4096
    arrivals: itertools.count[int]
    barrier: threading.Barrier


class GatheringServer:
    """An application that answers no request before `count` of them are under way at once."""

    def __init__(self, count: int, *, patience_seconds: float) -> None:
        self._server = _GatheringServer(("127.0.0.1", 0), _GatheringHandler)
        self._server.arrivals = itertools.count()
        self._server.barrier = threading.Barrier(count, timeout=patience_seconds)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def address(self) -> str:
        """Where it listens, `host:port`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.barrier.abort()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def many_open_files(count: int) -> Iterator[None]:
    """Lets this process, the tests themselves, open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.fail(f"the tests need {count} open files, and at most {hard} are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
