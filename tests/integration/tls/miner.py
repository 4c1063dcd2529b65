"""A miner as it stands on the net: a proxy with mutual TLS, the auth service, an application."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Final

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.adapters.devnet.records import Axon
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.entrypoints.demo.backend import EchoBackend
from tests.builders import a_hotkey
from tests.integration.proxies.client import Identity, ask
from tests.integration.proxies.stack import PROGRAMS, running_proxy
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import (
    Process,
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
        port: Where the proxy listens.
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
def running_miner(
    directory: Path,
    *,
    proxy: str = "nginx",
    arguments: tuple[str, ...] = (),
    app: str | None = None,
) -> Iterator[Miner]:
    """Runs a miner until the block ends.

    Args:
        directory: That every user can enter: a proxy started by root works under another name.
        proxy: The proxy; it serves the miner's pair.
        arguments: More arguments of `generate`, for both pairs.
        app: Another application than `backend`, which then sees nothing.
    """
    require_program(proxy, PROGRAMS[proxy])
    backend = EchoBackend()
    with running_pylon() as pylon:
        miner = Miner(pylon=pylon, directory=directory, port=0, backend=backend)
        for name in ("validator", "miner"):
            pylon.store.add_identity(name, hotkey=miner.hotkey(name), token=miner.token(name))
            miner.generate(name, *arguments)
        auth_port, admin_port = free_port(), free_port()
        settings = miner.environment("miner") | {
            "NEXUS_AUTH_LISTEN_ADDR": f"127.0.0.1:{auth_port}",
            "NEXUS_AUTH_ADMIN_ADDR": f"127.0.0.1:{admin_port}",
            "NEXUS_AUTH_REFRESH_SECONDS": "1",
            "NEXUS_AUTH_REUSE_SECONDS": "0",
            "NEXUS_AUTH_PROXY": proxy,
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
                pair = CredentialsDirectory(directory / "miner")
                with running_proxy(
                    proxy,
                    directory,
                    app=app or f"127.0.0.1:{backend.server_port}",
                    auth=f"127.0.0.1:{auth_port}",
                    certificate=(pair.certificate_path, pair.key_path),
                ) as port:
                    axon = Axon(ip="127.0.0.1", port=port)
                    pylon.store.set_neuron(miner.hotkey("miner"), axon=axon)
                    # Some proxies open their port before they know their routes.
                    caller = CredentialsDirectory(directory / "validator")
                    identity = Identity(caller.certificate_path, caller.key_path)
                    granted = lambda: ask(port, identity).status == HTTPStatus.OK  # noqa: E731
                    wait_until_ready(granted, what=f"a grant through {proxy}")
                    yield replace(miner, port=port)
        finally:
            backend.close()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
