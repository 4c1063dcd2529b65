"""`nexus-auth call`: to a miner behind each proxy, and to servers that are not what they should be.

The registered key comes from a development Pylon, or from a node of the chain.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from nexus_auth.adapters.devnet.records import Axon
from nexus_auth.domain.hotkey import Hotkey
from nexus_auth.domain.server import fingerprint_of
from nexus_auth.entrypoints.demo.certificates import public_key_pin, save_self_made
from tests.builders import a_hotkey
from tests.integration.chain.node import running_node
from tests.integration.proxies.stack import PROGRAMS, open_folder
from tests.integration.pylon.running import OPEN_ACCESS_TOKEN, RunningPylon, running_pylon
from tests.integration.real import Process, require_program, wait_until_ready
from tests.integration.tls.answering import Answer, answering
from tests.integration.tls.miner import NEXUS_AUTH, Miner, running_miner

MINER: Final[Hotkey] = a_hotkey("miner")
VALIDATOR: Final[Hotkey] = a_hotkey("validator")
_SECONDS: Final = 60

NOWHERE: Final = "0.0.0.0"  # noqa: S104 - nothing listens there
HELLO: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n"

Done = subprocess.CompletedProcess[bytes]


def text_of(done: Done) -> str:
    """What was said on standard error."""
    said = done.stderr.decode()
    assert "Traceback" not in said
    return said


class Scene:
    """A Pylon, a folder, the validator's pair, and a pair that is registered for the miner."""

    def __init__(self, folder: Path, pylon: RunningPylon) -> None:
        self.folder, self.pylon = folder, pylon
        self.pair = save_self_made(folder / "miner", hotkey=MINER)
        save_self_made(folder / "certs", hotkey=VALIDATOR)
        self.key = self.pair.load().certificate.public_key
        pylon.store.set_certificate(MINER, self.key)
        pylon.store.set_neuron(MINER, axon=Axon(ip="127.0.0.1", port=1))
        self.settings = {
            "NEXUS_PYLON_ENDPOINT": pylon.url,
            "NEXUS_PYLON_NETUID": str(pylon.netuid),
            "NEXUS_PYLON_OPEN_ACCESS_TOKEN": OPEN_ACCESS_TOKEN,
        }

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment of the command."""
        clean = {name: value for name, value in os.environ.items() if "NEXUS" not in name}
        return {**clean, **self.settings, **changes}

    def call(self, *arguments: str, given: bytes = b"", **changes: str) -> Done:
        """Runs the command to its end."""
        return subprocess.run(
            [*NEXUS_AUTH, "call", *arguments],
            env=self.environment(**changes),
            cwd=self.folder,
            input=given,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """What is needed to call a server of the test's own."""
    with running_pylon() as pylon:
        yield Scene(tmp_path, pylon)


def document_of(done: Done) -> dict[str, Any]:
    """What `-json` printed."""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module", params=PROGRAMS)
def miner(request: pytest.FixtureRequest) -> Iterator[Miner]:
    """A miner behind one proxy; each test leaves it as it found it."""
    with open_folder() as folder, running_miner(folder, proxy=request.param) as running:
        yield running


