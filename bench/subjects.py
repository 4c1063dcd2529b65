"""What is measured against the yardstick: each subject is a listener that grants."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from bench.callers import Caller
from bench.programs import find_program, free_port, running
from nexus_auth.adapters.devnet.store import DevnetStore

NETUID: Final = 1
IDENTITY: Final = "bench"
TOKEN: Final = "bench-token"  # noqa: S105 - of a Pylon that lives as long as the benchmark
HEADER: Final = "X-Client-Cert"
# What the certificate is called in front of an nginx that is measured without TLS.
PLAIN_HEADER: Final = "X-Bench-Certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A listener under load.

    Attributes:
        name: The key of its results.
        url: Where it listens.
        header: Which header carries the certificate; None where no certificate is sent.
        pid: The process whose memory is measured; None where nobody asks.
        admin: Where its health, metrics and status page are; None where it has none.
        names_requests: Whether every request bears a name of its own, as a proxy gives it.
    """

    name: str
    url: str
    header: str | None = HEADER
    pid: int | None = None
    admin: str | None = None
    names_requests: bool = False


@dataclass(slots=True, kw_only=True)
class Stage:
    """Starts every subject below one folder, and stops them all at the end."""

    folder: Path
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(
        self, name: str, command: list[str], port: int, env: Mapping[str, str] | None = None
    ) -> int:
        """Starts a program and returns its process id."""
        log = self.folder / f"{name}.log"
        process = self.stack.enter_context(running(command, port=port, log=log, env=env))
        return process.pid

    def start_pylon(self, callers: list[Caller]) -> str:
        """A development Pylon that knows the callers; returns its base URL."""
        data = self.folder / "pylon.sqlite"
        store = DevnetStore(data)
        try:
            store.add_identity(IDENTITY, netuid=NETUID, hotkey=callers[0].hotkey, token=TOKEN)
            for caller in callers:
                store.set_certificate(caller.hotkey, caller.public_key, netuid=NETUID)
        finally:
            store.close()
        port = free_port()
        command = [sys.executable, "-m", "nexus_auth", "pylon"]
        self.start("pylon", [*command, "--data", str(data), "--listen", f"127.0.0.1:{port}"], port)
        return f"http://127.0.0.1:{port}"

    def start_nginx(self, name: str, server: str, port: int) -> int:
        """An nginx with two workers around a server block of ours."""
        prefix = self.folder / name
        prefix.mkdir()
        configuration = prefix / "nginx.conf"
        configuration.write_text(self.main_configuration(prefix, server))
        command = [find_program("nginx"), "-p", str(prefix), "-c", str(configuration)]
        return self.start(name, command, port)

    @staticmethod
    def main_configuration(prefix: Path, http: str) -> str:
        """A whole configuration around what belongs into its `http` block."""
        return (
            "worker_processes 2;\n"
            "daemon off;\n"
            f"pid {prefix}/nginx.pid;\n"
            f"error_log {prefix}/error.log warn;\n"
            "events { worker_connections 1024; }\n"
            "http {\n"
            "  access_log off;\n"
            "  keepalive_requests 1000000;\n"
            "  large_client_header_buffers 4 16k;\n"
            f"  client_body_temp_path {prefix}/body;\n"
            f"  proxy_temp_path {prefix}/proxy;\n"
            f"  fastcgi_temp_path {prefix}/fastcgi;\n"
            f"  uwsgi_temp_path {prefix}/uwsgi;\n"
            f"  scgi_temp_path {prefix}/scgi;\n"
            f"{http}\n"
            "}\n"
        )


def yardstick(stage: Stage) -> Subject:
    """What everything is a ratio of: nginx answering `return 200`."""
    port = free_port()
    stage.start_nginx(
        "yardstick",
        f"  server {{ listen 127.0.0.1:{port}; location / {{ return 200 'Access granted'; }} }}",
        port,
    )
    return Subject(name="nginx return 200", url=f"http://127.0.0.1:{port}/")


def our_service(stage: Stage, pylon: str, *, name: str, env: Mapping[str, str]) -> Subject:
    """The auth service as `nexus-auth run` starts it."""
    port, admin_port = free_port(), free_port()
    pid = stage.start(
        name.replace(" ", "-"),
        [sys.executable, "-m", "nexus_auth", "run"],
        port,
        {
            "NEXUS_AUTH_LISTEN_ADDR": f"127.0.0.1:{port}",
            "NEXUS_AUTH_ADMIN_ADDR": f"127.0.0.1:{admin_port}",
            "NEXUS_AUTH_LOG_FORMAT": "json",
            "NEXUS_PYLON_ENDPOINT": pylon,
            "NEXUS_PYLON_NETUID": str(NETUID),
            "NEXUS_PYLON_IDENTITY_NAME": IDENTITY,
            "NEXUS_PYLON_IDENTITY_TOKEN": TOKEN,
            **env,
        },
    )
    return Subject(
        name=name,
        url=f"http://127.0.0.1:{port}/",
        pid=pid,
        admin=f"http://127.0.0.1:{admin_port}",
    )


def named(subject: Subject) -> Subject:
    """The same, asked with an `X-Request-ID` that no other request bears."""
    return dataclasses.replace(
        subject, name=f"{subject.name}, each request named", names_requests=True
    )


def look_at_everything(subject: Subject) -> None:
    """Asks for metrics, readiness and status page, since all of them are looked at in earnest."""
    if subject.admin is not None:
        for path in ("/metrics", "/readyz", "/"):
            httpx.get(subject.admin + path).raise_for_status()


def original_service(stage: Stage, pylon: str, binary: Path) -> Subject:
    """The original, from a binary that somebody built beside this project."""
    port = free_port()
    pid = stage.start(
        "original",
        [str(binary), "run"],
        port,
        {
            "NEXUS_AUTH_LISTEN_ADDR": f"127.0.0.1:{port}",
            "NEXUS_PYLON_ENDPOINT": pylon,
            "NEXUS_PYLON_NETUID": str(NETUID),
            "NEXUS_PYLON_IDENTITY_NAME": IDENTITY,
            "NEXUS_PYLON_IDENTITY_TOKEN": TOKEN,
        },
    )
    return Subject(name="the original", url=f"http://127.0.0.1:{port}/", pid=pid)


_BARE_APP: Final = """\
headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"14")]
start = {"type": "http.response.start", "status": 200, "headers": headers}
body = {"type": "http.response.body", "body": b"Access granted"}
remembered = {}


async def app(scope, receive, send):
    for name, value in scope["headers"]:
        if name == b"x-client-cert":
            remembered.get(value)
    await send(start)
    await send(body)
"""


def bare_asgi(stage: Stage) -> Subject:
    """A bare ASGI function under uvicorn: what the same server does without any work."""
    folder = stage.folder / "bare"
    folder.mkdir()
    (folder / "bare_app.py").write_text(_BARE_APP)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bare_app:app", "--app-dir", str(folder)]
    pid = stage.start(
        "bare-asgi",
        [*command, "--port", str(port), "--no-access-log", "--lifespan", "off"],
        port,
    )
    return Subject(name="bare ASGI under uvicorn", url=f"http://127.0.0.1:{port}/", pid=pid)
