"""`nexus-auth generate` as a process, against a real HTTP server, killed at awkward moments."""

from __future__ import annotations

import functools
import os
import pty
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nexus_auth.adapters.devnet.records import Axon
from nexus_auth.domain.certificate import ClientCertificate
from nexus_auth.domain.issuing import Credentials, parse_private_key
from tests.builders import a_hotkey
from tests.integration.pylon.running import TOKEN, RunningPylon, running_pylon
from tests.integration.real import Process, require_program, wait_until_ready

MINER = a_hotkey("miner")

ISSUING = r"/subnet/\d+/certificates/self$"
"""Where a key pair is asked for."""

SLOW_SECONDS = 1.0
"""Long enough for a signal to arrive while Pylon is at work."""


@pytest.fixture
def slow_pylon(pylon: RunningPylon) -> RunningPylon:
    """The same, but publishing takes a while. The new key is on chain from its beginning."""
    pylon.serve(pylon.store, publish_seconds=SLOW_SECONDS)
    return pylon


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """The directory for the pair; not made yet."""
    return tmp_path / "certs"


def environment(pylon: RunningPylon, **changes: str) -> dict[str, str]:
    """The settings of the identity `dev`."""
    return {
        **os.environ,
        "NEXUS_PYLON_ENDPOINT": pylon.url,
        "NEXUS_PYLON_NETUID": str(pylon.netuid),
        "NEXUS_PYLON_IDENTITY_NAME": pylon.identity_name,
        "NEXUS_PYLON_IDENTITY_TOKEN": pylon.token,
        **changes,
    }


def command(pylon: RunningPylon, certs: Path, *arguments: str) -> list[str]:
    """The command line; later flags win over these."""
    return [
        *(sys.executable, "-m", "nexus_auth", "generate"),
        *("-ss58-address", pylon.hotkey.address, "-output-dir", str(certs), *arguments),
    ]


