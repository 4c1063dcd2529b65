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


@contextlib.contextmanager
def running_redis(folder: Path, *, port: int | None = None) -> Iterator[tuple[Process, int]]:
    """Starts Redis, with a password and nothing on disk, and stops it at the end."""
    program = require_program("redis-server", "apt-get install redis-server")
    port = port or free_port()
    command = [
        *(program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
        *("--requirepass", PASSWORD, "--dir", folder),
    ]
    with Process([str(part) for part in command], log_file=folder / f"redis-{port}.log") as process:
        wait_until_ready(lambda: accepts_connections(port), what="redis-server", process=process)
        yield process, port
