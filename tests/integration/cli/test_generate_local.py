"""`nexus-auth generate -local` as a process: the owner publishes, and no key can get lost."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from nexus_auth.domain.issuing import Credentials, parse_private_key
from tests.builders import a_hotkey, public_bytes
from tests.integration.cli.owner import PENDING, VALIDATOR, Owner, read_by_bittensor
from tests.integration.cli.test_generate import check_key_is_not_in, load, mode, names
from tests.integration.pylon.running import running_pylon
from tests.integration.real import Process, require_program, wait_until_ready
from tests.integration.service.running import a_header

PAIR: Final = ["client.crt", "client.key"]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """A validator whose neuron serves no axon."""
    data = tmp_path / "pylon.sqlite"
    with running_pylon(path=str(data)) as pylon:
        yield Owner(pylon, tmp_path, data)


def wait_for(process: Process, words: str) -> None:
    """Waits until the process has said something."""
    wait_until_ready(lambda: words in process.output, what=words, process=process)


def as_header(pair: Credentials) -> bytes:
    """A certificate as nginx sends it."""
    return quote(pair.certificate_pem.decode(), safe="").encode()


def test_validator_without_an_axon_gets_from_start_to_a_granted_request(owner: Owner) -> None:
    """And a certificate around another key, one detail away, is denied."""
    finished = owner.generate("-publish-with", owner.tool())
    assert finished.returncode == 0, finished.stderr
    pair = load(owner.certs)
    assert pair.certificate.public_key == owner.on_chain
    assert names(owner.certs) == PAIR
    assert (mode(owner.certs / "client.key"), mode(owner.certs / "client.crt")) == (0o600, 0o644)
    assert "Confirmed" in finished.stdout
    assert owner.published == [f"0x01{pair.certificate.public_key.hex()}"]
    with owner.service() as service:
        granted = service.ask(as_header(pair))
        assert (granted.status, granted.headers["X-Hotkey"]) == (200, str(VALIDATOR))
        denied = service.ask(a_header("validator", key_of="mallory"))
        assert (denied.status, denied.reason) == (403, "key-mismatch")
        assert "X-Hotkey" not in denied.headers
    # Nothing to do, and nothing is asked.
    before = len(owner.pylon.requests)
    assert owner.generate().returncode == 0
    assert len(owner.pylon.requests) == before


def test_tool_sees_the_public_half_alone(owner: Owner) -> None:
    """Neither a token of ours, nor the private key; the process list has none either."""
    assert owner.generate("-publish-with", owner.tool()).returncode == 0
    seen = (owner.folder / "environment").read_text() + (owner.folder / "parent").read_text()
    check_key_is_not_in(seen, owner.certs / "client.key")
    assert owner.pylon.open_access_token not in seen
    for name, value in {
        "HOTKEY": str(VALIDATOR),
        "NETUID": "1",
        "IP": "0.0.0.0",  # noqa: S104 - of no axon
        "PORT": "1",
        "PUBLIC_KEY": load(owner.certs).certificate.public_key.hex(),
    }.items():
        assert f"NEXUS_AUTH_PUBLISH_{name}={value}\n" in seen


def test_command_that_is_shown_is_what_the_owner_runs(owner: Owner) -> None:
    """With the axon that stays; once the chain has the key, the pair is there."""
    owner.change_chain("--neuron", f"{VALIDATOR},axon=192.0.2.7:8091")
    with owner.start() as process:
        wait_for(process, "Waiting until")
        key = owner.pending.certificate.public_key
        assert (
            "\nbtcli axon set --netuid 1 --ip 192.0.2.7 --port 8091 --tls "
            f"--certificate 0x01{key.hex()}\n"
        ) in process.output
        assert names(owner.certs)[-1] == PENDING
        assert mode(owner.certs / PENDING) == 0o600
        owner.publish()
        assert process.wait() == 0
    owner.check(process.output)
    assert load(owner.certs).certificate.public_key == key
    assert names(owner.certs) == PAIR


def test_bittensors_own_command_reads_what_is_shown(owner: Owner) -> None:
    """As the call that publishes exactly this key, with this address; nothing is sent."""
    finished = owner.generate("-confirm-timeout-seconds", "0")
    assert finished.returncode == 1
    [shown] = [line for line in finished.stdout.splitlines() if line.startswith("btcli ")]
    module, function, parameters = read_by_bittensor(shlex.split(shown)[1:], owner.folder)
    assert (module, function) == ("SubtensorModule", "serve_axon_tls")
    key = owner.pending.certificate.public_key
    for name, value in {
        "netuid": 1,
        "ip": 0,
        "port": 1,
        "ip_type": 4,
        "certificate": f"01{key.hex()}",
    }.items():
        assert parameters[name] == value


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_run_that_is_ended_while_it_waits_is_taken_up_again(
    owner: Owner, which: signal.Signals
) -> None:
    """At once, since nothing can be lost; the next run finds the key on chain and finishes."""
    with owner.start() as process:
        wait_for(process, "Waiting until")
        process.send_signal(which)
        code = process.wait()
    assert code == (-which if which is signal.SIGKILL else 128 + which)
    owner.check(process.output)
    key = owner.pending.certificate.public_key
    for said in (owner.others("status certs"), owner.others("doctor --certs certs")):
        assert PENDING in said
        assert key.hex() in said
        assert "-local" in said
    # Before the owner published, the same key is shown again.
    finished = owner.generate("-confirm-timeout-seconds", "0")
    assert finished.returncode == 1
    assert key.hex() in finished.stdout
    owner.publish()
    finished = owner.generate()
    assert finished.returncode == 0, finished.stderr
    assert "btcli" not in finished.stdout
    assert load(owner.certs).certificate.public_key == key == owner.on_chain
    assert not (owner.certs / PENDING).exists()


@pytest.mark.parametrize("is_published_late", [False, True])
def test_kill_while_the_tool_is_at_work_loses_nothing(
    owner: Owner, *, is_published_late: bool
) -> None:
    """The tool outlives the run: what it publishes then is found by the next run."""
    gate = owner.folder / "gate"
    os.mkfifo(gate)
    wait = f"read _ < {gate}"
    tool = owner.tool(before=wait) if is_published_late else owner.tool(after=wait)
    with owner.start("-publish-with", tool) as process:
        wait_until_ready(
            lambda: bool(owner.published) and (is_published_late or owner.on_chain is not None),
            what="the tool",
            process=process,
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
    key = owner.pending.certificate.public_key
    gate.write_text("go\n")  # when the tool reads
    wait_until_ready(lambda: owner.on_chain == key, what="the publication")
    finished = owner.generate("-publish-with", tool)
    assert finished.returncode == 0, finished.stderr
    assert load(owner.certs).certificate.public_key == key
    assert owner.published == [f"0x01{key.hex()}"]
    assert not (owner.certs / PENDING).exists()


def test_tool_that_fails_is_exit_code_1_and_the_key_waits(owner: Owner) -> None:
    """What it says is seen; the next run asks it for the same key."""
    failing = owner.tool(before="echo wallet is locked >&2; exit 7")
    finished = owner.generate("-publish-with", failing)
    assert finished.returncode == 1
    for words in ("wallet is locked", "exit code 7", PENDING):
        assert words in finished.stderr
    assert owner.generate("-publish-with", owner.tool()).returncode == 0
    first, second = owner.published
    assert first == second


def test_time_that_passes_without_the_key_is_exit_code_1(owner: Owner) -> None:
    """The old pair stays in its place, and works on; the new key waits."""
    assert owner.generate("-publish-with", owner.tool()).returncode == 0
    old = load(owner.certs)
    finished = owner.generate("-force-recreate", "-confirm-timeout-seconds", "1")
    assert finished.returncode == 1
    assert "so far" in finished.stderr
    assert PENDING in finished.stderr
    assert load(owner.certs).certificate.fingerprint == old.certificate.fingerprint
    assert owner.on_chain == old.certificate.public_key
    # A forced run goes on with the key that waits; a second one would make the first worthless.
    waiting = owner.pending.certificate.public_key
    forced = owner.generate("-force-recreate", "-publish-with", owner.tool())
    assert forced.returncode == 0, forced.stderr
    assert load(owner.certs).certificate.public_key == waiting == owner.on_chain
    assert names(owner.certs) == PAIR


def test_hotkey_without_a_place_is_exit_code_1(owner: Owner) -> None:
    """The chain would take no key of it."""
    finished = owner.generate("-ss58-address", str(a_hotkey("nobody")))
    assert finished.returncode == 1
    assert "no place on the subnet" in finished.stderr
    assert names(owner.certs) == []


def test_pylon_that_is_away_is_exit_code_3(owner: Owner) -> None:
    """Nothing is made, and nothing is lost."""
    owner.pylon.stop()
    finished = owner.generate()
    assert finished.returncode == 3
    assert owner.pylon.url in finished.stderr
    assert names(owner.certs) == []


def test_pending_key_of_another_hotkey_is_refused(owner: Owner) -> None:
    """It may be on chain for that one."""
    owner.generate("-confirm-timeout-seconds", "0")
    finished = owner.generate("-ss58-address", str(a_hotkey("dev")))
    assert finished.returncode == 1
    assert f"was made for {VALIDATOR}" in finished.stderr
    assert names(owner.certs) == [PENDING]


@pytest.mark.parametrize("maker", ["openssl", "cryptography"])
def test_key_of_another_program_is_shared(owner: Owner, maker: str) -> None:
    """As bt-ddos-shield keeps its own: PKCS#8, its public half on chain. The key stays as it is."""
    owner.certs.mkdir()
    key_file = owner.certs / "client.key"
    if maker == "openssl":
        openssl = str(require_program("openssl", "apt-get install openssl"))
        command = [openssl, "genpkey", "-algorithm", "ed25519", "-out", str(key_file)]
        subprocess.run(command, check=True, capture_output=True, timeout=10)
    else:
        key_file.write_bytes(
            Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
        )
    key_file.chmod(0o600)
    private_key = parse_private_key(key_file.read_bytes())
    owner.pylon.store.set_certificate(VALIDATOR, public_bytes(private_key))
    finished = subprocess.run(
        [each for each in owner.command("-reuse-key") if each != "-local"],
        env=owner.environment,
        cwd=owner.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert finished.returncode == 0, finished.stderr
    pair = load(owner.certs)
    assert pair.certificate.public_key == public_bytes(private_key) == owner.on_chain
    assert parse_private_key(pair.key_pem).private_bytes_raw() == private_key.private_bytes_raw()
    assert names(owner.certs) == PAIR
    assert owner.pylon.store.certificate(VALIDATOR) == public_bytes(private_key)
    with owner.service() as service:
        assert service.ask(as_header(pair)).status == 200
        assert service.ask(a_header("validator", key_of="validator")).status == 403
