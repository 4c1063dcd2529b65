"""The service as a process, as a user starts it.

with running_pylon() as pylon, running_service(tmp_path, pylon.url) as service:
    service.ask(certificate).status
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.builders import a_certificate, a_hotkey, a_key, public_bytes, to_nginx_header
from tests.integration.pylon.running import RunningPylon
from tests.integration.real import Process, free_port, wait_until_ready

TIMEOUT_SECONDS: Final = 10.0


def a_header(name: str = "alice", *, key_of: str | None = None) -> bytes:
    """The certificate of somebody as nginx sends it, valid at this very moment."""
    now = datetime.now(UTC)
    return to_nginx_header(
        a_certificate(
            hotkey=a_hotkey(name),
            key=a_key(key_of or name),
            not_before=now - timedelta(minutes=5),
            not_after=now + timedelta(days=1),
        )
    )


def register(pylon: RunningPylon, *names: str) -> None:
    """Puts the keys of these people on the development chain."""
    for name in names:
        pylon.store.set_certificate(a_hotkey(name), public_bytes(a_key(name)))


@dataclass(frozen=True, slots=True)
class Answered:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str | None:
        """The denial's code."""
        return self.headers.get("X-Nexus-Auth-Reason")


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that was started and is ready."""

    process: Process
    port: int
    admin_port: int
    socket_path: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def connect(self) -> socket.socket:
        """Opens a connection to the auth listener."""
        if self.socket_path is None:
            return socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(str(self.socket_path))
        return connection

    def ask(self, certificate: bytes | None, **headers: str) -> Answered:
        """Makes one request to the auth listener."""
        sent = dict(headers)
        if certificate is not None:
            sent["X-Client-Cert"] = certificate.decode()
        return request(self.connect(), "/", sent)

    def admin(self, path: str) -> tuple[int, Any]:
        """Makes one request to the admin listener; status and document."""
        connection = socket.create_connection(("127.0.0.1", self.admin_port), TIMEOUT_SECONDS)
        answered = request(connection, path, {})
        return answered.status, json.loads(answered.body)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What it logged under this name."""
        lines = [json.loads(line) for line in self.process.output.splitlines()]
        return [line for line in lines if line["event"] == event]

    def is_ready(self) -> bool:
        """Whether a registered caller would be let in."""
        try:
            return self.admin("/readyz")[0] == 200
        except OSError:
            return False


def request(
    connection: socket.socket, path: str, headers: Mapping[str, str], method: str = "GET"
) -> Answered:
    """Makes one request over a connection and closes it."""
    client = http.client.HTTPConnection("localhost")
    client.sock = connection
    try:
        client.request(method, path, headers=dict(headers))
        response = client.getresponse()
        assert len({name.lower() for name, _ in response.getheaders()}) == len(
            response.getheaders()
        )
        return Answered(response.status, dict(response.getheaders()), response.read())
    finally:
        client.close()


def service_environment(pylon_url: str, **settings: str) -> dict[str, str]:
    """The environment of a service that talks to a development Pylon."""
    environment = {name: value for name, value in os.environ.items() if "NEXUS" not in name}
    return {
        **environment,
        "NEXUS_PYLON_ENDPOINT": pylon_url,
        "NEXUS_PYLON_NETUID": str(RunningPylon.netuid),
        "NEXUS_PYLON_IDENTITY_NAME": RunningPylon.identity_name,
        "NEXUS_PYLON_IDENTITY_TOKEN": RunningPylon.token,
        "NEXUS_AUTH_LOG_FORMAT": "json",
        **settings,
    }


@contextmanager
def running_service(
    folder: Path,
    pylon_url: str,
    *,
    socket_path: Path | None = None,
    wait: bool = True,
    launcher: Sequence[str] = (),
    **settings: str,
) -> Iterator[RunningService]:
    """Runs `python -m nexus_auth run` until the block ends.

    Args:
        folder: An empty folder of the test's own.
        pylon_url: Where its Pylon is.
        socket_path: A unix socket to listen on instead of a port.
        wait: Whether to wait until it knows who is registered, or only until it is alive.
        launcher: What starts it, and takes the command as its arguments.
        settings: More settings, by their environment names.
    """
    port, admin_port = free_port(), free_port()
    environment = service_environment(
        pylon_url,
        NEXUS_AUTH_LISTEN_ADDR=f"127.0.0.1:{port}"
        if socket_path is None
        else f"unix:{socket_path}",
        NEXUS_AUTH_ADMIN_ADDR=f"127.0.0.1:{admin_port}",
    )
    environment.update(settings)
    command = [*launcher, sys.executable, "-m", "nexus_auth", "run"]
    log_file = folder / "service.log"
    with Process(command, log_file=log_file, environment=environment, directory=folder) as process:
        service = RunningService(process, port, admin_port, socket_path, environment)

        def is_alive() -> bool:
            if "NEXUS_AUTH_ADMIN_ADDR" in settings:  # not where it would be asked
                return bool(service.lines("listening"))
            try:
                return service.admin("/healthz")[0] == 200
            except OSError:
                return False

        wait_until_ready(
            service.is_ready if wait else is_alive, what="the service", process=process
        )
        yield service
