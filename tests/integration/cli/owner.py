"""A validator without an axon, and its own tool, for tests of `generate -local`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuing import Credentials
from tests.builders import a_hotkey
from tests.integration.cli.test_generate import check_key_is_not_in
from tests.integration.pylon.running import RunningPylon
from tests.integration.real import Process
from tests.integration.service.running import RunningService, running_service

VALIDATOR: Final[Hotkey] = a_hotkey("validator")
PENDING: Final = "client.key.pending"

_READ_BY_BITTENSOR: Final = """
import asyncio, json, sys
from bittensor.cli import context, main
from bittensor.cli.commands import axon
calls = []
class Recorder:
    async def compose(self, call):
        calls.append(call)
def submit(self, intent):
    asyncio.run(intent.build(Recorder(), None))
context.AppContext.submit = submit
try:
    main.app(sys.argv[1:], standalone_mode=False)
finally:
    [call] = calls
    params = {name: bytes(value).hex() if name == "certificate" else value
              for name, value in call.params.items()}
    print(json.dumps([call.module, call.function, params]))
"""


def read_by_bittensor(arguments: Sequence[str], home: Path) -> tuple[str, str, dict[str, Any]]:
    """What bittensor's own `btcli` makes of its arguments; nothing is sent.

    Returns:
        The call's pallet, its name, and its parameters; the certificate in hexadecimal.
    """
    read = subprocess.run(
        [sys.executable, "-c", _READ_BY_BITTENSOR, *arguments],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert read.returncode == 0, read.stderr
    module, function, parameters = json.loads(read.stdout)
    return module, function, parameters


class Owner:
    """A validator without an axon: its Pylon, its folder, and the tool that has its wallet."""

    def __init__(self, pylon: RunningPylon, folder: Path, data: Path) -> None:
        self.pylon = pylon
        self.folder = folder
        self.certs = folder / "certs"
        self.data = data
        self.change_chain("--neuron", f"{VALIDATOR},axon=0.0.0.0:0,permit=yes")

    def tool(self, *, before: str = "", after: str = "") -> str:
        """Makes a tool as the owner's own: it publishes what its environment names, for the hotkey.

        Args:
            before: What the shell does first.
            after: What it does at last.
        """
        path = self.folder / "tool"
        nexus_auth = shlex.join([sys.executable, "-m", "nexus_auth"])
        path.write_text(
            f"""#!/bin/sh
set -e
echo "$NEXUS_AUTH_PUBLISH_CERTIFICATE" >> {self.folder}/published
env > {self.folder}/environment
tr '\\0' ' ' < /proc/$PPID/cmdline > {self.folder}/parent
{before}
{nexus_auth} pylon --data {self.data} --netuid "$NEXUS_AUTH_PUBLISH_NETUID" --seed-only \\
  --neuron "$NEXUS_AUTH_PUBLISH_HOTKEY,axon=$NEXUS_AUTH_PUBLISH_IP:$NEXUS_AUTH_PUBLISH_PORT" \\
  --certificate "$NEXUS_AUTH_PUBLISH_HOTKEY=$NEXUS_AUTH_PUBLISH_PUBLIC_KEY"
{after}
"""
        )
        path.chmod(0o755)
        return str(path)

    @property
    def published(self) -> list[str]:
        """What the tool was to publish, each time."""
        path = self.folder / "published"
        return path.read_text().splitlines() if path.exists() else []

    def change_chain(self, *arguments: str) -> None:
        """Changes what is on chain."""
        command = [sys.executable, "-m", "nexus_auth", "pylon", "--data", str(self.data)]
        subprocess.run(
            [*command, "--seed-only", *arguments], check=True, capture_output=True, timeout=30
        )

    @property
    def environment(self) -> dict[str, str]:
        """Nothing but a token that may read."""
        clean = {name: value for name, value in os.environ.items() if "NEXUS" not in name}
        return {
            **clean,
            "NEXUS_PYLON_ENDPOINT": self.pylon.url,
            "NEXUS_PYLON_NETUID": str(self.pylon.netuid),
            "NEXUS_PYLON_OPEN_ACCESS_TOKEN": self.pylon.open_access_token,
        }

    def command(self, *arguments: str) -> list[str]:
        """The command line of `generate -local`."""
        return [
            *(sys.executable, "-m", "nexus_auth", "generate", "-ss58-address", str(VALIDATOR)),
            *("-output-dir", str(self.certs), "-local", *arguments),
        ]

    def generate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs it to its end. Whatever it says, it never says a secret."""
        finished = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.check(finished.stdout + finished.stderr)
        return finished

    def start(self, *arguments: str) -> Process:
        """Starts it."""
        return Process(
            self.command(*arguments),
            log_file=self.folder / "output",
            environment=self.environment,
            directory=self.folder,
        )

    def check(self, said: str) -> None:
        """No token, no key, no traceback, and nothing for a terminal."""
        for words in (self.pylon.open_access_token, "Traceback", "PRIVATE", "\x1b"):
            assert words not in said
        for name in ("client.key", PENDING):
            if (self.certs / name).is_file():
                check_key_is_not_in(said, self.certs / name)

    @property
    def pending(self) -> Credentials:
        """What waits on disk."""
        found = CredentialsDirectory(self.certs).load_pending()
        assert found is not None
        return found

    @property
    def on_chain(self) -> bytes | None:
        """The validator's key there."""
        return self.pylon.store.certificate(VALIDATOR)

    def publish(self) -> None:
        """Does by hand what the command says."""
        self.pylon.store.set_certificate(VALIDATOR, self.pending.certificate.public_key)

    def service(self) -> AbstractContextManager[RunningService]:
        """The auth service, which may only read as well."""
        settings: dict[str, Any] = dict.fromkeys(
            ("NEXUS_PYLON_IDENTITY_NAME", "NEXUS_PYLON_IDENTITY_TOKEN"), ""
        )
        settings["NEXUS_PYLON_OPEN_ACCESS_TOKEN"] = self.pylon.open_access_token
        return running_service(self.folder, self.pylon.url, **settings)

    def others(self, command: str) -> str:
        """What another command says."""
        finished = subprocess.run(
            [sys.executable, "-m", "nexus_auth", *shlex.split(command)],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        self.check(finished.stdout + finished.stderr)
        return finished.stdout
