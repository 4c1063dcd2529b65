"""`generate -local` without any Pylon: keys and places from a node, with the chain's own rules."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from nexus_auth.adapters.credentials.directory import CredentialsDirectory
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.issuing import Credentials
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.chain.node import RATE_LIMIT_BLOCKS, RunningNode, running_node
from tests.integration.cli.test_generate import check_key_is_not_in, names
from tests.integration.real import Process, wait_until_ready
from tests.integration.service.running import a_header, running_service

VALIDATOR: Final[Hotkey] = a_hotkey("validator")
PENDING: Final = "client.key.pending"
PAIR: Final = ["client.crt", "client.key"]

_TOOL: Final = """\
import json, os, sys, urllib.request
get = lambda name: os.environ["NEXUS_AUTH_PUBLISH_" + name]
params = [sys.argv[2], get("IP"), int(get("PORT")), get("CERTIFICATE")]
body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "test_serveAxonTls", "params": params})
request = urllib.request.Request(sys.argv[1], body.encode())
answer = json.load(urllib.request.urlopen(request))
sys.exit(json.dumps(answer["error"]) if "error" in answer else 0)
"""


class Scene:
    """A node of the chain, a folder, and the owner's tool."""

    def __init__(self, node: RunningNode, folder: Path) -> None:
        self.node = node
        self.folder = folder
        self.certs = folder / "certs"
        program = folder / "tool.py"
        program.write_text(_TOOL)
        self.tool = f"{sys.executable} {program} {node.url} 0x{VALIDATOR.account_id.hex()}"

    @property
    def settings(self) -> dict[str, Any]:
        """The chain as source, and no Pylon."""
        return {
            "NEXUS_AUTH_SOURCE": "chain",
            "NEXUS_CHAIN_ENDPOINT": self.node.url,
            "NEXUS_PYLON_NETUID": str(self.node.chain.netuid),
            "NEXUS_PYLON_ENDPOINT": "http://127.0.0.1:9",
            "NEXUS_PYLON_IDENTITY_NAME": "",
            "NEXUS_PYLON_IDENTITY_TOKEN": "",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same for a process."""
        clean = {name: value for name, value in os.environ.items() if "NEXUS" not in name}
        return {**clean, **self.settings}

    def command(self, *arguments: str) -> list[str]:
        """A command line of `generate`."""
        return [
            *(sys.executable, "-m", "nexus_auth", "generate", "-ss58-address", str(VALIDATOR)),
            *("-output-dir", str(self.certs), *arguments),
        ]

    def generate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs it to its end."""
        finished = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in finished.stderr
        for name in ("client.key", PENDING):
            if (self.certs / name).is_file():
                check_key_is_not_in(finished.stdout + finished.stderr, self.certs / name)
        return finished

    @property
    def pair(self) -> Credentials:
        """The pair in its place."""
        return CredentialsDirectory(self.certs).load()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A validator that never served an axon, on a chain that is old enough for one."""
    with running_node() as node:
        node.chain.register(VALIDATOR, validator_permit=True)
        node.chain.advance(RATE_LIMIT_BLOCKS)
        yield Scene(node, tmp_path)


def test_validator_without_an_axon_and_without_pylon_gets_to_a_granted_request(
    scene: Scene,
) -> None:
    """The chain takes the key with an axon that leads nowhere; a neighbour's key is denied."""
    finished = scene.generate("-local", "-publish-with", scene.tool)
    assert finished.returncode == 0, finished.stderr
    assert names(scene.certs) == PAIR
    stored = scene.node.chain.certificate_of(VALIDATOR)
    assert stored is not None
    assert scene.pair.certificate.public_key in stored
    with running_service(scene.folder, "http://127.0.0.1:9", **scene.settings) as service:
        header = quote(scene.pair.certificate_pem.decode(), safe="").encode()
        granted = service.ask(header)
        assert (granted.status, granted.headers["X-Hotkey"]) == (200, str(VALIDATOR))
        denied = service.ask(a_header("validator", key_of="mallory"))
        assert (denied.status, denied.reason) == (403, "key-mismatch")
        assert "X-Hotkey" not in denied.headers


def test_rate_limit_is_named_and_the_tool_is_not_run(scene: Scene) -> None:
    """The chain says how long it takes no other; after that time it takes it."""
    assert scene.generate("-local", "-publish-with", scene.tool).returncode == 0
    old = scene.pair
    finished = scene.generate("-local", "-force-recreate", "-publish-with", scene.tool)
    assert finished.returncode == 1
    assert "blocks, about 10 minutes; run this again" in finished.stderr
    assert scene.pair.certificate.fingerprint == old.certificate.fingerprint
    shown = scene.generate("-local", "-force-recreate", "-confirm-timeout-seconds", "0")
    assert "about 10 minutes: run it after that" in shown.stderr
    scene.node.chain.advance(RATE_LIMIT_BLOCKS)
    finished = scene.generate("-local", "-force-recreate", "-publish-with", scene.tool)
    assert finished.returncode == 0, finished.stderr
    assert scene.pair.certificate.public_key != old.certificate.public_key


def test_axon_that_is_served_stays_as_it_is(scene: Scene) -> None:
    """Address and port are those of the chain."""
    scene.node.chain.serve_axon(VALIDATOR, ip="192.0.2.7", port=8091)
    scene.node.chain.advance(RATE_LIMIT_BLOCKS + 1)
    finished = scene.generate("-local", "-confirm-timeout-seconds", "0")
    assert finished.returncode == 1
    assert f"--netuid {scene.node.chain.netuid} --ip 192.0.2.7 --port 8091 --tls" in finished.stdout
    assert "10 minutes" not in finished.stderr


def test_kill_while_it_waits_is_made_good_from_what_the_chain_has(scene: Scene) -> None:
    """Only a finalised block counts; then nothing is published a second time."""
    process = Process(
        scene.command("-local"),
        log_file=scene.folder / "output",
        environment=scene.environment,
        directory=scene.folder,
    )
    with process:
        wait_until_ready(
            lambda: "Waiting until" in process.output, what="the command", process=process
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
    pending = CredentialsDirectory(scene.certs).load_pending()
    assert pending is not None
    scene.node.chain.publish(VALIDATOR, pending.certificate.public_key)
    scene.node.advance()
    finished = scene.generate("-local", "-publish-with", "false")
    assert finished.returncode == 0, finished.stderr
    assert scene.pair.certificate.public_key == pending.certificate.public_key
    assert names(scene.certs) == PAIR


def test_certificate_is_renewed_around_its_key_without_pylon(scene: Scene) -> None:
    """Whether the chain has the key, a node says."""
    assert scene.generate("-local", "-publish-with", scene.tool).returncode == 0
    old = scene.pair
    renewing = ("-reuse-key", "-renew-before-days", "3649", "-not-after-days", "3650")
    finished = scene.generate(*renewing)
    assert finished.returncode == 0, finished.stderr
    finished = scene.generate("-reuse-key")
    assert finished.returncode == 0, finished.stderr
    assert "Confirmed" in finished.stdout
    assert scene.pair.key_pem == old.key_pem
    assert scene.pair.certificate.fingerprint != old.certificate.fingerprint
    scene.node.chain.publish(VALIDATOR, public_bytes(a_key("shield")))
    scene.node.advance()
    finished = scene.generate(*renewing)
    assert finished.returncode == 1
    assert "not on chain" in finished.stderr


def test_node_that_is_away_is_exit_code_3(scene: Scene) -> None:
    """And nothing is made."""
    scene.node.stop()
    finished = scene.generate("-local")
    assert finished.returncode == 3, finished.stderr
    assert names(scene.certs) == []
