"""`nexus-auth pylon` as a process."""

from __future__ import annotations

import io
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from dotenv import dotenv_values

from nexus_auth.adapters.devnet.store import DevnetStore
from tests.builders import a_hotkey, a_key, public_bytes
from tests.integration.real import Process, wait_until_ready

ALICE = a_hotkey("alice")
ALICE_KEY = public_bytes(a_key("alice"))
COMMAND = [sys.executable, "-m", "nexus_auth", "pylon"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class Served:
    """A running `nexus-auth pylon` and the settings that it printed."""

    def __init__(self, process: Process) -> None:
        self.process = process
        wait_until_ready(
            lambda: "development_pylon_started" in process.output,
            what="nexus-auth pylon",
            process=process,
        )
        printed = [line for line in process.output.splitlines() if line.startswith("NEXUS_")]
        self.settings = dotenv_values(stream=io.StringIO("\n".join(printed)))
        self.url = self.settings["NEXUS_PYLON_ENDPOINT"] or ""

    @property
    def token(self) -> str:
        """The token in the file that the settings name."""
        return Path(self.settings["NEXUS_PYLON_IDENTITY_TOKEN_FILE"] or "").read_text().strip()

    def request(self, method: str, path: str, token: str | None = None) -> httpx.Response:
        """Asks its identity API about subnet 1."""
        return httpx.request(
            method,
            f"{self.url}/api/v1/identity/dev/subnet/1{path}",
            headers={"Authorization": f"Bearer {token or self.token}"},
            json={} if method == "POST" else None,
            trust_env=False,
        )


@contextmanager
def serving(data: Path, *arguments: str, **environment: str) -> Iterator[Served]:
    """Runs the command on a free loopback port."""
    command = [*COMMAND, "--data", str(data), "--listen", "127.0.0.1:0", *arguments]
    with Process(
        command, log_file=data.with_suffix(".log"), environment={**os.environ, **environment}
    ) as process:
        yield Served(process)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where the data file will be; the name needs quoting in a shell."""
    return tmp_path / "my pylon.sqlite"


def test_without_arguments_a_working_identity_comes_up(data: Path) -> None:
    """Its settings are printed, its token is in a file for its owner alone."""
    with serving(data) as served:
        assert served.settings["NEXUS_PYLON_NETUID"] == "1"
        assert served.settings["NEXUS_PYLON_IDENTITY_NAME"] == "dev"
        token_file = Path(served.settings["NEXUS_PYLON_IDENTITY_TOKEN_FILE"] or "")
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        assert served.request("POST", "/certificates/self").status_code == 201
        assert served.token not in served.process.output
        assert "development" in served.process.output


def test_sigterm_ends_it_well(data: Path) -> None:
    """Exit code 0, and a last line in the log."""
    with serving(data) as served:
        assert served.process.stop() == 0
        assert "development_pylon_stopped" in served.process.output


def test_state_survives_a_kill(data: Path) -> None:
    """After kill -9 key, identity and token are as answered; the private key is nowhere."""
    with serving(data) as served:
        made = served.request("POST", "/certificates/self").json()
        token = served.token
        served.process.send_signal(signal.SIGKILL)
        assert served.process.wait() == -signal.SIGKILL
        written = b"".join(each.read_bytes() for each in data.parent.iterdir())
        for private in (made["private_key"].encode(), bytes.fromhex(made["private_key"])):
            assert private not in written
    with serving(data) as served:
        own = served.request("GET", "/block/latest/certificates/self", token)
        assert own.json() == {"algorithm": 1, "public_key": made["public_key"]}
        assert served.token == token


def test_a_lost_token_file_is_made_again(data: Path) -> None:
    """The default identity gets a new token then; the old one is worthless."""
    with serving(data) as served:
        old = served.token
        Path(served.settings["NEXUS_PYLON_IDENTITY_TOKEN_FILE"] or "").unlink()
    with serving(data) as served:
        assert served.token != old
        assert served.request("GET", "/block/latest/neurons").status_code == 200
        assert served.request("GET", "/block/latest/neurons", old).status_code == 403


def test_seeding_reaches_a_running_pylon(data: Path) -> None:
    """A second process changes stake, permit and key in the same file."""
    with serving(data) as served:
        seeded = run(
            "--data",
            str(data),
            "--seed-only",
            "-neuron",
            f"{ALICE},stake=1500,alpha=1000,tao=500,permit=yes,uid=9,axon=192.0.2.1:8091",
            "-certificate",
            f"{ALICE}=0x{ALICE_KEY.hex().upper()}",
        )
        assert (seeded.returncode, seeded.stdout, seeded.stderr) == (0, "", "")
        neurons = served.request("GET", "/block/latest/neurons").json()["neurons"]
        neuron = neurons[str(ALICE)]
        assert (neuron["uid"], neuron["validator_permit"]) == (9, True)
        assert neuron["stakes"] == {"alpha": 1000.0, "tao": 500.0, "total": 1500.0}
        assert neuron["axon_info"] == {"ip": "192.0.2.1", "port": 8091, "protocol": 4}
        keys = served.request("GET", "/block/latest/certificates").json()
        assert keys[str(ALICE)]["public_key"] == ALICE_KEY.hex()


def test_the_rules_of_the_chain_can_be_tried(data: Path) -> None:
    """A validator without an axon, the rate limit, and a place that is given to another."""
    seed = ["--data", str(data), "--seed-only"]
    with serving(data, "--identity", f"dev={ALICE}", "--serving-rate-limit", "50") as served:
        assert run(*seed, "--neuron", f"{ALICE},axon=0.0.0.0:0").returncode == 0
        assert served.request("POST", "/certificates/self").status_code == 500
        assert "ServingRateLimitExceeded" in served.process.output
    with serving(data) as served:
        assert served.request("POST", "/certificates/self").status_code == 502
        assert "InvalidPort" in served.process.output
        assert run(*seed, "--neuron", f"{ALICE},axon=0.0.0.0:1,uid=5").returncode == 0
        assert served.request("POST", "/certificates/self").status_code == 201
        assert run(*seed, "--neuron", f"{a_hotkey('bob')},uid=5").returncode == 0
        assert served.request("GET", "/block/latest/certificates").json() == {}
        assert served.request("POST", "/certificates/self").status_code == 502
        assert "HotKeyNotRegisteredInNetwork" in served.process.output


def test_identities_and_tokens_can_be_chosen(data: Path) -> None:
    """Name and hotkey by flag, tokens by environment."""
    seeded = run(
        f"--data={data}",
        "--seed-only",
        "--netuid=12",
        f"--identity=validator={ALICE}",
        NEXUS_PYLON_DEV_TOKEN="chosen",
        NEXUS_PYLON_DEV_OPEN_ACCESS_TOKEN="everybody",
    )
    assert seeded.returncode == 0, seeded.stderr
    with DevnetStore(data) as store:
        (identity,) = store.identities()
        assert (identity.name, identity.netuid, identity.hotkey) == ("validator", 12, ALICE)
        assert store.is_identity_token("validator", "chosen")
        assert store.neuron(ALICE, netuid=12) is not None
        assert store.open_access_token() is not None
    with serving(data) as served:
        # Nobody told this process the token again, and nobody needs a second identity.
        assert served.settings["NEXUS_PYLON_IDENTITY_NAME"] == "validator"
        assert "NEXUS_PYLON_IDENTITY_TOKEN_FILE" not in served.settings


def test_memory_needs_a_token_from_outside(tmp_path: Path) -> None:
    """There is no place beside it for a token file."""
    refused = run("--data", ":memory:", "--seed-only")
    assert (refused.returncode, "--token-file" in refused.stderr) == (2, True)
    token_file = tmp_path / "token"
    seeded = run("--data", ":memory:", "--seed-only", "--token-file", str(token_file))
    assert seeded.returncode == 0
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", ":8000"], "--insecure-listen-publicly"),
        (["--listen", "0.0.0.0:0"], "--insecure-listen-publicly"),
        (["--listen", "nonsense"], "--listen"),
        (["--listen", "unix:/tmp/x"], "--listen"),
        (["--netuid", "many"], "--netuid"),
        (["--netuid", "65536"], "--netuid"),
        (["--identity", "dev"], "NAME=HOTKEY"),
        (["--identity", f"../dev={ALICE}"], "NAME=HOTKEY"),
        (["--identity", "dev=5nonsense"], "SS58"),
        (["--identity", f"{'x' * 129}={ALICE}"], "128 printable characters"),
        (["--neuron", "5nonsense"], "SS58"),
        (["--neuron", f"{ALICE},colour=red"], "colour"),
        (["--neuron", f"{ALICE},stake=much"], "much"),
        (["--neuron", f"{ALICE},stake=-1"], "stake"),
        (["--neuron", f"{ALICE},permit=maybe"], "maybe"),
        (["--neuron", f"{ALICE},axon=nowhere"], "--neuron"),
        (["--certificate", f"{ALICE}=abc"], "64 hex digits"),
        (["--publish-seconds", "-1"], "--publish-seconds"),
        (["--serving-rate-limit", "-1"], "--serving-rate-limit"),
        (["--serving-rate-limit", "1.5"], "--serving-rate-limit"),
        (["--token-file", "/nowhere/token"], "/nowhere/token"),
        (["--unknown"], "--unknown"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    data: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names what is wrong; nothing is served."""
    from nexus_auth.entrypoints.cli import main

    try:
        code = main(["pylon", "--data", str(data), "--seed-only", *arguments])
    except SystemExit as exc:  # argparse's own way out
        code = int(str(exc.code))
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert len([line for line in error.splitlines() if not line.startswith("Try ")]) == 1


def test_a_foreign_data_file_is_exit_code_2(data: Path) -> None:
    """And it stays as it was."""
    data.write_text("my diary\n")
    refused = run("--data", str(data), "--seed-only")
    assert refused.returncode == 2
    assert "not a data file" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert data.read_text() == "my diary\n"


def test_a_taken_address_is_exit_code_1_and_changes_nothing(data: Path) -> None:
    """The address is tried before the data file is made."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run("--data", str(data), "--listen", f"127.0.0.1:{port}")
    assert refused.returncode == 1
    assert "in use" in refused.stderr
    assert not data.exists()


def test_help_says_what_it_is_for() -> None:
    """Development only, in so many words."""
    shown = run("--help")
    assert shown.returncode == 0
    assert "FOR DEVELOPMENT ONLY" in shown.stdout