class TestMiner:
    """The whole of it: a real proxy, the service, an application."""

    def call(self, miner: Miner, *arguments: str, **changes: str) -> Done:
        """Runs the command as the validator."""
        return subprocess.run(
            [*NEXUS_AUTH, "call", *arguments],
            env=miner.environment("validator") | changes,
            cwd=miner.directory,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )

    def test_registered_validator_is_answered_at_the_axon(self, miner: Miner) -> None:
        """Address, key and pair are found; standard output has the body, and the rest is silent."""
        done = self.call(miner, str(MINER), "-certs", "validator")
        assert (done.returncode, done.stderr) == (0, b"")
        answer = json.loads(done.stdout)
        assert (answer["method"], answer["path"]) == ("GET", "/")
        assert f"X-Hotkey: {VALIDATOR}".lower() in [line.lower() for line in answer["headers"]]

    def test_path_method_headers_and_data_arrive(self, miner: Miner) -> None:
        """In the words of curl, wherever the flags stand."""
        done = self.call(
            *(miner, "-H", "X-Question: 1", str(MINER), "-certs", "validator"),
            *("-d", "question", "/v1/x?y=1", "-H", "Content-Type: text/plain"),
        )
        answer = json.loads(done.stdout)
        assert (answer["method"], answer["path"]) == ("POST", "/v1/x?y=1")
        headers = {line.lower() for line in answer["headers"]}
        assert {"x-question: 1", "content-type: text/plain", "content-length: 8"} <= headers

    def test_denial_explains_itself(self, miner: Miner) -> None:
        """An answer is an answer; with -f, 403 is a failure without a body."""
        done = self.call(miner, str(MINER), "-no-certificate")
        if not done.stdout:  # some proxies end the connection
            assert done.returncode == 1
            return
        assert done.returncode == 0
        assert text_of(done).startswith("denied, no-certificate: ")
        done = self.call(miner, str(MINER), "-no-certificate", "-f")
        assert (done.returncode, done.stdout) == (1, b"")
        assert "nexus-auth: the server answered 403 Forbidden\n" in text_of(done)

    def test_pair_that_was_replaced_is_denied_with_its_reason(self, miner: Miner) -> None:
        """The reason is that of the service, with its explanation."""
        if not (miner.directory / "old").exists():
            save_self_made(miner.directory / "old", hotkey=VALIDATOR)
        done = self.call(miner, str(MINER), "-certs", "old", "-f")
        assert (done.returncode, done.stdout) == (1, b"")
        assert "denied, key-mismatch: The subnet has another key of this hotkey" in text_of(done)


