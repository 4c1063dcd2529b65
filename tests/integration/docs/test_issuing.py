"""What docs/issuing.md shows is run as it stands."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nexus_auth.domain.issuing import Credentials
from tests.builders import a_key, public_bytes
from tests.integration.cli.owner import VALIDATOR, Owner, read_by_bittensor
from tests.integration.pylon.running import running_pylon
from tests.pages import ROOT, blocks

PAGE: Final = list(blocks(ROOT / "docs" / "issuing.md"))


def code_with(words: str, language: str = "sh") -> str:
    """The one block of the page that has these words, for our hotkey."""
    [found] = [each.code for each in PAGE if words in each.code and each.language == language]
    return found.replace("5F...", str(VALIDATOR))


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """A validator whose neuron serves no axon."""
    data = tmp_path / "pylon.sqlite"
    with running_pylon(path=str(data)) as pylon:
        yield Owner(pylon, tmp_path, data)


def run(owner: Owner, code: str, programs: Path | None = None) -> None:
    """Runs a piece of shell in the owner's folder."""
    places = [*filter(None, [programs]), Path(sys.executable).parent, os.environ["PATH"]]
    finished = subprocess.run(
        ["sh", "-ec", code],
        env={**owner.environment, "PATH": os.pathsep.join(map(str, places))},
        cwd=owner.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    owner.check(finished.stdout + finished.stderr)


def load(owner: Owner) -> Credentials:
    """The pair of the owner."""
    return Credentials.from_pem(
        key_pem=(owner.certs / "client.key").read_bytes(),
        certificate_pem=(owner.certs / "client.crt").read_bytes(),
    )


def test_tool_that_is_shown_publishes_with_btcli(owner: Owner) -> None:
    """The stand-in for `btcli` publishes on the development chain; the real one reads its words."""
    programs = owner.folder / "programs"
    programs.mkdir()
    btcli = programs / "btcli"
    btcli.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {owner.folder}/words\nexec {shlex.quote(owner.tool())}\n'
    )
    btcli.chmod(0o755)
    publish = owner.folder / "publish"
    publish.write_text(code_with("#!/bin/sh"))
    publish.chmod(0o755)
    run(owner, code_with("-publish-with ./publish"), programs)
    key = load(owner).certificate.public_key
    assert key == owner.on_chain
    words = (owner.folder / "words").read_text().splitlines()
    module, function, parameters = read_by_bittensor(words, owner.folder)
    assert (module, function) == ("SubtensorModule", "serve_axon_tls")
    assert (parameters["netuid"], parameters["ip"], parameters["port"]) == (1, 0, 1)
    assert parameters["certificate"] == f"01{key.hex()}"


@pytest.mark.parametrize(
    ("words", "language", "function"),
    [
        ("btcli axon set --netuid 12 --ip 0.0.0.0", "sh", "serve_axon"),
        ("btcli axon set --netuid 12 --ip 192.0.2.7", "text", "serve_axon_tls"),
    ],
)
def test_commands_of_bittensor_are_shown_as_it_has_them(
    tmp_path: Path, words: str, language: str, function: str
) -> None:
    """The one for an axon that leads nowhere, and the one that is printed."""
    arguments = shlex.split(code_with(words, language))
    assert read_by_bittensor(arguments[1:], tmp_path)[1] == function


def test_key_of_bt_ddos_shield_is_shared_as_shown(owner: Owner) -> None:
    """Its file is written as it writes one; the key on chain stays what it was."""
    key = a_key("shield")
    (owner.folder / "validator_cert.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    owner.pylon.store.set_certificate(VALIDATOR, public_bytes(key))
    run(owner, code_with("install -m 600 validator_cert.pem"))
    assert load(owner).certificate.public_key == public_bytes(key) == owner.on_chain
    run(owner, code_with("-renew-before-days 30 -reuse-key"))
    assert load(owner).certificate.public_key == owner.on_chain
