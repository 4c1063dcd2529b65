"""The examples for callers, started as they say, against a miner and an impostor."""

from __future__ import annotations

import asyncio
import http.server
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests

from examples.call_with_requests import session_for
from nexus_auth.domain.errors import ServerKeyMismatch, ServerNotProven
from nexus_auth.domain.server import fingerprint_of
from tests.builders import a_key, public_bytes
from tests.integration.pylon.running import RunningPylon, running_pylon
from tests.integration.real import require_program
from tests.integration.tls.recording import ANSWER, RecordingServer
from tests.tls_pairs import (
    CALLER,
    MINER,
    is_client_hello_alone,
    pinned_context,
    server_context,
    write_pair,
)

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
MINERS_KEY = public_bytes(a_key("miner"))


@pytest.fixture(scope="module")
def pylon() -> Iterator[RunningPylon]:
    """A Pylon that knows the miner."""
    with running_pylon() as running:
        running.store.set_certificate(MINER, MINERS_KEY)
        yield running


def run(
    command: list[str | Path], folder: Path, pylon: RunningPylon
) -> subprocess.CompletedProcess[str]:
    """Runs an example in a folder with the caller's pair, in a hostile environment."""
    write_pair(folder / "certs", "caller")
    return subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "NEXUS_PYLON_ENDPOINT": pylon.url,
            "NEXUS_PYLON_NETUID": str(pylon.netuid),
            "NEXUS_PYLON_OPEN_ACCESS_TOKEN": pylon.open_access_token,
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("name", ["call_with_aiohttp.py", "call_with_requests.py"])
def test_example_reaches_the_miner_alone(name: str, pylon: RunningPylon, tmp_path: Path) -> None:
    """The miner answers; an impostor gets a ClientHello, and the program says why."""
    command: list[str | Path] = [sys.executable, EXAMPLES / name, MINER.address]
    with RecordingServer(server_context(tmp_path)) as miner:
        finished = run([*command, f"https://127.0.0.1:{miner.port}/"], tmp_path, pylon)
        record = miner.connection()
    assert (finished.returncode, finished.stdout) == (0, "200 well\n"), finished.stderr
    assert record.caller == CALLER.address

    with RecordingServer(server_context(tmp_path, key=a_key("impostor"))) as impostor:
        finished = run([*command, f"https://127.0.0.1:{impostor.port}/"], tmp_path, pylon)
        record = impostor.connection()
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr == (
        f"the server is not proven to be {MINER}: expected the key {fingerprint_of(MINERS_KEY)}, "
        f"found {fingerprint_of(public_bytes(a_key('impostor')))}\n"
    )
    assert is_client_hello_alone(record.raw)
    assert record.gained_nothing


def test_curl_example_sends_an_impostor_no_request(pylon: RunningPylon, tmp_path: Path) -> None:
    """It accepts our fingerprint; the impostor sees who called, as the example says."""
    require_program("curl", "apt-get install curl")
    require_program("xxd", "apt-get install xxd")
    command: list[str | Path] = ["sh", EXAMPLES / "call_with_curl.sh", MINERS_KEY.hex()]
    with RecordingServer(server_context(tmp_path)) as miner:
        finished = run([*command, f"https://127.0.0.1:{miner.port}/"], tmp_path, pylon)
        assert miner.connection().caller == CALLER.address
    assert (finished.returncode, finished.stdout) == (0, "well"), finished.stderr

    with RecordingServer(server_context(tmp_path, key=a_key("impostor"))) as impostor:
        finished = run([*command, f"https://127.0.0.1:{impostor.port}/"], tmp_path, pylon)
        record = impostor.connection()
    assert finished.returncode == 90, finished.stderr
    assert record.plaintext == b""
    # What curl gives away before it checks. Ours does not: see above.
    assert record.completed
    assert record.caller == CALLER.address


@pytest.mark.parametrize("key", ["miner", "impostor"])
def test_curl_accepts_the_fingerprints_of_our_errors(tmp_path: Path, key: str) -> None:
    """`expected` and `found` can be copied from an error into a command."""
    curl = require_program("curl", "apt-get install curl")
    pin = fingerprint_of(public_bytes(a_key(key)))
    with RecordingServer(server_context(tmp_path)) as miner:
        finished = subprocess.run(
            [
                *(curl, "--disable", "--silent", "--insecure", "--noproxy", "*"),
                *("--pinnedpubkey", pin, f"https://127.0.0.1:{miner.port}/"),
            ],
            capture_output=True,
            timeout=30,
            check=False,
        )
    assert finished.returncode == (0 if key == "miner" else 90)