class TestProof:
    """What is proven before anything is sent, and what is said where it is not."""

    def test_impostor_at_the_right_address_gets_nothing(self, scene: Scene) -> None:
        """Both fingerprints, what to do, and not one byte of the request."""
        other = save_self_made(scene.folder / "other", hotkey=MINER)
        with answering(other, HELLO) as server:
            scene.pylon.store.set_neuron(MINER, axon=server.axon)
            done = scene.call(str(MINER), "/secret", "-d", "secret")
        assert (done.returncode, done.stdout) == (1, b"")
        said = text_of(done)
        assert (
            f"expected the key {fingerprint_of(scene.key)}, found {public_key_pin(other)}" in said
        )
        assert "No part of the request was sent" in said
        assert (server.connections, server.received) == (1, [])

    def test_impostor_is_described_to_scripts(self, scene: Scene) -> None:
        """The document has what was expected and what was found, and no status."""
        other = save_self_made(scene.folder / "other", hotkey=MINER)
        with answering(other, HELLO) as server:
            done = scene.call(str(MINER), f"{server.url}/", "-json")
        document = document_of(done)
        assert done.returncode == 1
        assert document["expected"] == fingerprint_of(scene.key)
        assert document["found"] == public_key_pin(other)
        assert document["status"] is None
        assert "not proven" in document["error"]

    def test_certificate_of_another_hotkey_with_the_right_key_is_refused(
        self, scene: Scene
    ) -> None:
        """A hotkey that registered another's key cannot have its callers served by the other."""
        scene.pylon.store.set_certificate(a_hotkey("mallory"), scene.key)
        with answering(scene.pair, HELLO) as server:
            done = scene.call(str(a_hotkey("mallory")), f"{server.url}/")
        assert done.returncode == 1
        assert f"in a certificate of {MINER}" in text_of(done)
        assert server.received == []

    def test_all_steps_are_shown(self, scene: Scene) -> None:
        """Keys, pair, address, version; the values of our own headers are not among them."""
        with answering(scene.pair, HELLO) as server:
            done = scene.call(str(MINER), f"{server.url}/", "-v", "-H", "Authorization: secret")
        assert (done.returncode, done.stdout) == (0, b"hello\n")
        said, pin = text_of(done), fingerprint_of(scene.key)
        for line in (
            f"hotkey     {MINER}\n",
            f"expected   {pin}, says pylon at {scene.pylon.url}\n",
            f"shown      {VALIDATOR}\n",
            f"connected  127.0.0.1:{server.port}\n",
            f"found      {pin}: the same, TLSv1.3\n",
            "> GET /\n",
            "< 200 OK\n",
        ):
            assert line in said
        assert "secret" not in said
        assert OPEN_ACCESS_TOKEN not in said
        assert b"Authorization: secret\r\n" in server.received[0]

    def test_terminal_is_shown_no_control_characters(self, scene: Scene) -> None:
        """What the server writes into its head is shown with escapes."""
        answer = (
            b"HTTP/1.1 403 \x1b[31m\r\nX-A: \x1b[2J\r\nX-Nexus-Auth-Reason: \x1b[3J\r\n"
            b"Location: \x1b]0;x\x07\r\nContent-Length: 0\r\n\r\n"
        )
        with answering(scene.pair, answer) as server:
            done = scene.call(str(MINER), f"{server.url}/", "-v", "-f")
        assert done.returncode == 1
        assert b"\x1b" not in done.stderr

    def test_proxies_of_the_environment_are_not_used(self, scene: Scene) -> None:
        """The request goes to the server itself, whatever is set."""
        away = "http://127.0.0.1:1"
        with answering(scene.pair, HELLO) as server:
            done = scene.call(
                *(str(MINER), f"{server.url}/"),
                HTTPS_PROXY=away,
                ALL_PROXY=away,
                https_proxy=away,
                SSL_CERT_FILE="/nonexistent",
            )
        assert (done.returncode, done.stdout) == (0, b"hello\n")

    def test_redirect_is_shown_and_not_followed(self, scene: Scene) -> None:
        """The other server is not asked; where it points is said."""
        with answering(scene.pair, HELLO) as other:
            answer = f"HTTP/1.1 307 T\r\nLocation: {other.url}/x\r\nContent-Length: 0\r\n\r\n"
            with answering(scene.pair, answer.encode()) as server:
                done = scene.call(str(MINER), f"{server.url}/", "-d", "x")
        assert done.returncode == 0
        assert text_of(done) == f"a redirect, not followed, to {other.url}/x\n"
        assert other.connections == 0

    def test_server_without_tls_13_is_refused(self, scene: Scene) -> None:
        """Older versions show our certificate before the server has proven anything."""
        with answering(scene.pair, HELLO, highest="TLSv1_2") as server:
            done = scene.call(str(MINER), f"{server.url}/")
        assert done.returncode == 1
        assert f"no TLS with 127.0.0.1:{server.port}: " in text_of(done)
        assert server.received == []


