"""Key updates of OpenSSL's own server, while one thread reads and another one writes."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

from nexus_auth.adapters.tls.context import PinnedContext
from tests.integration.real import (
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)
from tests.tls_pairs import pinned_context, write_pair

_UPDATES = 20


class _Output:
    """What a process writes, read as it comes."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        self._content, self._came = bytearray(), threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while received := os.read(self._stream, 65536):
            with self._came:
                self._content += received
                self._came.notify_all()

    def wait_for(self, text: bytes, times: int) -> None:
        """Waits until a text has come so many times, and no more often."""
        with self._came:
            assert self._came.wait_for(lambda: self._content.count(text) >= times, 20)
            assert self._content.count(text) == times

    def close(self) -> None:
        """Waits for its end."""
        self._thread.join(20)


def test_keys_change_in_both_directions_under_traffic(tmp_path: Path) -> None:
    """`K` has the server change its keys and ask for ours (RFC 8446 §4.6.3); no byte is lost."""
    openssl = require_program("openssl", "apt-get install openssl")
    pair, port = write_pair(tmp_path / "miner", "miner"), free_port()
    context: PinnedContext = pinned_context(write_pair(tmp_path / "caller", "caller"))
    server = subprocess.Popen(
        [
            *(openssl, "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_3"),
            *("-cert", pair / "client.crt", "-key", pair / "client.key"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    output = _Output(server.stdout.fileno())
    try:
        wait_until_ready(lambda: accepts_connections(port), what="openssl s_server")
        bare = socket.create_connection(("127.0.0.1", port), 20)
        with context.wrap_socket(bare) as connection:
            ends = threading.Event()
            written = 0

            def write() -> None:
                nonlocal written
                while not ends.is_set():
                    connection.sendall(b"~" * 10_000)
                    written += 10_000

            writing = threading.Thread(target=write, daemon=True)
            writing.start()
            for number in range(_UPDATES):
                server.stdin.write(b"K\n")
                server.stdin.flush()
                output.wait_for(b"SSL_do_handshake -> 1", number + 1)
                line = b"line %d\n" % number
                server.stdin.write(line)
                server.stdin.flush()
                got = b""
                while len(got) < len(line):
                    got += connection.recv(100)
                assert got == line
            ends.set()
            writing.join(20)
            assert not writing.is_alive()
            output.wait_for(b"~", written)
            assert connection.version() == "TLSv1.3"
    finally:
        server.stdin.close()
        server.kill()
        server.wait()
        output.close()
        server.stdout.close()
