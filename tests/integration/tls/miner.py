"""A miner as it stands on the net: nginx with mutual TLS, the auth service, an application."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nexus_auth.adapters.addresses import TcpAddress
from nexus_auth.adapters.devnet.records import Axon
from nexus_auth.adapters.proxies.configuration import build_configuration
from nexus_auth.adapters.proxies.site import Site
from nexus_auth.adapters.proxies.syntax_check import write_configuration
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.entrypoints.demo.backend import EchoBackend
from tests.builders import a_hotkey
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import (
    Process,
    accepts_connections,
    free_port,
    require_program,
    wait_until_ready,
)

NEXUS_AUTH: Final = (sys.executable, "-m", "nexus_auth")
_GENERATE_SECONDS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Miner:
    """The running miner, and the Pylon that it and its callers share.

    Attributes:
        pylon: Knows the identities `validator` and `miner`, both registered.
        directory: Each identity's pair is in the folder of its name.
        port: Where nginx listens.
        backend: The application.
    """

    pylon: RunningPylon
    directory: Path
    port: int
    backend: EchoBackend

    def hotkey(self, name: str) -> Hotkey:
        """The hotkey of an identity."""
        return a_hotkey(name)

    def token(self, name: str) -> str:
        """The token of an identity."""
        return f"token-of-{name}"

    def generate(self, name: str, *arguments: str) -> Path:
        """Has the command make a pair for an identity, and gives the folder."""
        folder = self.directory / name
        subprocess.run(
            [
                *(*NEXUS_AUTH, "generate", "-ss58-address", str(self.hotkey(name))),
                *("-output-dir", str(folder), *arguments),
            ],
            env=self.environment(name),
            cwd=self.directory,
            check=True,
            capture_output=True,
            timeout=_GENERATE_SECONDS,
        )
        return folder

    def environment(self, name: str) -> dict[str, str]:
        """The environment in which an identity runs the commands."""
        return {
            **os.environ,
            "NEXUS_PYLON_ENDPOINT": self.pylon.url,
            "NEXUS_PYLON_NETUID": str(self.pylon.netuid),
            "NEXUS_PYLON_IDENTITY_NAME": name,
            "NEXUS_PYLON_IDENTITY_TOKEN": self.token(name),
        }


@contextmanager
def running_miner(directory: Path) -> Iterator[Miner]:
    """Runs a miner until the block ends."""
    nginx = require_program("nginx", "apt-get install nginx")
    backend = EchoBackend()
    with running_pylon() as pylon:
        miner = Miner(pylon=pylon, directory=directory, port=free_port(), backend=backend)
        for name in ("validator", "miner"):
            pylon.store.add_identity(name, hotkey=miner.hotkey(name), token=miner.token(name))
            miner.generate(name)
        axon = Axon(ip="127.0.0.1", port=miner.port)
        pylon.store.set_neuron(miner.hotkey("miner"), axon=axon)
        auth_port, admin_port = free_port(), free_port()
        settings = miner.environment("miner") | {
            "NEXUS_AUTH_LISTEN_ADDR": f"127.0.0.1:{auth_port}",
            "NEXUS_AUTH_ADMIN_ADDR": f"127.0.0.1:{admin_port}",
            "NEXUS_AUTH_REFRESH_SECONDS": "1",
            "NEXUS_AUTH_REUSE_SECONDS": "0",
        }
        service = Process(
            (*NEXUS_AUTH, "run"),
            log_file=directory / "service.log",
            environment=settings,
            directory=directory,
        )
        backend.start()
        try:
            with service:
                wait_until_ready(lambda: _is_ready(admin_port), what="service", process=service)
                with _nginx(nginx, miner, auth_port):
                    yield miner
        finally:
            backend.close()


@contextmanager
def _nginx(program: Path, miner: Miner, auth_port: int) -> Iterator[None]:
    """Runs nginx with the pair that was generated for the miner."""
    folder = miner.directory / "nginx"
    folder.mkdir()
    site = Site(
        listen=TcpAddress("127.0.0.1", miner.port),
        app=TcpAddress("127.0.0.1", miner.backend.server_port),
        auth=TcpAddress("127.0.0.1", auth_port),
        tls_cert=str(miner.directory / "miner" / "client.crt"),
        tls_key=str(miner.directory / "miner" / "client.key"),
        state_dir=str(folder),
    )
    configuration = build_configuration("nginx", site, directory=str(folder))
    write_configuration(configuration, folder)
    # Started by root, nginx would work as somebody who may not enter a test's directory.
    user = "user root;" if os.geteuid() == 0 else ""
    command: list[str | Path] = [
        *(program, "-c", folder / configuration.files[0][0], "-e", "stderr"),
        *("-g", f"daemon off; error_log stderr warn; {user}"),
    ]
    with Process(command, log_file=miner.directory / "nginx.log") as process:
        wait_until_ready(lambda: accepts_connections(miner.port), what="nginx", process=process)
        yield


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