class TestSources:
    """Where keys and axons come from: every API of Pylon, and a node."""

    @pytest.mark.parametrize(
        "settings",
        [
            {"NEXUS_PYLON_OPEN_ACCESS_TOKEN": OPEN_ACCESS_TOKEN},
            {"NEXUS_PYLON_IDENTITY_NAME": "dev", "NEXUS_PYLON_IDENTITY_TOKEN": "token-of-dev"},
            {"NEXUS_PYLON_OPEN_ACCESS_TOKEN": OPEN_ACCESS_TOKEN, "NEXUS_PYLON_NETUID": ""},
        ],
        ids=["open-access", "identity", "first-generation"],
    )
    def test_each_api_of_pylon_gives_key_and_axon(
        self, scene: Scene, settings: dict[str, str]
    ) -> None:
        """The command line is the same."""
        del scene.settings["NEXUS_PYLON_OPEN_ACCESS_TOKEN"]
        with answering(scene.pair, HELLO) as server:
            scene.pylon.store.set_neuron(MINER, axon=server.axon)
            done = scene.call(str(MINER), given=b"", **settings)
        assert (done.returncode, done.stdout) == (0, b"hello\n"), text_of(done)

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_node_of_the_chain_gives_key_and_axon(self, tmp_path: Path, host: str) -> None:
        """No Pylon is needed, and an axon may have an address of IPv6."""
        pair = save_self_made(tmp_path / "miner", hotkey=MINER)
        with running_node() as node, answering(pair, HELLO, host=host) as server:
            node.chain.register(MINER)
            node.chain.publish(MINER, pair.load().certificate.public_key)
            node.chain.serve_axon(MINER, ip=server.host, port=server.port)
            node.advance()
            done = subprocess.run(
                [
                    *(*NEXUS_AUTH, "call", str(MINER), "-no-certificate", "-source", "chain"),
                    *("-chain-endpoint", node.url, "-net-uid", str(node.chain.netuid)),
                ],
                cwd=tmp_path,
                capture_output=True,
                check=False,
                timeout=_SECONDS,
            )
        assert (done.returncode, done.stdout) == (0, b"hello\n"), text_of(done)

    def test_pin_is_that_of_the_registered_key(self, scene: Scene) -> None:
        """No server is asked, no pair is needed; curl takes it as it is printed."""
        curl = require_program("curl", "apt-get install curl")
        done = scene.call("-pin", str(MINER), "-certs", "missing")
        assert (done.returncode, done.stderr) == (0, b"")
        pin = done.stdout.decode().strip()
        assert pin == fingerprint_of(scene.key)
        other = save_self_made(scene.folder / "other", hotkey=MINER)
        for pair, code in ((scene.pair, 0), (other, 90)):  # CURLE_SSL_PINNEDPUBKEYNOTMATCH
            with answering(pair, HELLO) as server:
                options = ("-ksS", "--tlsv1.3", "--noproxy", "*", "--pinnedpubkey", pin)
                asked = subprocess.run(
                    [curl, *options, server.url], capture_output=True, check=False, timeout=_SECONDS
                )
            assert asked.returncode == code, asked.stderr
            assert b"GET" not in b"".join(server.received) or code == 0

    def test_unregistered_hotkey_is_not_called(self, scene: Scene) -> None:
        """Without a key no server can prove anything; that is exit code 1, also for -pin."""
        for arguments in (["https://127.0.0.1:1/"], ["-pin"]):
            done = scene.call(str(a_hotkey("stranger")), *arguments)
            assert (done.returncode, done.stdout) == (1, b"")
            assert f"no key is registered for {a_hotkey('stranger')}" in text_of(done)

    @pytest.mark.parametrize("ip", [NOWHERE, "::"])
    def test_axon_that_leads_nowhere_is_named_with_the_remedy(self, scene: Scene, ip: str) -> None:
        """As validators publish it, whose key is stored with an axon that does not exist."""
        scene.pylon.store.set_neuron(MINER, axon=Axon(ip=ip, port=1))
        done = scene.call(str(MINER), "/x")
        assert done.returncode == 1
        assert f"serves no axon that can be called; give the address: nexus-auth call {MINER} " in (
            text_of(done)
        )

    def test_hotkey_without_an_axon_is_called_at_an_address(self, scene: Scene) -> None:
        """Without one no address is known; with a URL it is not looked up."""
        scene.pylon.store.set_neuron(MINER, axon=Axon(ip=NOWHERE, port=0))
        done = scene.call(str(MINER))
        assert done.returncode == 1
        assert "serves no axon" in text_of(done)
        with answering(scene.pair, HELLO) as server:
            done = scene.call(str(MINER), server.url)
        assert (done.returncode, done.stdout) == (0, b"hello\n")
        assert "neurons" not in scene.pylon.requests[-1].path

    def test_pylon_that_is_away_is_exit_code_3(self, scene: Scene) -> None:
        """The server is not asked: its key is not known."""
        with answering(scene.pair, HELLO) as server:
            scene.pylon.stop()
            done = scene.call(str(MINER), server.url)
        assert (done.returncode, done.stdout) == (3, b"")
        assert server.connections == 0

    def test_pylon_without_neurons_is_exit_code_3_with_the_remedy(self, scene: Scene) -> None:
        """Not every Pylon has them."""
        scene.pylon.fail_with(404, where="neurons")
        done = scene.call(str(MINER))
        assert done.returncode == 3
        assert "call https://HOST:PORT/ where you know the address" in text_of(done)