def generate(
    pylon: RunningPylon,
    certs: Path,
    *arguments: str,
    settings: dict[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end. Whatever it says, it never says a secret."""
    finished = subprocess.run(
        command(pylon, certs, *arguments),
        env=environment(pylon, **(settings or {})),
        cwd=certs.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        **options,
    )
    said = finished.stdout + finished.stderr
    assert TOKEN not in said
    assert "Traceback" not in said
    assert "PRIVATE" not in said
    assert "\x1b" not in said  # not a terminal
    if (certs / "client.key").is_file() and (certs / "client.key").stat().st_size < 1000:
        check_key_is_not_in(said, certs / "client.key")
    return finished


def check_key_is_not_in(said: str, path: Path) -> None:
    """Neither as PEM nor as hexadecimal."""
    pem = path.read_bytes()
    if b"PRIVATE KEY" in pem:
        assert pem.splitlines()[1].decode() not in said
        seed = parse_private_key(pem.partition(b"-----BEGIN CERT")[0]).private_bytes_raw()
        assert seed.hex() not in said


def load(certs: Path) -> Credentials:
    """The pair; fails where its halves do not belong together."""
    return Credentials.from_pem(
        key_pem=(certs / "client.key").read_bytes(),
        certificate_pem=(certs / "client.crt").read_bytes(),
    )


def names(path: Path) -> list[str]:
    """Every file there, hidden ones included."""
    return sorted(each.name for each in path.iterdir())


def mode(path: Path) -> int:
    """The permission bits."""
    return path.stat().st_mode & 0o777


def key_on_chain(pylon: RunningPylon) -> bytes | None:
    """What the identity's hotkey has there."""
    return pylon.store.certificate(pylon.hotkey)


def posts(pylon: RunningPylon) -> int:
    """How often Pylon was asked for a pair."""
    return sum(each.method == "POST" for each in pylon.requests)


class TestIssuing:
    """What a person gets."""

    def test_pair_is_written_and_confirmed(self, pylon: RunningPylon, certs: Path) -> None:
        """The chain has its key, and only its owner can read the private one."""
        finished = generate(pylon, certs)
        assert finished.returncode == 0, finished.stderr
        credentials = load(certs)
        assert credentials.certificate.public_key == key_on_chain(pylon)
        assert credentials.certificate.hotkey == pylon.hotkey
        assert (mode(certs / "client.key"), mode(certs / "client.crt")) == (0o600, 0o644)
        assert names(certs) == ["client.crt", "client.key"]
        assert "Confirmed" in finished.stdout
        assert "WARNING" not in finished.stderr

    def test_openssl_agrees(self, pylon: RunningPylon, certs: Path) -> None:
        """Certificate, key and signature are what another implementation takes them for."""
        openssl = str(require_program("openssl", "apt-get install openssl"))
        generate(pylon, certs, "-not-after-days", "10")
        shown = subprocess.run(
            [openssl, "x509", "-in", str(certs / "client.crt"), "-noout", "-text"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout
        for words in (
            "Version: 3 (0x2)",
            "Signature Algorithm: ED25519",
            f"Subject: O = {pylon.hotkey}",
            "X509v3 Key Usage: critical",
            "Digital Signature",
            "TLS Web Client Authentication, TLS Web Server Authentication",
        ):
            assert words in shown.replace("O=", "O = ").replace("O =  ", "O = ")
        for arguments in (
            ["verify", "-CAfile", str(certs / "client.crt"), str(certs / "client.crt")],
            ["pkey", "-in", str(certs / "client.key"), "-check", "-noout"],
        ):
            subprocess.run([openssl, *arguments], check=True, capture_output=True, timeout=10)

    def test_both_files_present_are_left_alone(self, pylon: RunningPylon, certs: Path) -> None:
        """No request, no change, no configuration needed, whatever is in the files."""
        certs.mkdir()
        for name in ("client.key", "client.crt"):
            (certs / name).write_text("mine")
        before = [(each.stat().st_mtime_ns, each.stat().st_mode) for each in certs.iterdir()]
        nothing = dict.fromkeys(
            ("NEXUS_PYLON_NETUID", "NEXUS_PYLON_IDENTITY_NAME", "NEXUS_PYLON_IDENTITY_TOKEN"), ""
        )
        finished = generate(pylon, certs, settings=nothing)
        assert finished.returncode == 0
        assert "-force-recreate" in finished.stdout
        assert before == [
            (each.stat().st_mtime_ns, each.stat().st_mode) for each in certs.iterdir()
        ]
        assert pylon.requests == []

    def test_force_replaces_the_pair(self, pylon: RunningPylon, certs: Path) -> None:
        """With the right bits over a key that everybody could read; the old pair goes away."""
        generate(pylon, certs)
        old = load(certs)
        (certs / "client.key").chmod(0o644)
        assert generate(pylon, certs, "-force-recreate").returncode == 0
        assert load(certs).certificate.public_key == key_on_chain(pylon)
        assert load(certs).certificate.public_key != old.certificate.public_key
        assert mode(certs / "client.key") == 0o600
        assert names(certs) == ["client.crt", "client.key"]

    def test_wrong_address_that_could_not_be_known_is_a_failure(
        self, pylon: RunningPylon, certs: Path
    ) -> None:
        """The identity had no key yet: the address that its key went to is named, and a way out."""
        pylon.store.set_neuron(MINER, axon=Axon(port=1))
        finished = generate(pylon, certs, "-ss58-address", MINER.address)
        assert finished.returncode == 1
        assert "WARNING" in finished.stderr
        assert f"belongs to {pylon.hotkey}" in finished.stderr
        assert "Confirmed" not in finished.stdout
        [advice] = re.findall(r"run nexus-auth (generate .*?);", finished.stderr)
        assert f"-output-dir {certs}" in advice
        assert run_other(pylon, certs.parent, *shlex.split(advice))[0] == 0
        assert load(certs).certificate.hotkey == pylon.hotkey
        assert load(certs).certificate.public_key == key_on_chain(pylon)
        assert posts(pylon) == 1

    def test_progress_is_shown_on_a_terminal(self, slow_pylon: RunningPylon, certs: Path) -> None:
        """Seconds count up in one line there."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            command(slow_pylon, certs),
            env=environment(slow_pylon),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        ) as child:
            os.close(theirs)
            shown = b""
            try:
                while more := os.read(ours, 65_536):
                    shown += more
            except OSError:
                pass  # how a terminal says that the other side is gone
            assert child.wait(10) == 0
        os.close(ours)
        assert b"can take a minute (0 s)" in shown
        assert b"\r\x1b[K" in shown


class TestRefusals:
    """What is refused before Pylon is asked, so that the key on chain stays."""

    def test_directory_that_cannot_be_written_is_refused(
        self, pylon: RunningPylon, certs: Path
    ) -> None:
        """It is tried, not guessed from permission bits: root may everything, disks may be full."""
        finished = generate(pylon, certs, preexec_fn=_allow_only_tiny_files)
        assert (finished.returncode, pylon.requests) == (1, [])
        assert "File too large" in finished.stderr
        assert names(certs) == []

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory like /proc")
    def test_read_only_place_is_refused(self, pylon: RunningPylon, tmp_path: Path) -> None:
        """Where not even root can make a directory."""
        finished = generate(pylon, tmp_path, "-output-dir", "/proc/self/certs")
        assert (finished.returncode, pylon.requests) == (1, [])


class TestBeforePylonIsAsked:
    """What can be read says that the chain would refuse, or that it is another hotkey's key."""

    @pytest.mark.parametrize("arguments", [[], ["-force-recreate"]])
    @pytest.mark.parametrize("has_key", [False, True])
    def test_validators_key_survives_the_miners_address(
        self, pylon: RunningPylon, certs: Path, arguments: list[str], *, has_key: bool
    ) -> None:
        """Two identities on one subnet, and the validator's service with the miner's address."""
        pylon.store.add_identity("miner", hotkey=MINER, token="token-of-miner")
        as_miner = ["-identity-name", "miner", "-identity-token", "token-of-miner"]
        theirs = certs.with_name("miner")
        if has_key:
            address = ["-ss58-address", MINER.address]
            assert generate(pylon, theirs, *as_miner, *address).returncode == 0
        assert generate(pylon, certs).returncode == 0
        before = pylon.store.certificates()
        pair = load(certs)
        asked = posts(pylon)
        for directory in (certs.with_name("other"), *([certs] if arguments else [])):
            finished = generate(pylon, directory, "-ss58-address", MINER.address, *arguments)
            assert finished.returncode == 1
            assert f"the Pylon identity is {pylon.hotkey}" in finished.stderr
            assert f"use the endpoint, name and token of the identity of {MINER}" in finished.stderr
        assert pylon.store.certificates() == before
        assert posts(pylon) == asked
        assert names(certs.with_name("other")) == []
        assert load(certs).certificate_pem == pair.certificate_pem

    @pytest.mark.parametrize("arguments", [[], ["-force-recreate"]])
    def test_hotkey_without_an_axon_is_told_how_to_get_one(
        self, pylon: RunningPylon, certs: Path, arguments: list[str]
    ) -> None:
        """The command that is shown, with the ip and port that it has, is enough."""
        pylon.store.set_neuron(pylon.hotkey, axon=Axon())
        finished = generate(pylon, certs, *arguments)
        assert finished.returncode == 1
        assert "serves no axon on subnet 1 (port 0)" in finished.stderr
        assert "generate -local" in finished.stderr
        assert posts(pylon) == 0
        assert names(certs) == []
        [(ip, port)] = re.findall(
            r"btcli axon set --netuid 1 --ip (\S+) --port (\d+)", finished.stderr
        )
        pylon.store.set_neuron(pylon.hotkey, axon=Axon(ip=ip, port=int(port)))
        assert generate(pylon, certs).returncode == 0

    def test_hotkey_without_a_place_is_told_so(self, pylon: RunningPylon, certs: Path) -> None:
        """Nothing is asked for."""
        pylon.store.remove_neuron(pylon.hotkey)
        finished = generate(pylon, certs)
        assert finished.returncode == 1
        assert f"{pylon.hotkey} has no place on subnet 1" in finished.stderr
        assert posts(pylon) == 0

    def test_rate_limit_is_foreseen_and_explained(self, certs: Path) -> None:
        """Pylon answers 500 then: the key on chain stays, and so does the pair on disk."""
        with running_pylon(serving_rate_limit=50) as pylon:
            assert generate(pylon, certs).returncode == 0
            before, pair = key_on_chain(pylon), load(certs)
            finished = generate(pylon, certs, "-force-recreate")
            assert finished.returncode == 3
            foreseen, explained = re.findall(r"after (\d\d:\d\d:\d\d) UTC", finished.stderr)
            assert foreseen == explained
            assert "rate limit" in finished.stderr
            assert "no axon" not in finished.stderr
            assert key_on_chain(pylon) == before
            assert load(certs).certificate_pem == pair.certificate_pem

    def test_refusal_that_could_not_be_foreseen_is_explained(
        self, pylon: RunningPylon, certs: Path
    ) -> None:
        """A Pylon without neurons: the likeliest cause comes first, and nothing has changed."""
        pylon.store.set_neuron(pylon.hotkey, axon=Axon())
        pylon.fail_with(404, where="neurons")
        finished = generate(pylon, certs)
        assert finished.returncode == 1
        causes = ("serves no axon", "rate limit (", "not registered on subnet 1")
        places = [finished.stderr.index(cause) for cause in causes]
        assert places == sorted(places)
        assert names(certs) == []


class TestFirstGeneration:
    """`-pylon-endpoint` and `-ss58-address` alone, as the original documents it."""

    nothing: ClassVar = dict.fromkeys(
        (*("NEXUS_PYLON_NETUID", "NEXUS_PYLON_IDENTITY_NAME", "NEXUS_PYLON_IDENTITY_TOKEN"),), ""
    )

    def test_pair_is_made_and_confirmed(self, pylon: RunningPylon, certs: Path) -> None:
        """On the paths of October 2025, with no settings."""
        settings = {**self.nothing, "NEXUS_PYLON_ENDPOINT": ""}
        for arguments in ((), ("-force-recreate",)):
            finished = generate(
                pylon, certs, "-pylon-endpoint", pylon.url, *arguments, settings=settings
            )
            assert finished.returncode == 0, finished.stderr
            assert "Confirmed" in finished.stdout
            assert load(certs).certificate.hotkey == pylon.hotkey
            assert load(certs).certificate.public_key == key_on_chain(pylon)
        paths = {(each.method, each.path) for each in pylon.requests}
        assert ("POST", "/api/v1/certificates/self") in paths
        assert ("GET", f"/api/v1/certificates/{pylon.hotkey}") in paths
        assert not any("subnet" in path for _, path in paths)

    def test_pylon_from_before_neurons_is_enough(self, pylon: RunningPylon, certs: Path) -> None:
        """Where the hotkey has its place is unknown there."""
        pylon.fail_with(404, where="neurons")
        finished = generate(pylon, certs, settings=self.nothing)
        assert finished.returncode == 0, finished.stderr

    def test_wrong_address_is_stopped(self, pylon: RunningPylon, certs: Path) -> None:
        """Pylon's own wallet is the identity."""
        assert generate(pylon, certs, settings=self.nothing).returncode == 0
        before = pylon.store.certificates()
        pylon.store.set_neuron(MINER, axon=Axon(port=1))
        other = certs.with_name("other")
        address = ["-ss58-address", MINER.address]
        finished = generate(pylon, other, *address, settings=self.nothing)
        assert finished.returncode == 1
        assert f"the Pylon identity is {pylon.hotkey}" in finished.stderr
        assert pylon.store.certificates() == before

    @pytest.mark.parametrize("status", [404, 405, 401])
    def test_newer_pylon_names_what_is_missing(
        self, pylon: RunningPylon, certs: Path, status: int
    ) -> None:
        """Found out with a GET: nothing is replaced, no file is left."""
        pylon.store.set_certificate(pylon.hotkey, b"\x01" * 32)
        pylon.fail_with(status, where="^/api/v1/(certificates|neurons)")
        finished = generate(pylon, certs, "-force-recreate", settings=self.nothing)
        assert finished.returncode == 2
        assert "this Pylon is newer" in finished.stderr
        for name in self.nothing:
            assert name in finished.stderr
        assert posts(pylon) == 0
        assert names(certs) == []

    @pytest.mark.parametrize(
        ("given", "missing"),
        [
            (("NETUID",), "NEXUS_PYLON_IDENTITY_NAME: needed"),
            (("IDENTITY_NAME",), "NEXUS_PYLON_IDENTITY_TOKEN"),
            (("IDENTITY_TOKEN",), "NEXUS_PYLON_IDENTITY_NAME"),
            (("NETUID", "IDENTITY_NAME"), "NEXUS_PYLON_IDENTITY_TOKEN"),
            (("IDENTITY_NAME", "IDENTITY_TOKEN"), "NEXUS_PYLON_NETUID"),
        ],
    )
    def test_some_settings_of_an_identity_are_not_enough(
        self, pylon: RunningPylon, certs: Path, given: tuple[str, ...], missing: str
    ) -> None:
        """What is missing is named, and nothing is asked."""
        given = tuple(f"NEXUS_PYLON_{name}" for name in given)
        settings = {name: "" for name in self.nothing if name not in given}
        finished = generate(pylon, certs, settings=settings)
        assert finished.returncode == 2
        assert missing in finished.stderr
        assert pylon.requests == []


def _allow_only_tiny_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


class TestPylonsAnswers:
    """Exit code 3 when nobody could answer, 1 when the answer was no."""

    @pytest.mark.parametrize(("status", "code"), [(403, 1), (503, 3)])
    def test_statuses(self, pylon: RunningPylon, certs: Path, status: int, code: int) -> None:
        """Nothing is written but a record that Pylon may have done it; the status is named."""
        pylon.fail_with(status, where=ISSUING)
        finished = generate(pylon, certs)
        assert finished.returncode == code
        assert str(status) in finished.stderr
        assert names(certs) == [each.name for each in records(certs)]
        assert bool(records(certs)) is (status >= 500)

    def test_pylon_that_failed_may_have_replaced_the_key(
        self, pylon: RunningPylon, certs: Path
    ) -> None:
        """A Pylon that loses the chain while it waits for the new key answers 500: that is said."""
        generate(pylon, certs)
        old = load(certs)
        pylon.fail_with(500, where=ISSUING)
        finished = generate(pylon, certs, "-force-recreate")
        assert finished.returncode == 3
        assert "may be another one now" in finished.stderr
        assert load(certs).certificate.fingerprint == old.certificate.fingerprint

    @pytest.mark.parametrize(("status", "code"), [(403, 1), (500, 3), (503, 3)])
    def test_pylon_that_cannot_be_read_is_asked_for_nothing(
        self, pylon: RunningPylon, certs: Path, status: int, code: int
    ) -> None:
        """Whose key would be replaced is not known then; no record is left."""
        pylon.fail_with(status)
        finished = generate(pylon, certs, "-force-recreate")
        assert finished.returncode == code
        assert str(status) in finished.stderr
        assert posts(pylon) == 0
        assert names(certs) == []

    def test_pylon_away_is_exit_code_3(self, pylon: RunningPylon, certs: Path) -> None:
        """And what was there stays."""
        generate(pylon, certs)
        old = load(certs)
        pylon.stop()
        finished = generate(pylon, certs, "-force-recreate")
        assert finished.returncode == 3
        assert pylon.url in finished.stderr
        assert load(certs).certificate.fingerprint == old.certificate.fingerprint
        assert names(certs) == ["client.crt", "client.key"]

    def test_pylon_that_takes_too_long_is_exit_code_3(
        self, pylon: RunningPylon, certs: Path
    ) -> None:
        """The key on chain may have changed: that is said."""
        pylon.serve(pylon.store, publish_seconds=5)
        finished = generate(pylon, certs, "-generate-timeout-seconds", "1")
        assert finished.returncode == 3
        assert "may be another one now" in finished.stderr


def started(
    pylon: RunningPylon, certs: Path, tmp_path: Path, *arguments: str
) -> tuple[Process, Callable[[], None]]:
    """Starts the command, and gives what waits until Pylon is at work on a new key."""
    before = key_on_chain(pylon)
    process = Process(
        command(pylon, certs, *arguments),
        log_file=tmp_path / "output",
        environment=environment(pylon),
        directory=tmp_path,
    )

    def wait() -> None:
        wait_until_ready(lambda: key_on_chain(pylon) != before, what="the request", process=process)

    return process, wait


def kill_while_pylon_works(
    pylon: RunningPylon, certs: Path, tmp_path: Path, *arguments: str
) -> None:
    """Kills a run whose new key is on chain, while Pylon has not answered yet."""
    process, wait_for_request = started(pylon, certs, tmp_path, *arguments)
    with process:
        wait_for_request()
        process.send_signal(signal.SIGKILL)
        process.wait()


def records(certs: Path) -> list[Path]:
    """What says that a request was sent."""
    return list(certs.glob(".client-pair.*.requested.tmp"))


def run_other(pylon: RunningPylon, directory: Path, *arguments: str) -> tuple[int, str]:
    """Runs another command, and returns its exit code and what it printed."""
    finished = subprocess.run(
        [sys.executable, "-m", "nexus_auth", *arguments],
        env=environment(pylon),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return finished.returncode, finished.stdout


def says(process: Process, words: str) -> bool:
    """Tells whether words have been written."""
    return words in process.output


class TestAwkwardMoments:
    """Signals, crashes and disks, while the only copy of a key is on its way."""

    @pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
    def test_signal_waits_until_the_pair_is_on_disk(
        self, slow_pylon: RunningPylon, certs: Path, tmp_path: Path, which: signal.Signals
    ) -> None:
        """It is said why, and the exit code tells of the signal."""
        process, wait_for_request = started(slow_pylon, certs, tmp_path)
        with process:
            wait_for_request()
            process.send_signal(which)
            assert process.wait() == 128 + which
        assert load(certs).certificate.public_key == key_on_chain(slow_pylon)
        assert "Not now" in process.output
        assert "not looked up" in process.output
        check_key_is_not_in(process.output, certs / "client.key")

    def test_second_interrupt_is_warned_of_and_third_obeyed(
        self, slow_pylon: RunningPylon, certs: Path, tmp_path: Path
    ) -> None:
        """Nobody is kept for ever, and nobody is surprised."""
        slow_pylon.serve(slow_pylon.store, publish_seconds=20)
        process, wait_for_request = started(slow_pylon, certs, tmp_path)
        with process:
            wait_for_request()
            for words in ("Not now", "once more", "given up"):
                process.send_signal(signal.SIGINT)
                wait_until_ready(functools.partial(says, process, words), what=words)
            assert process.wait() == 130
        [record] = names(certs)
        assert record.endswith(".requested.tmp")

    def test_kill_while_pylon_makes_the_first_pair_is_named(
        self, slow_pylon: RunningPylon, certs: Path, tmp_path: Path
    ) -> None:
        """What the killed run left behind is removed by the next, which makes a new pair."""
        kill_while_pylon_works(slow_pylon, certs, tmp_path)
        assert names(certs) != []
        assert not any(name.startswith("client.") for name in names(certs))
        finished = generate(slow_pylon, certs)
        assert finished.returncode == 0
        assert "its answer is lost" in finished.stderr
        assert names(certs) == ["client.crt", "client.key"]
        assert load(certs).certificate.public_key == key_on_chain(slow_pylon)

    def test_kill_while_pylon_replaces_the_key_is_found_by_every_next_run(
        self, slow_pylon: RunningPylon, certs: Path, tmp_path: Path
    ) -> None:
        """The pair on disk is worthless: generate, status and doctor say so, and change nothing."""
        slow_pylon.serve(slow_pylon.store)
        assert generate(slow_pylon, certs).returncode == 0
        old = load(certs)
        slow_pylon.serve(slow_pylon.store, publish_seconds=600)  # longer than this test
        kill_while_pylon_works(slow_pylon, certs, tmp_path, "-force-recreate")
        assert key_on_chain(slow_pylon) != old.certificate.public_key
        slow_pylon.serve(slow_pylon.store)
        before = records(certs)
        for _ in range(2):
            finished = generate(slow_pylon, certs)
            assert finished.returncode == 1
            for words in ("has been replaced", "another key", "is lost", "-force-recreate"):
                assert words in finished.stderr
        for other in (["status", str(certs)], ["doctor", "--certs", str(certs)]):
            code, said = run_other(slow_pylon, tmp_path, *other)
            assert code == 1
            assert "ended without the answer" in said
            assert "the chain has another key" in said
        assert records(certs) == before
        assert posts(slow_pylon) == 0
        assert load(certs).certificate_pem == old.certificate_pem
        assert generate(slow_pylon, certs, "-force-recreate").returncode == 0
        assert load(certs).certificate.public_key == key_on_chain(slow_pylon)
        assert names(certs) == ["client.crt", "client.key"]
        assert generate(slow_pylon, certs).returncode == 0

    def test_kill_before_pylon_begins_is_forgotten_once_it_cannot_begin_any_more(
        self, pylon: RunningPylon, certs: Path, tmp_path: Path
    ) -> None:
        """The chain has the pair's key: it is good; but for a while the request may be at work."""
        assert generate(pylon, certs).returncode == 0
        pylon.answer_after(20, where=ISSUING)
        process = started(pylon, certs, tmp_path, "-force-recreate")[0]
        with process:
            wait_until_ready(lambda: bool(records(certs)), what="the record", process=process)
            process.send_signal(signal.SIGKILL)
            process.wait()
        pylon.stop()
        finished = generate(pylon, certs)
        assert finished.returncode == 3
        assert pylon.url in finished.stderr
        [record] = records(certs)
        pylon.serve(pylon.store)
        pylon.start()
        finished = generate(pylon, certs)
        assert (finished.returncode, records(certs)) == (0, [record])
        assert "may still take effect" in finished.stderr
        os.utime(record, (record.stat().st_mtime - 900,) * 2)
        finished = generate(pylon, certs)
        assert finished.returncode == 0
        assert "changed nothing" in finished.stderr
        assert names(certs) == ["client.crt", "client.key"]
        asked = len(pylon.requests)
        assert generate(pylon, certs).returncode == 0
        assert (len(pylon.requests), posts(pylon)) == (asked, 0)

    def test_kill_after_the_answer_is_made_good_by_the_next_run(
        self, pylon: RunningPylon, certs: Path
    ) -> None:
        """Without another key: the one on chain is the one in the journal."""
        generate(pylon, certs)
        pair = load(certs)
        journal = certs / ".client-pair.pending"
        journal.write_bytes(pair.key_pem + pair.certificate_pem)
        (certs / "client.crt").unlink()
        finished = generate(pylon, certs)
        assert finished.returncode == 0
        assert "interrupted" in finished.stderr
        assert "Confirmed" in finished.stdout
        assert load(certs).certificate.fingerprint == pair.certificate.fingerprint
        assert names(certs) == ["client.crt", "client.key"]
        assert posts(pylon) == 1

    def test_directory_that_disappears_leaves_a_recovery_file(
        self, slow_pylon: RunningPylon, certs: Path, tmp_path: Path
    ) -> None:
        """Beside it, for its owner alone, named in the message; exit code 1."""
        process, wait_for_request = started(slow_pylon, certs, tmp_path)
        with process:
            wait_for_request()
            certs.rename(tmp_path / "moved")
            assert process.wait() == 1
        [path] = tmp_path.glob("nexus-auth-recovered-*.pem")
        assert str(path) in process.output
        assert mode(path) == 0o600
        check_key_is_not_in(process.output, path)
        key, _, certificate = path.read_bytes().partition(b"-----BEGIN CERT")
        loaded = ClientCertificate.from_pem(b"-----BEGIN CERT" + certificate)
        assert loaded.public_key == key_on_chain(slow_pylon)
        assert load_pem_private_key(key, password=None) is not None

    @pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit (Linux)")
    def test_nowhere_to_write_is_waited_out(
        self, slow_pylon: RunningPylon, certs: Path, tmp_path: Path
    ) -> None:
        """The key stays in the process until there is room, and is then on disk."""
        output, ours = os.pipe()
        child = subprocess.Popen(
            command(slow_pylon, certs),
            env=environment(slow_pylon),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=ours,
            stderr=ours,
        )
        os.close(ours)
        with child, open(output, encoding="utf-8") as reader:  # noqa: PTH123 - a pipe has no path
            wait_until_ready(lambda: key_on_chain(slow_pylon) is not None, what="the request")
            _, hard = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (0, hard))
            said = ""
            while "only copy" not in said:
                line = reader.readline()
                assert line, said
                said += line
            resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (hard, hard))
            said += reader.read()
        assert child.wait(10) == 1
        [path] = certs.glob("nexus-auth-recovered-*.pem")
        assert str(path) in said
        check_key_is_not_in(said, path)

    def test_closed_terminal_loses_nothing(
        self, slow_pylon: RunningPylon, certs: Path, tmp_path: Path
    ) -> None:
        """Whoever read our output went away; the pair is written all the same."""
        child = subprocess.Popen(
            command(slow_pylon, certs),
            env=environment(slow_pylon),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert child.stdout is not None
        child.stdout.close()
        child.wait(20)
        assert load(certs).certificate.public_key == key_on_chain(slow_pylon)

    def test_second_run_at_once_is_refused(
        self, slow_pylon: RunningPylon, certs: Path, tmp_path: Path
    ) -> None:
        """It would replace on chain what the first is about to write."""
        slow_pylon.serve(slow_pylon.store, publish_seconds=20)
        process, wait_for_request = started(slow_pylon, certs, tmp_path)
        with process:
            wait_for_request()
            finished = generate(slow_pylon, certs, "-force-recreate")
            assert finished.returncode == 1
            assert "another nexus-auth" in finished.stderr
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert posts(slow_pylon) == 0  # none but the one that is still being answered


def test_pair_that_ends_soon_is_replaced_and_the_hook_run(pylon: RunningPylon, certs: Path) -> None:
    """The hook sees the new pair, and none of our tokens."""
    generate(pylon, certs, "-not-after-days", "20")
    old = load(certs)
    hook = f"sh -c 'env > {certs.parent / 'seen'}; cat client.crt >> {certs.parent / 'seen'}'"
    finished = generate(
        pylon,
        certs,
        "-renew-before-days",
        "30",
        "-after-change",
        hook.replace("client", f"{certs}/client"),
    )
    assert finished.returncode == 0, finished.stderr
    new = load(certs)
    assert new.certificate.public_key != old.certificate.public_key
    assert new.certificate.public_key == key_on_chain(pylon)
    seen = (certs.parent / "seen").read_text()
    assert new.certificate_pem.decode() in seen
    assert TOKEN not in seen
    assert names(certs) == ["client.crt", "client.key"]


@pytest.mark.parametrize("renewing", [[], ["-renew-before-days", "30"]])
def test_hook_that_failed_is_run_again_by_the_next_run(
    pylon: RunningPylon, certs: Path, renewing: list[str]
) -> None:
    """Though nothing else is to be done: the proxy may still have the pair of before."""
    assert generate(pylon, certs, "-after-change", "false").returncode == 1
    old = load(certs)
    hook = f"sh -c 'echo x >> {certs.parent / 'ran'}'"
    for _ in range(2):
        finished = generate(pylon, certs, *renewing, "-after-change", hook)
        assert finished.returncode == 0, finished.stderr
    assert (certs.parent / "ran").read_text() == "x\n"
    assert load(certs).certificate_pem == old.certificate_pem
    assert names(certs) == ["client.crt", "client.key"]
