"""The sidecar as a user starts it, with a development Pylon behind it."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nexus_auth.entrypoints.demo.certificates import save_self_made
from tests.builders import a_hotkey
from tests.integration.children import descendants
from tests.integration.proxies.client import Identity, ask
from tests.integration.proxies.stack import PROGRAMS, People, make_people
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import Process, free_port, require_program, wait_until_ready
from tests.integration.service.running import register, service_environment


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSidecar:
    """A sidecar that is ready: alice and bob are registered, carol is not."""

    process: Process
    port: int
    admin_port: int
    folder: Path
    people: People
    pylon: RunningPylon

    @property
    def temporary(self) -> list[Path]:
        """What it keeps in the temporary folder."""
        return list((self.folder / "tmp").iterdir())

    @property
    def children(self) -> set[int]:
        """The process ids of all that it started."""
        return descendants(self.process.pid)

    def served_der(self) -> bytes:
        """The certificate that a new connection gets."""
        pem = ssl.get_server_certificate(("127.0.0.1", self.port))
        return ssl.PEM_cert_to_DER_cert(pem)

    def status(self, who: str = "alice") -> int:
        """The status of the answer to somebody."""
        return ask(self.port, self.people[who]).status


def command(*arguments: str) -> list[str]:
    """The command line of the sidecar."""
    return [sys.executable, "-m", "nexus_auth", "sidecar", *arguments]


@contextmanager
def running_sidecar(
    folder: Path,
    app: str,
    *arguments: str,
    until_granted: bool = True,
    **settings: str,
) -> Iterator[RunningSidecar]:
    """Runs `nexus-auth sidecar` before an application until the block ends.

    Args:
        folder: An empty folder of the test's own.
        app: The application.
        arguments: More arguments of the command.
        until_granted: Whether the application answers GET, so that a grant can be waited for.
        settings: More settings, by their environment names.
    """
    require_program("envoy", PROGRAMS["envoy"])
    port, admin_port = free_port(), free_port()
    (folder / "tmp").mkdir(exist_ok=True)
    people = make_people(folder)
    if not (folder / "certs").exists():
        save_self_made(folder / "certs", hotkey=a_hotkey("miner"))
    with running_pylon() as pylon:
        register(pylon, "alice", "bob")
        environment = service_environment(
            pylon.url,
            NEXUS_AUTH_ADMIN_ADDR=f"127.0.0.1:{admin_port}",
            NEXUS_AUTH_REFRESH_SECONDS="1",
            TMPDIR=str(folder / "tmp"),
            **settings,
        )
        line = command("-app", app, "-listen", f"127.0.0.1:{port}", *arguments)
        with Process(
            line, log_file=folder / "log", environment=environment, directory=folder
        ) as process:
            sidecar = RunningSidecar(
                process=process,
                port=port,
                admin_port=admin_port,
                folder=folder,
                people=people,
                pylon=pylon,
            )
            wait_until_ready(
                lambda: "nexus-auth: ready: " in process.output,
                what="the sidecar",
                process=process,
                timeout_seconds=40,
            )
            if until_granted:
                wait_until_ready(lambda: sidecar.status() == 200, what="a grant", process=process)
            yield sidecar


def generate(sidecar: RunningSidecar, *arguments: str) -> None:
    """Has `nexus-auth generate` replace the pair that the sidecar shows."""
    address = str(sidecar.pylon.hotkey)
    subprocess.run(
        [
            *(sys.executable, "-m", "nexus_auth", "generate", "-ss58-address", address),
            *("-output-dir", str(sidecar.folder / "certs"), *arguments),
        ],
        env=service_environment(sidecar.pylon.url, PATH=os.environ["PATH"]),
        cwd=sidecar.folder,
        check=True,
        capture_output=True,
        timeout=30,
    )


def identity_files(who: Identity) -> tuple[Path, Path]:
    """Certificate and key of somebody who has both."""
    assert who.certificate is not None
    assert who.key is not None
    return who.certificate, who.key