@pytest.fixture
def never() -> Iterator[int]:
    """A pipe into which nothing is written."""
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


class TestNetwork:
    """Servers that do not answer, or not to the end."""

    def test_ipv6_literal_is_called(self, scene: Scene) -> None:
        """In brackets, in the URL and in the Host header."""
        with answering(scene.pair, HELLO, host="::1") as server:
            done = scene.call(str(MINER), f"https://[::1]:{server.port}/", "-v")
        assert (done.returncode, done.stdout) == (0, b"hello\n")
        assert f"connected  [::1]:{server.port}\n" in text_of(done)
        assert f"\r\nHost: [::1]:{server.port}\r\n".encode() in server.received[0]

    def test_refused_connection_is_exit_code_1(self, scene: Scene) -> None:
        """Nothing listens at the axon."""
        done = scene.call(str(MINER))
        assert (done.returncode, done.stdout) == (1, b"")
        assert text_of(done) == "nexus-auth: no connection with 127.0.0.1:1: Connection refused\n"

    @pytest.mark.parametrize("where", ["handshake", "answer", "body", "stdin"])
    def test_time_limit_ends_the_call_wherever_it_waits(
        self, scene: Scene, never: int, where: str
    ) -> None:
        """A server that says nothing, that stops in the middle, or data that does not come."""
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            answering(scene.pair, _slow(where)) as server,
        ):
            port = silent.getsockname()[1] if where == "handshake" else server.port
            done = subprocess.run(
                [
                    *(*NEXUS_AUTH, "call", str(MINER), f"https://127.0.0.1:{port}/"),
                    *("-max-time", "0.5", *(("-d", "@-") if where == "stdin" else ())),
                ],
                env=scene.environment(),
                cwd=scene.folder,
                stdin=never,
                capture_output=True,
                check=False,
                timeout=_SECONDS,
            )
        assert done.returncode == 1
        assert text_of(done) == "nexus-auth: not done within 0.5 s (-max-time)\n"
        assert b"begin".startswith(done.stdout)

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "broke off after 5 bytes"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "broke off"),
            (b"", "no answer from 127.0.0.1:"),
            (b"\x1b[2J\r\n\r\n", "no answer from 127.0.0.1:"),
            (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 30_000 + b"\r\n", "no answer from 127.0.0.1:"),
        ],
        ids=["short", "no-last-chunk", "nothing", "nonsense", "endless-head"],
    )
    def test_answer_that_is_none_is_exit_code_1(
        self, scene: Scene, answer: bytes, said: str
    ) -> None:
        """What came of a body is written; a script sees that it is not all."""
        with answering(scene.pair, answer) as server:
            done = scene.call(str(MINER), server.url)
        assert done.returncode == 1
        assert said in text_of(done)
        assert b"\x1b" not in done.stderr

    @pytest.mark.parametrize("says_so", [True, False], ids=["by-the-server", "by-another"])
    def test_end_of_the_connection_is_the_end_of_a_body_where_the_server_says_so(
        self, scene: Scene, *, says_so: bool
    ) -> None:
        """A body without a length cannot be shortened by cutting the connection."""

        def answer(connection: Any) -> None:
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")
            if not says_so:
                raise ConnectionAbortedError

        with answering(scene.pair, answer) as server:
            done = scene.call(str(MINER), server.url)
        assert (done.returncode, done.stdout) == (0 if says_so else 1, b"hello")
        assert ("the answer broke off after 5 bytes" in text_of(done)) is not says_so


def _slow(where: str) -> Answer:
    def answer(connection: Any) -> None:
        if where == "body":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegin")
        connection.recv(1)  # until the client has had enough

    return answer


