"""A real Redis on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.integration.real import (
    Process,
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)

PASSWORD = "a password for Redis"


def redis_url(port: int, *, password: str | None = PASSWORD) -> str:
    """The URL of a Redis started here."""
    credentials = "" if password is None else f":{password.replace(' ', '%20')}@"
    return f"redis://{credentials}127.0.0.1:{port}/0"


def rediss_url(port: int, *, trust: Path | None, host: str = "localhost") -> str:
    """The URL of a Redis started here with TLS; without `trust`, nobody vouches for it."""
    options = "" if trust is None else f"?ssl_ca_certs={trust}"
    return f"rediss://:{PASSWORD.replace(' ', '%20')}@{host}:{port}/0{options}"


@contextlib.contextmanager
def running_redis(
    folder: Path, *, port: int | None = None, tls: tuple[Path, Path] | None = None
) -> Iterator[tuple[Process, int]]:
    """Starts Redis, with a password and nothing on disk, and stops it at the end.

    With `tls`, a certificate and its key, it speaks TLS and nothing else.
    """
    program = require_program("redis-server", "apt-get install redis-server")
    port = port or free_port()
    command = [
        *(program, "--port", port if tls is None else 0, "--bind", "127.0.0.1"),
        *("--save", "", "--appendonly", "no", "--requirepass", PASSWORD, "--dir", folder),
    ]
    if tls is not None:
        command += ["--tls-port", port, "--tls-auth-clients", "no"]
        command += ["--tls-cert-file", tls[0], "--tls-key-file", tls[1]]
    with Process([str(part) for part in command], log_file=folder / f"redis-{port}.log") as process:
        wait_until_ready(lambda: accepts_connections(port), what="redis-server", process=process)
        yield process, port