class _Redirecting(RecordingServer):
    """Sends each request to another place."""

    def __init__(self, context: ssl.SSLContext, target: str) -> None:
        super().__init__(context)
        self.answer = (
            f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n"
            "Connection: close\r\n\r\n"
        ).encode()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[requests.Session]:
    """A session of the example, for the miner."""
    with session_for(pinned_context(write_pair(tmp_path / "caller", "caller"))) as made:
        yield made


@contextmanager
def _plain_server() -> Iterator[tuple[int, list[str]]]:
    """An HTTP server without TLS, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_CONNECT = do_GET  # noqa: N815 - the parent's way of naming

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


def test_requests_follows_no_redirect_to_another_server(
    session: requests.Session, tmp_path: Path
) -> None:
    """The other server does not hold the key: it gets a ClientHello."""
    with RecordingServer(server_context(tmp_path, key=a_key("other"))) as other:
        target = f"https://127.0.0.1:{other.port}/"
        with _Redirecting(server_context(tmp_path), target) as miner:
            with pytest.raises(requests.ConnectionError) as refused:
                session.get(f"https://127.0.0.1:{miner.port}/", timeout=20)
            assert miner.connection().completed
        assert is_client_hello_alone(other.connection().raw)
    assert isinstance(ServerNotProven.find(refused.value), ServerKeyMismatch)


def test_requests_follows_no_redirect_out_of_tls(session: requests.Session, tmp_path: Path) -> None:
    """Not even to the same address."""
    with (
        _plain_server() as (port, asked),
        _Redirecting(server_context(tmp_path), f"http://127.0.0.1:{port}/") as miner,
    ):
        with pytest.raises(requests.exceptions.InvalidSchema):
            session.get(f"https://127.0.0.1:{miner.port}/", timeout=20)
        assert miner.connection().completed
    assert asked == []


def test_requests_goes_through_no_proxy(
    session: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the environment is not asked, one that is named is an error."""
    with _plain_server() as (port, asked), RecordingServer(server_context(tmp_path)) as miner:
        url = f"https://127.0.0.1:{miner.port}/"
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        assert session.get(url, timeout=20).text == "well"
        with pytest.raises(requests.exceptions.ProxyError, match="through a proxy"):
            session.get(url, timeout=20, proxies={"https": f"http://127.0.0.1:{port}"})
    assert asked == []
    assert len(miner.connections) == 1


def test_requests_sends_no_password_of_the_user(
    session: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither from `.netrc`, nor authorities from the environment."""
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login alice password secret\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nothing"))
    with RecordingServer(server_context(tmp_path)) as miner:
        session.get(f"https://127.0.0.1:{miner.port}/", timeout=20)
        assert b"Authorization" not in miner.connection().plaintext


def test_plain_requests_does_not_do(tmp_path: Path) -> None:
    """It takes no context: with the miner's certificate as authority, names and dates count."""
    write_pair(tmp_path / "caller", "caller")
    write_pair(tmp_path / "miner", "miner")
    with RecordingServer(server_context(tmp_path)) as miner, requests.Session() as session:
        session.trust_env = False
        with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            session.get(f"https://127.0.0.1:{miner.port}/", timeout=20)
        with pytest.raises(requests.exceptions.SSLError, match="IP address mismatch"):
            session.get(
                f"https://127.0.0.1:{miner.port}/",
                timeout=20,
                verify=str(tmp_path / "miner" / "client.crt"),
            )


def test_aiohttp_shares_no_connection_between_hotkeys(tmp_path: Path) -> None:
    """A context a hotkey: the second one is not served over the first one's connection."""
    folder = write_pair(tmp_path / "caller", "caller")

    async def call(url: str) -> BaseException:
        async with aiohttp.ClientSession() as session:
            for _ in range(2):
                async with session.get(url, ssl=pinned_context(folder)) as answer:
                    await answer.read()
            with pytest.raises(aiohttp.ClientConnectorCertificateError) as refused:
                await session.get(url, ssl=pinned_context(folder, lambda: None))
            return refused.value

    with _KeepingOpen(server_context(tmp_path)) as miner:
        error = asyncio.run(call(f"https://127.0.0.1:{miner.port}/"))
        assert len(miner.connections) == 3
    assert ServerNotProven.find(error) is not None


class _KeepingOpen(RecordingServer):
    """Offers to serve another request on the same connection."""

    answer = ANSWER.replace(b"Connection: close\r\n", b"")