class TestBodies:
    """What is sent and what comes back, at any size."""

    def test_big_body_is_streamed(self, scene: Scene) -> None:
        """Byte for byte, and not kept in memory: 300 MiB in less than half of that."""
        piece, pieces = os.urandom(1024 * 1024), 300

        def answer(connection: Any) -> None:
            length = len(piece) * pieces
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
            for _ in range(pieces):
                connection.sendall(piece)

        received = hashlib.sha256()
        with (
            answering(scene.pair, answer) as server,
            subprocess.Popen(
                [*NEXUS_AUTH, "call", str(MINER), server.url],
                env=scene.environment(),
                cwd=scene.folder,
                stdout=subprocess.PIPE,
            ) as process,
        ):
            assert process.stdout is not None
            # Not what wait4 says: that counts the memory of the tests, from which it was started.
            most_kib = 0
            while read := process.stdout.read(len(piece)):
                received.update(read)
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                most_kib = max(most_kib, *map(int, re.findall(r"VmHWM:\s*(\d+)", status)), 0)
            assert process.wait(_SECONDS) == 0
        assert received.digest() == hashlib.sha256(piece * pieces).digest()
        assert 0 < most_kib < 150 * 1024

    def test_data_of_standard_input_is_sent_as_it_is(self, scene: Scene) -> None:
        """With its length, line breaks and zeros included."""
        with answering(scene.pair, HELLO) as server:
            done = scene.call(str(MINER), server.url, "-d", "@-", given=b"a\r\n\0b\n")
        assert done.returncode == 0
        head, _, body = server.received[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST / HTTP/1.1\r\n")
        assert b"Content-Length: 6" in head
        assert body == b"a\r\n\0b\n"

    def test_much_data_is_streamed(self, scene: Scene) -> None:
        """A file has a length; what comes through a pipe goes in chunks."""
        data = os.urandom(5_000_000)
        (scene.folder / "data").write_bytes(data)
        with answering(scene.pair, HELLO) as server:
            assert scene.call(str(MINER), server.url, "-d", "@data").returncode == 0
            assert scene.call(str(MINER), server.url, "-d", "@-", given=data).returncode == 0
        head, _, body = server.received[0].partition(b"\r\n\r\n")
        assert b"Content-Length: 5000000" in head
        assert body == data
        assert b"Transfer-Encoding: chunked" in server.received[1].partition(b"\r\n\r\n")[0]
        assert data[:65536] in server.received[1].replace(b"\r\n10000\r\n", b"")

    def test_missing_data_is_said_before_the_server_is_asked(self, scene: Scene) -> None:
        """Exit code 1 and the file's name."""
        with answering(scene.pair, HELLO) as server:
            done = scene.call(str(MINER), server.url, "-d", "@missing")
        assert done.returncode == 1
        assert text_of(done) == "nexus-auth: cannot read 'missing': No such file or directory\n"
        assert server.connections == 0

    def test_compressed_body_is_written_as_it_came(self, scene: Scene) -> None:
        """None is asked for; what comes is not changed."""
        body = b"\x1f\x8b\0\xff"
        answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n" + body
        with answering(scene.pair, answer) as server:
            done = scene.call(str(MINER), server.url)
        assert (done.returncode, done.stdout) == (0, body)
        assert b"accept-encoding" not in server.received[0].lower()

    def test_head_is_written_as_it_came(self, scene: Scene) -> None:
        """Before the body, to the same place."""
        with answering(scene.pair, HELLO) as server:
            done = scene.call(str(MINER), server.url, "-i", "-o", "answer")
        assert (done.returncode, done.stdout) == (0, b"")
        assert (scene.folder / "answer").read_bytes() == HELLO

    def test_file_is_replaced_only_by_an_answer(self, scene: Scene) -> None:
        """A call that fails leaves what was there, and makes no empty file."""
        (scene.folder / "old").write_bytes(b"what was there before")
        other = save_self_made(scene.folder / "other", hotkey=MINER)
        with answering(other, HELLO) as server:
            for name in ("old", "new"):
                assert scene.call(str(MINER), server.url, "-o", name).returncode == 1
        assert (scene.folder / "old").read_bytes() == b"what was there before"
        assert not (scene.folder / "new").exists()
        with answering(scene.pair, HELLO) as server:
            assert scene.call(str(MINER), server.url, "-o", "old").returncode == 0
        assert (scene.folder / "old").read_bytes() == b"hello\n"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_full_disk_is_exit_code_1(self, scene: Scene) -> None:
        """Under the file and under standard output."""
        with answering(scene.pair, HELLO) as server:
            done = scene.call(str(MINER), server.url, "-o", "/dev/full")
            assert done.returncode == 1
            assert "cannot write '/dev/full': No space left on device" in text_of(done)
            with Path("/dev/full").open("wb") as full:
                done = subprocess.run(
                    [*NEXUS_AUTH, "call", str(MINER), server.url],
                    env=scene.environment(),
                    cwd=scene.folder,
                    stdout=full,
                    stderr=subprocess.PIPE,
                    check=False,
                    timeout=_SECONDS,
                )
        assert done.returncode == 1
        assert text_of(done) == "nexus-auth: cannot write: No space left on device\n"

    def test_file_that_cannot_be_opened_is_said_before_the_server_is_asked(
        self, scene: Scene
    ) -> None:
        """Not after a request that may have changed something."""
        with answering(scene.pair, HELLO) as server:
            done = scene.call(str(MINER), server.url, "-o", "missing/answer")
        assert done.returncode == 1
        assert "cannot write 'missing/answer': No such file or directory" in text_of(done)
        assert server.connections == 0


class TestEnding:
    """Signals, and readers that go away."""

    def test_reader_that_goes_away_is_no_error_message(self, scene: Scene) -> None:
        """As in `nexus-auth call ... | head -1`."""

        def answer(connection: Any) -> None:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
            while True:
                connection.sendall(b"line\n" * 10_000)

        with (
            answering(scene.pair, answer) as server,
            subprocess.Popen(
                [*NEXUS_AUTH, "call", str(MINER), server.url],
                env=scene.environment(),
                cwd=scene.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process,
        ):
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(_SECONDS) == 1

    @pytest.mark.parametrize(
        ("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
    )
    def test_signal_ends_it_at_once(self, scene: Scene, which: signal.Signals, code: int) -> None:
        """While an answer is waited for, without a traceback."""
        with answering(scene.pair, _slow("answer")) as server:
            process = Process(
                [*NEXUS_AUTH, "call", str(MINER), server.url],
                log_file=scene.folder / "log",
                environment=scene.environment(),
                directory=scene.folder,
            )
            with process:
                wait_until_ready(
                    lambda: b"\r\n\r\n" in b"".join(server.received), what="call", process=process
                )
                process.send_signal(which)
                assert process.wait() == code
        assert process.output == ""


def test_missing_pair_is_wrong_usage_with_the_remedy(scene: Scene) -> None:
    """Before anything is asked."""
    done = scene.call(str(MINER), "-certs", "missing")
    assert done.returncode == 2
    said = text_of(done)
    assert "there is no 'missing/client.crt'" in said
    assert "nexus-auth generate makes a pair" in said
    assert "-no-certificate" in said
    assert scene.pylon.requests == []


def test_pair_that_is_none_is_refused_before_anything_is_asked(scene: Scene) -> None:
    """Halves that do not belong together; the private key is not shown."""
    key = scene.folder / "certs" / "client.key"
    key.write_bytes((scene.folder / "miner" / "client.key").read_bytes())
    done = scene.call(str(MINER))
    assert done.returncode == 1
    assert "PRIVATE" not in text_of(done)
    assert scene.pylon.requests == []


def test_key_that_cannot_be_used_is_exit_code_3(scene: Scene) -> None:
    """A key of small order on chain is the chain's nonsense, and proves no server."""
    with answering(scene.pair, HELLO) as server:
        scene.pylon.store.set_certificate(MINER, b"\x01" + bytes(31))
        done = scene.call(str(MINER), server.url)
    assert done.returncode == 3
    assert server.connections == 0
